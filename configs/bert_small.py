"""BERT-small: 4 layers of 256, rows of 128 tokens; a size for experiments on one machine.

Paper: Turc et al. 2019, arXiv:1908.08962, call this size BERT-mini. The recipe departs from BERT where a short run
gains: packed rows, 20% of the tokens predicted, Muon (Jordan 2024) for the matrices, and a WSD schedule, so that a
longer run shares all but its last steps with a shorter one. 7.5M parameters.

Cost: 2,000 steps x 32 rows x 128 tokens = 8.2M tokens, 2.0e14 FLOPs: about 30 minutes on 2 CPU cores.
Expected: not run to the end yet. Its first 500 steps stay near the unigram baseline, as usual for post-norm encoders.

Run: jaxencoder train bert_small --data.train "corpus/*.jsonl.xz" --run-dir runs/small
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
            mlp_size=1024,
            num_heads=4,
            max_length=128,
            dropout=0.0,  # one pass over the data: nothing to overfit
            attention_dropout=0.0,
        ),
        compute=ComputeConfig(dtype="float32"),
        objective=MaskedLM(Masking(rate=0.2)),
        tokenizer=TokenizerConfig(kind="wordpiece", vocab_size=16_384),
        data=DataConfig(row_length=128, validation_fraction=0.005),
        optimizer=OptimizerConfig(
            name="muon", learning_rate=3e-3, weight_decay=0.01, schedule="wsd", warmup_ratio=0.05, decay_ratio=0.3
        ),
        training=TrainingConfig(
            steps=2_000, batch_size=32, eval_every=250, eval_batches=16, checkpoint_every=250, log_every=10
        ),
    )
