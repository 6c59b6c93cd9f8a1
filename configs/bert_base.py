"""BERT-base as published: masked words and next sentences, on rows of 128 tokens and then of 512.

Paper: Devlin et al. 2019, arXiv:1810.04805: a million steps of 256 rows, 90% of them on short rows, Adam with a linear
schedule (A.2). Two differences: sentence pairs are packed into rows, and masks are drawn anew in every epoch
(--objective.masking.static gives the fixed masks of BERT's prepared data). 110M parameters with a vocabulary of 30,522.

Next-sentence prediction hardly helped later models (Liu et al. 2019, RoBERTa). `roberta_base` omits it, as do
--data.pairs none --objective.no-pairs here.

Cost: 900k steps x 256 rows x 128 tokens + 100k steps x 256 rows x 512 tokens = 43B tokens, 2.4e19 FLOPs of training: 7
hours on 8 A100 at 40% of their peak.
Expected: BERT-base itself reports GLUE (test) 79.6.

Held-out rows have 512 tokens from the start. Their loss drops again when the second phase trains the positions that
short rows do not reach.

Run: jaxencoder train bert_base --data.train gs://BUCKET/text/*.jsonl.zst --tokenizer.path PATH/TO/vocab.txt
     Several devices: --mesh.fsdp 8. Less memory: --phases.1.accumulation 4 or --compute.remat dots

Status: the model is checked against the reference implementation, and the recipe takes its first steps on a CPU. The
complete run has not been done: the expected score is the paper's, not ours.
"""

from jaxencoder.config import (
    ComputeConfig,
    DataConfig,
    EncoderConfig,
    MaskedLM,
    OptimizerConfig,
    Phase,
    RunConfig,
    TokenizerConfig,
    TrainingConfig,
)


def get_config() -> RunConfig:
    return RunConfig(
        model=EncoderConfig(),  # the defaults are BERT-base
        compute=ComputeConfig(dtype="bfloat16"),
        objective=MaskedLM(pairs=True),
        tokenizer=TokenizerConfig(kind="wordpiece", vocab_size=30522, lowercase=True),
        data=DataConfig(
            train=("tfds:wikipedia/20230601.en:train",), pairs="nsp", validation_fraction=0.001, row_length=512
        ),
        optimizer=OptimizerConfig(
            learning_rate=1e-4, b2=0.999, eps=1e-6, weight_decay=0.01, warmup_ratio=0.01, schedule="linear"
        ),
        training=TrainingConfig(
            batch_size=256, log_every=100, eval_every=10_000, eval_batches=64, checkpoint_every=10_000
        ),
        phases=(Phase(steps=900_000, row_length=128), Phase(steps=100_000)),
    )
