"""DeBERTa-v3-small: DeBERTa-v3-base with 6 layers, and a generator of 3.

Paper: He et al. 2021, arXiv:2111.09543; `deberta_v3_base` describes the method. 141M parameters, of which 98M are the
token table of the vocabulary of 128,100.

Cost: 125k steps x 2,048 rows x 512 tokens = 131B tokens, 7.3e19 FLOPs: 7 hours on 8 H100 at 40% of their peak.
Expected: the published model has MNLI 88.2 (dev, matched), after more text.

Run: jaxencoder train deberta_v3_small --data.train gs://BUCKET/text/*.jsonl.zst --tokenizer.path PATH/TO/spm.model \\
         --mesh.fsdp 8 --training.accumulation 4

Status: as `deberta_v3_base`: checked, not run to the end.
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
            num_layers=6,
            max_length=512,
            positions="none",
            disentangled=("c2p", "p2c"),
            position_buckets=256,
            max_distance=512,
            relative_embedding_norm=True,
            relative_projection="shared",
            token_types=0,
            norm_epsilon=1e-7,
        ),
        compute=ComputeConfig(dtype="bfloat16"),
        objective=ReplacedToken(generator_width=1.0, generator_depth=0.5, weight=50.0, sharing="gdes"),
        tokenizer=TokenizerConfig(kind="sentencepiece-unigram", vocab_size=128_100, lowercase=False),
        data=DataConfig(train=("tfds:wikipedia/20230601.en:train",), validation_fraction=0.001, row_length=512),
        optimizer=OptimizerConfig(learning_rate=5e-4, b2=0.98, eps=1e-6, weight_decay=0.01, warmup_ratio=0.08),
        training=TrainingConfig(
            steps=125_000, batch_size=2048, log_every=50, eval_every=2_500, eval_batches=16, checkpoint_every=2_500
        ),
    )
