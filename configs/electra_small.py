"""ELECTRA-small: a small encoder with a loss on every token, which detects tokens that a generator has replaced.

Paper: Clark et al. 2020, arXiv:2003.10555, table 6: 12 layers of 256, embeddings of 128, a generator of a quarter of
the width, learning rate 5e-4 with 10k steps of warmup, dropout 0.1, rows of 128 tokens in batches of 128, 1M steps,
weight 50 for the discriminator's loss. 13.5M parameters, and 0.6M in the generator.

Cost: 1M steps x 128 rows x 128 tokens = 16B tokens, 1.2e18 FLOPs: four days on one V100 in the paper, an hour
on one H100 at 40% of its peak.
Expected: the paper reports GLUE (dev) 79.9; trained on OpenWebText, dev CoLA 56.8, SST-2 88.3, MRPC 87.4, RTE 68.5.

Run: jaxencoder train electra_small --data.train "corpus/*.jsonl.zst" --run-dir runs/electra
     jaxencoder embed runs/electra --input texts.jsonl --output vectors.parquet     # the discriminator
     jaxencoder fill-mask runs/electra "The capital of France is [MASK]."           # the generator

Status: loss and gradients are checked against the paper's equations in torch. The complete run has not been done: the
expected scores are the paper's, not ours. docs/studies/objectives.md compares it with masked language modeling at a
small scale.
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
        model=EncoderConfig(
            num_layers=12, hidden_size=256, mlp_size=1024, num_heads=4, embedding_size=128, max_length=512
        ),
        compute=ComputeConfig(dtype="bfloat16"),
        objective=ReplacedToken(generator_width=0.25, weight=50.0, sharing="shared"),
        tokenizer=TokenizerConfig(kind="wordpiece", vocab_size=30_522, lowercase=True),
        data=DataConfig(train=("tfds:wikipedia/20230601.en:train",), validation_fraction=0.001, row_length=128),
        optimizer=OptimizerConfig(learning_rate=5e-4, b2=0.999, eps=1e-6, weight_decay=0.01, warmup_ratio=0.01),
        training=TrainingConfig(
            steps=1_000_000, batch_size=128, log_every=50, eval_every=10_000, eval_batches=64, checkpoint_every=10_000
        ),
    )
