"""A tiny pretrained run, and fine-tuning from it on few labeled texts."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from jaxencoder.config import RunConfig
from jaxencoder.model.config import ComputeConfig, EncoderConfig
from jaxencoder.objectives.mlm import MaskedLM
from jaxencoder.tasks.classification.objective import Classification
from jaxencoder.text.config import DataConfig, TokenizerConfig
from jaxencoder.training.config import TrainingConfig
from jaxencoder.training.loop import train


@pytest.fixture(scope="session")
def pretraining(tmp_path_factory) -> RunConfig:
    """One layer, one step of masked language modeling; the texts also have labels."""
    folder = tmp_path_factory.mktemp("texts")
    random = np.random.default_rng(0)
    with (folder / "text.jsonl").open("w") as file:
        for i in range(120):
            words = random.choice(["red", "green", "blue", "cat", "dog"], 5)
            file.write(json.dumps({"text": " ".join(words), "label": ["no", "yes"][i % 2]}) + "\n")
    return RunConfig(
        model=EncoderConfig(num_layers=1, hidden_size=16, mlp_size=16, num_heads=2, max_length=16, dropout=0.0),
        compute=ComputeConfig(dtype="float32"),
        objective=MaskedLM(),
        tokenizer=TokenizerConfig(vocab_size=40),
        data=DataConfig(
            train=(str(folder / "text.jsonl"),),
            validation_fraction=0.2,
            row_length=16,
            cache=str(folder / "c"),
            workers=1,
        ),
        training=TrainingConfig(steps=1, batch_size=8, eval_batches=0, tensorboard=False),
    )


@pytest.fixture(scope="session")
def pretrained(pretraining: RunConfig, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "pretrained"
    train(pretraining, folder)
    return folder


@pytest.fixture(scope="session")
def labeled(pretraining: RunConfig) -> RunConfig:
    """Classification of the same texts; the test sets init_from."""
    data = dataclasses.replace(pretraining.data, label_field="label")
    training = dataclasses.replace(pretraining.training, steps=3)
    return dataclasses.replace(pretraining, objective=Classification(dropout=0.0), data=data, training=training)
