"""ELECTRA-base: BERT-base's encoder, trained to detect tokens that a generator of a third its width has replaced.

Paper: Clark et al. 2020, arXiv:2003.10555, table 6: 766k steps of 256 rows of 512 tokens, learning rate 2e-4 with 10k
steps of warmup, dropout 0.1, weight 50 for the discriminator's loss. 109M parameters, and 10M in the generator.

Cost: 766k steps x 256 rows x 512 tokens = 100B tokens, 6.7e19 FLOPs, a twentieth of RoBERTa's: 6 hours on 8 H100 at
40% of their peak.
Expected: the paper reports GLUE (dev) 85.1.

Run: jaxencoder train electra_base --data.train gs://BUCKET/text/*.jsonl.zst --mesh.fsdp 8

Status: loss and gradients are checked against the paper's equations in torch. The complete run has not been done: the
expected score is the paper's, not ours.
"""

from jaxencoder.config import (
    ComputeConfig,
    DataConfig,
    EncoderConfig,
    OptimizerConfig,
    ReplacedToken,
    RunConfig,
    TokenizerConfig,
    TrainingConfig,
)


def get_config() -> RunConfig:
    return RunConfig(
        model=EncoderConfig(),  # the defaults are BERT-base
        compute=ComputeConfig(dtype="bfloat16"),
        objective=ReplacedToken(generator_width=1 / 3, weight=50.0, sharing="shared"),
        tokenizer=TokenizerConfig(kind="wordpiece", vocab_size=30_522, lowercase=True),
        data=DataConfig(train=("tfds:wikipedia/20230601.en:train",), validation_fraction=0.001, row_length=512),
        optimizer=OptimizerConfig(learning_rate=2e-4, b2=0.999, eps=1e-6, weight_decay=0.01, warmup_ratio=0.013),
        training=TrainingConfig(
            steps=766_000, batch_size=256, log_every=50, eval_every=5_000, eval_batches=64, checkpoint_every=5_000
        ),
    )
