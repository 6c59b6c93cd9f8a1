"""ModernBERT-base in its three stages: rows of 1,024 tokens, the extension to 8,192, and the decay.

Paper: Warner et al. 2024, arXiv:2412.13663. Rotary positions, GeGLU, pre-norm, no biases, global attention in every
third layer and 64 tokens to either side in the others; StableAdamW, 30% masked. 149M parameters.

The settings are the paper's (section 2.2) and those of its published configurations, in steps instead of tokens:
    1,024 tokens  1,719B  batch from 768 to 4,608 rows over the first 50B, 8e-4 after a warmup of 3B
    8,192 tokens    250B  576 rows, 3e-4, rotary theta 160,000 instead of 10,000 in global layers
    8,192 tokens     50B  the same, while the learning rate falls as 1 - sqrt
Differences: the batch grows in 5 sizes, where the paper's grows by one row per device at a time; the optimizer's
moments are kept between phases; weights start from one normal distribution, not Megatron's; there is no dropout after
the attention (0.1 in the paper). The paper's third stage uses a better mixture: give it with --phases.7.train.

Cost: 438,500 steps, 2.0T tokens, 1.8e21 FLOPs of training: 21 days on 8 A100 at 40% of their peak.
Expected: the paper reports GLUE (dev) 88.4.

Held-out rows have 1,024 tokens in all stages: they show the cost of the extension on short texts, not its gain on long
ones.

Run: jaxencoder train modernbert_base --data.train gs://BUCKET/text/*.jsonl.zst --tokenizer.path PATH/TO/tokenizer.json
     TPU slice: --mesh.fsdp 16. Less memory: --compute.remat dots

Status: the model is checked against the reference implementation, and the recipe takes its first steps on a CPU. The
complete run has not been done: the expected score is the paper's, not ours. Wikipedia,
the default data, is far too small.
"""

from jaxencoder.config import (
    ComputeConfig,
    DataConfig,
    EncoderConfig,
    MaskedLM,
    Masking,
    OptimizerConfig,
    Phase,
    RunConfig,
    TokenizerConfig,
    TrainingConfig,
    batch_warmup,
)


def get_config() -> RunConfig:
    warmup, stable, extension, decay = 21_200, 353_700, 53_000, 10_600
    short = {"row_length": 1024, "rope_theta": 10_000.0}
    long = {"row_length": 8192, "batch_size": 576, "learning_rate": 3e-4}
    return RunConfig(
        model=EncoderConfig(
            num_layers=22,
            hidden_size=768,
            mlp_size=1152,
            num_heads=12,
            max_length=8192,
            positions="rotary",
            rope_theta=160_000.0,
            rope_theta_local=10_000.0,
            windows=(0, 64, 64),
            token_types=0,
            norm_placement="pre",
            norm_epsilon=1e-5,
            first_attention_norm=False,
            attention_bias=False,
            mlp_bias=False,
            norm_bias=False,
            head_bias=False,
            gated_mlp=True,
            dropout=0.0,
            attention_dropout=0.0,
        ),
        compute=ComputeConfig(dtype="bfloat16"),
        objective=MaskedLM(Masking(rate=0.3)),
        tokenizer=TokenizerConfig(kind="bpe", vocab_size=50_368, lowercase=False),
        data=DataConfig(train=("tfds:wikipedia/20230601.en:train",), validation_fraction=0.001, row_length=1024),
        optimizer=OptimizerConfig(
            name="stable_adamw",
            learning_rate=8e-4,
            b2=0.98,
            eps=1e-6,
            weight_decay=1e-5,
            clip_norm=0.0,
            schedule="wsd",
            warmup_ratio=0.0087,  # 3,815 steps, 3B tokens
            decay_ratio=decay / (warmup + stable + extension + decay),
            final_lr_ratio=0.001,
        ),
        training=TrainingConfig(
            batch_size=576, log_every=50, eval_every=4_000, eval_batches=16, checkpoint_every=4_000
        ),
        phases=(
            *batch_warmup(768, 4608, parts=5, steps=warmup, **short),
            Phase(steps=stable, batch_size=4608, **short),
            Phase(steps=extension, **long),
            Phase(steps=decay, **long),
        ),
    )
