"""A multilingual ModernBERT as mmBERT-small: three stages with fewer masks, longer rows and flatter mixtures.

Paper: Marone et al. 2025, arXiv:2509.06888. 22 layers of 384 and a vocabulary of 256,000; 2.3T tokens in rows of 1,024
with 30% masked, 600B in rows of 8,192 with 15%, 100B of decay with 5%; languages sampled by their size to the power
0.7, then 0.5, then 0.3. 140M parameters, 98M of them in the token table.

The stages divide 20B tokens as in the paper, a size that a single node trains in hours: set the phases' steps for more.
Give --data.train one source per language; each gets its own held-out loss. The paper adds languages from stage to
stage: --phases.1.train, --phases.2.train.

Cost: 20B tokens, 1.1e19 FLOPs: an hour and a half on 8 H100 at 25% of their peak.
Expected: the paper reports XTREME and MTEB above XLM-R's after 3T tokens; there is no result for so short a run.

Run: jaxencoder train mmbert_small --data.train corpus/eng.jsonl.zst corpus/deu.jsonl.zst corpus/swa.jsonl.zst \\
         --tokenizer.path PATH/TO/tokenizer.json --mesh.fsdp 8

Status: the recipe takes its first steps on a CPU; it has not been run to the end.
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
)


def get_config() -> RunConfig:
    base, extension, decay = 15_000, 3_900, 650
    return RunConfig(
        model=EncoderConfig(
            num_layers=22,
            hidden_size=384,
            mlp_size=1152,
            num_heads=6,
            max_length=8192,
            positions="rotary",
            rope_theta=160_000.0,
            rope_theta_local=160_000.0,
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
        objective=MaskedLM(Masking(rate=0.05)),
        tokenizer=TokenizerConfig(kind="bpe", vocab_size=256_000, lowercase=False),
        data=DataConfig(
            train=("tfds:wikipedia/20230601.en:train", "tfds:wikipedia/20230601.de:train"),
            temperature=1 / 0.3,
            validation_fraction=0.001,
            row_length=1024,
        ),
        optimizer=OptimizerConfig(
            name="stable_adamw",
            learning_rate=8e-4,
            b2=0.98,
            weight_decay=1e-5,
            clip_norm=0.0,
            schedule="wsd",
            warmup_ratio=0.01,
            decay_ratio=decay / (base + extension + decay),
        ),
        training=TrainingConfig(
            batch_size=128, log_every=50, eval_every=1_000, eval_batches=32, checkpoint_every=1_000
        ),
        phases=(
            Phase(steps=base, row_length=1024, batch_size=1024, temperature=1 / 0.7, rate=0.3, rope_theta=10_000.0),
            Phase(steps=extension, row_length=8192, temperature=1 / 0.5, rate=0.15, learning_rate=4e-4),
            Phase(steps=decay, row_length=8192, learning_rate=4e-4),
        ),
    )
