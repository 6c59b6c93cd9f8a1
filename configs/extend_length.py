"""Continued pretraining at a greater length, from a model that `jaxencoder extend` has prepared.

Papers: Chen et al. 2023, arXiv:2306.15595, and Peng et al. 2023, arXiv:2309.00071: a few hundred steps at the new
length suffice for scaled rotary positions; Beltagy et al. 2020, arXiv:2004.05150, section 5, for copied position
tables. The learning rate is low and constant after a short warmup, as the model only has to adapt. Architecture,
tokenizer and the extension of positions come from --init-from, which must allow --data.row-length tokens.

Data: long documents. Texts shorter than a row teach nothing about long ones, however they are packed.

Cost: 200 steps x 8 rows x 2,048 tokens = 3.3M tokens.
Expected: not measured yet. docs/studies/length.md has the results of `extend` without training. The goal is a held-out
loss at the new length that is no higher than the old model's at the old length.

Run: jaxencoder extend runs/small runs/small_long --max-length 2048 --method tile
     jaxencoder train extend_length --init-from runs/small_long --run-dir runs/small_2048 \\
         --data.train "books/*.jsonl.xz"
"""

from jaxencoder.config import (
    ComputeConfig,
    DataConfig,
    EncoderConfig,
    MaskedLM,
    Masking,
    OptimizerConfig,
    RunConfig,
    TrainingConfig,
)


def get_config() -> RunConfig:
    return RunConfig(
        # All but dropout comes from --init-from.
        model=EncoderConfig(max_length=2048, dropout=0.0, attention_dropout=0.0),
        compute=ComputeConfig(dtype="float32"),
        objective=MaskedLM(Masking(rate=0.2)),
        data=DataConfig(row_length=2048, validation_fraction=0.02),
        optimizer=OptimizerConfig(
            name="adamw", learning_rate=1e-4, weight_decay=0.01, schedule="wsd", warmup_ratio=0.1, decay_ratio=0.0
        ),
        training=TrainingConfig(
            steps=200, batch_size=8, eval_every=50, eval_batches=16, checkpoint_every=100, log_every=10
        ),
    )
