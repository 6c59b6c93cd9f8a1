"""BERT-base, pretrained by masked language modelling alone, on packed rows of 512 tokens.

Paper: Devlin et al. 2019, arXiv:1810.04805, with RoBERTa's changes (Liu et al. 2019, arXiv:1907.11692): no
next-sentence prediction, dynamic masking, full-length rows throughout. 110M parameters with a vocabulary of 30,522.

Cost: 250k steps x 256 rows x 512 tokens = 33B tokens, 2e19 FLOPs of training: 6 hours on 8 A100 at 40% of their peak.
Expected: BERT-base itself reports GLUE (test) 79.6, after 137B tokens.

Run: jaxencoder train bert_base --data.train gs://BUCKET/text/*.jsonl.zst --tokenizer.path PATH/TO/vocab.txt
     On a slice of devices: --mesh.fsdp 8; where memory is short: --training.accumulation 4 or --compute.remat dots

Status: the model is checked against the reference implementation and the recipe takes its first steps on a CPU; the
whole run has not been done, so the expected score is the paper's, not ours.
"""

from jaxencoder.config import (
    ComputeConfig,
    DataConfig,
    EncoderConfig,
    MaskedLM,
    OptimizerConfig,
    RunConfig,
    TokenizerConfig,
    TrainingConfig,
)


def get_config() -> RunConfig:
    return RunConfig(
        model=EncoderConfig(),  # the defaults are BERT-base
        compute=ComputeConfig(dtype="bfloat16"),
        objective=MaskedLM(),
        tokenizer=TokenizerConfig(kind="wordpiece", vocab_size=30522, lowercase=True),
        data=DataConfig(train=("tfds:wikipedia/20230601.en:train",), validation_share=0.001, row_length=512),
        optimizer=OptimizerConfig(
            learning_rate=5e-4, b2=0.98, eps=1e-6, weight_decay=0.01, warmup_share=0.04, schedule="linear"
        ),
        training=TrainingConfig(
            steps=250_000, batch_size=256, log_every=50, eval_every=5_000, eval_batches=64, checkpoint_every=5_000
        ),
    )
