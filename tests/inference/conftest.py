"""Tiny random models over a tokenizer trained on a few sentences."""

import contextlib
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxencoder.api import Model
from jaxencoder.checkpoints.orbax import CheckpointManager
from jaxencoder.config import RunConfig
from jaxencoder.config_io import save
from jaxencoder.model.config import ComputeConfig, EncoderConfig
from jaxencoder.objectives.mlm import MaskedLM
from jaxencoder.tasks.classification.objective import Classification
from jaxencoder.tasks.token_classification.objective import TokenClassification
from jaxencoder.text.config import DataConfig, TokenizerConfig
from jaxencoder.text.tokenizers.tokenizer import Tokenizer
from jaxencoder.text.tokenizers.training import train_tokenizer
from tests.tasks.conftest import classifier, home, masked, regressor  # noqa: F401

TEXT = "the cat sat on a mat while seven old men walked slowly through paris and rome looking for bread"
WORDS = TEXT.split()
SENTENCES = [" ".join(WORDS[i : i + n]) for n in range(1, 8) for i in range(len(WORDS) - n)]


def write_run(folder: Path, config: RunConfig, tokenizer: Tokenizer, **trees) -> Path:
    tokenizer.save(folder / "tokenizer")
    with contextlib.closing(CheckpointManager(folder / "checkpoints")) as checkpoints:
        checkpoints.save(3, trees, wait=True)
    save(config, folder)
    return folder


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return train_tokenizer(SENTENCES, TokenizerConfig(vocab_size=120))


@pytest.fixture(scope="session")
def make_model(tokenizer: Tokenizer) -> Callable[..., Model]:
    """Settings of the encoder -> a model with random weights, large enough to tell outputs apart."""

    def make(objective=None, tokenizer=tokenizer, row_length=64, **settings) -> Model:
        objective = objective or MaskedLM()
        shape = {"num_layers": 2, "hidden_size": 32, "mlp_size": 48, "num_heads": 4, "max_length": 64}
        model = EncoderConfig(**(shape | {"vocab_size": tokenizer.vocab_size} | settings))
        label = "label" if isinstance(objective, Classification | TokenClassification) else ""
        config = RunConfig(model=model, objective=objective, data=DataConfig(row_length=row_length, label_field=label))
        compute = ComputeConfig(dtype="float32")
        # Of the right shapes and drawn by numpy: nothing to compile.
        shapes = jax.eval_shape(objective.build(model, compute, tokenizer).init, jax.random.key(0))
        random = np.random.default_rng(0)
        params = jax.tree.map(lambda x: random.normal(0, 0.3, x.shape).astype(np.float32), shapes)
        return Model(config, params, tokenizer, compute=compute)

    return make


@pytest.fixture(scope="session")
def model(make_model: Callable[..., Model]) -> Model:
    return make_model()
