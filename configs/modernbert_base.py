"""ModernBERT-base, first phase: packed rows of 1,024 tokens, 30% masked.

Paper: Warner et al. 2024, arXiv:2412.13663. Rotary positions, GeGLU, pre-norm, no biases, global attention in every
third layer and 64 tokens to either side in between; StableAdamW with a WSD schedule whose decay is 1 - sqrt. 149M
parameters.

Cost: the paper's first phase is 1.7T tokens. As written here: 100k steps x 1,024 rows x 1,024 tokens = 105B tokens,
1e20 FLOPs: a day and a half on 8 A100 at 40% of their peak.
Expected: the paper reports GLUE (dev) 88.4 after 2T tokens.

Run: jaxencoder train modernbert_base --data.train gs://BUCKET/text/*.jsonl.zst --tokenizer.path PATH/TO/tokenizer.json
     On a TPU slice: --mesh.fsdp 16; --compute.remat dots where memory is short

Status: the model is checked against the reference implementation and the recipe takes its first steps on a CPU; the
whole run has not been done, so the expected score is the paper's, not ours. Not in this recipe: the extension to rows
of 8,192 tokens and the growing batch size of the paper.
"""

from jaxencoder.config import (
    ComputeConfig,
    DataConfig,
    EncoderConfig,
    MaskedLM,
    Masking,
    OptimizerConfig,
    RunConfig,
    TokenizerConfig,
    TrainingConfig,
)


def modernbert(num_layers: int, hidden_size: int, mlp_size: int, num_heads: int, max_length: int) -> EncoderConfig:
    """ModernBERT's choices at any size."""
    return EncoderConfig(
        num_layers=num_layers,
        hidden_size=hidden_size,
        mlp_size=mlp_size,
        num_heads=num_heads,
        max_length=max_length,
        positions="rotary",
        rope_theta=10_000.0,  # 160,000 in the global layers after the extension to 8,192 tokens
        rope_theta_local=10_000.0,
        windows=(0, 64, 64),
        token_types=0,
        norm_placement="pre",
        norm_epsilon=1e-5,
        first_norm=False,
        attention_bias=False,
        mlp_bias=False,
        norm_bias=False,
        head_bias=False,
        gated_mlp=True,
        dropout=0.0,
        attention_dropout=0.0,
    )


def get_config() -> RunConfig:
    return RunConfig(
        model=modernbert(num_layers=22, hidden_size=768, mlp_size=1152, num_heads=12, max_length=1024),
        compute=ComputeConfig(dtype="bfloat16"),
        objective=MaskedLM(Masking(rate=0.3)),
        tokenizer=TokenizerConfig(kind="bpe", vocab_size=50_368, lowercase=False),
        data=DataConfig(train=("tfds:wikipedia/20230601.en:train",), validation_share=0.001, row_length=1024),
        optimizer=OptimizerConfig(
            name="stable_adamw",
            learning_rate=8e-4,
            b2=0.98,
            eps=1e-6,
            weight_decay=1e-5,
            clip_norm=0.0,
            schedule="wsd",
            warmup_share=0.03,
            decay_share=0.1,
        ),
        training=TrainingConfig(
            steps=100_000, batch_size=1024, log_every=50, eval_every=2_500, eval_batches=16, checkpoint_every=2_500
        ),
    )
