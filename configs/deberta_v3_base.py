"""DeBERTa-v3-base: disentangled attention and replaced-token detection with gradient-disentangled embeddings.

Paper: He et al. 2021, arXiv:2111.09543. Attention compares contents with distances in 256 buckets to either side. The
generator has the encoder's width and half its layers. The discriminator's token table is the generator's, without a
gradient, plus a trained difference. The settings are those of the paper's comparison on Wikipedia and books: 125k steps
of 2,048 rows of 512 tokens, learning rate 5e-4 with 10k steps of warmup. The published model was trained longer, on
160 GB of text. 184M parameters with the vocabulary of 128,100, and 142M in the generator.

Cost: 125k steps x 2,048 rows x 512 tokens = 131B tokens, 1.4e20 FLOPs: 12 hours on 8 H100 at 40% of their peak.
Expected: the paper reports MNLI 90.6 (dev, matched) for the published model.

Run: jaxencoder train deberta_v3_base --data.train gs://BUCKET/text/*.jsonl.zst --tokenizer.path PATH/TO/spm.model \\
         --mesh.fsdp 8 --training.accumulation 4

Status: the model is checked against the reference implementation, and the objective against the paper's equations. The
complete run has not been done: the expected score is the paper's, not ours. The generator's second decoder, which sees
absolute positions in the paper, is omitted.
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
            num_layers=12,
            hidden_size=768,
            mlp_size=3072,
            num_heads=12,
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
