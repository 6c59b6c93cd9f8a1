"""ModernBERT's architecture at 4 layers of 256, rows of 128 tokens: a size for experiments on one machine.

Paper: Warner et al. 2024, arXiv:2412.13663, for the architecture. Muon (Jordan 2024) trains the matrices, and with the
WSD schedule a longer run shares all but its last steps with a shorter one. `bert_small` has BERT's architecture.

Cost: 2,400 steps x 16 rows x 128 tokens = 4.9M tokens: under half an hour on 2 CPU cores.
Expected: docs/results.md has the measured results and their data.

Run: jaxencoder train modernbert_small --data.train "corpus/*.jsonl.xz" --run-dir runs/small
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


def get_config() -> RunConfig:
    return RunConfig(
        model=EncoderConfig(
            num_layers=4,
            hidden_size=256,
            mlp_size=512,
            num_heads=4,
            max_length=1024,
            positions="rotary",
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
        compute=ComputeConfig(dtype="float32"),
        objective=MaskedLM(Masking(rate=0.2)),
        tokenizer=TokenizerConfig(kind="wordpiece", vocab_size=16_384),
        data=DataConfig(row_length=128, validation_fraction=0.005),
        optimizer=OptimizerConfig(
            name="muon", learning_rate=4e-3, weight_decay=0.01, schedule="wsd", warmup_ratio=0.02, decay_ratio=0.3
        ),
        training=TrainingConfig(
            steps=2_400, batch_size=16, eval_every=250, eval_batches=32, checkpoint_every=250, log_every=10
        ),
    )
