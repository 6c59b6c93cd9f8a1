"""RoBERTa-base: BERT-base trained longer, on larger batches of full rows, without sentence pairs.

Paper: Liu et al. 2019, arXiv:1907.11692, tables 9 and 3: 500k steps of 8,192 rows of 512 tokens, learning rate 6e-4
with 24k steps of warmup, b2 0.98, weight decay 0.01, dropout 0.1, masks drawn anew, cased byte-level BPE of 50k.
125M parameters.

Cost: 500k steps x 8,192 rows x 512 tokens = 2.1T tokens, 1.3e21 FLOPs: five days on 8 H100 at 40% of their peak. The
paper's table 4 has most of the gain after 100k steps.
Expected: the paper reports MNLI 87.6, SST-2 94.8 (dev).

Run: jaxencoder train roberta_base --data.train gs://BUCKET/text/*.jsonl.zst --mesh.fsdp 8 --training.accumulation 8

Status: the model is checked against the reference implementation, and the recipe takes its first steps on a CPU. The
complete run has not been done: the expected scores are the paper's, not ours.
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
        model=EncoderConfig(token_types=1, norm_epsilon=1e-5),
        compute=ComputeConfig(dtype="bfloat16"),
        objective=MaskedLM(),
        tokenizer=TokenizerConfig(kind="bpe", vocab_size=50_265, lowercase=False),
        data=DataConfig(train=("tfds:wikipedia/20230601.en:train",), validation_fraction=0.001, row_length=512),
        optimizer=OptimizerConfig(
            learning_rate=6e-4, b2=0.98, eps=1e-6, weight_decay=0.01, clip_norm=0.0, warmup_ratio=0.048
        ),
        training=TrainingConfig(
            steps=500_000, batch_size=8192, log_every=50, eval_every=5_000, eval_batches=8, checkpoint_every=5_000
        ),
    )
