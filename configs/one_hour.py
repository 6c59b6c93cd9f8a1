"""The best encoder from one hour on one GPU: ModernBERT's architecture in a small size, Muon, short rows, 30% masked.

Papers: Geiping and Goldstein 2023 (Cramming, arXiv:2212.14034) for the question, with one day; Portes et al. 2023
(MosaicBERT, arXiv:2312.17482) for packed short rows; Warner et al. 2024 (ModernBERT, arXiv:2412.13663) for the
architecture; Jordan 2024 for the optimizer. 12 layers of 512, 48M parameters, 17M of them in the token table.

Cost: 30,000 steps x 512 rows x 256 tokens = 3.9B tokens, 9.1e17 FLOPs: an hour on an H100 at 25% of its peak, three on
an A100.
Expected: between compact BERT-small's GLUE of 71 and BERT-base's of 79; not run yet.

Run: jaxencoder train one_hour --data.train "corpus/*.jsonl.zst" --run-dir runs/hour
     Less time: --training.steps 8000. With the WSD schedule it shares all but its last steps with a longer run.

Status: the recipe takes its first steps on a CPU; it has not been run to the end.
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
            num_layers=12,
            hidden_size=512,
            mlp_size=1024,
            num_heads=8,
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
        compute=ComputeConfig(dtype="bfloat16"),
        objective=MaskedLM(Masking(rate=0.3)),
        tokenizer=TokenizerConfig(kind="wordpiece", vocab_size=32_768),
        data=DataConfig(train=("tfds:wikipedia/20230601.en:train",), validation_fraction=0.001, row_length=256),
        optimizer=OptimizerConfig(
            name="muon", learning_rate=2e-3, weight_decay=0.01, schedule="wsd", warmup_ratio=0.02, decay_ratio=0.3
        ),
        training=TrainingConfig(
            steps=30_000, batch_size=512, log_every=20, eval_every=1_000, eval_batches=32, checkpoint_every=1_000
        ),
    )
