"""Tiny runs in folders as the trainer leaves them."""

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pytest

from jaxencoder.checkpoints.orbax import CheckpointManager
from jaxencoder.config import RunConfig
from jaxencoder.model.config import ComputeConfig, EncoderConfig
from jaxencoder.objectives.mlm import MaskedLM
from jaxencoder.tasks.classification.objective import Classification
from jaxencoder.tasks.multiple_choice.objective import MultipleChoice
from jaxencoder.tasks.question_answering.objective import QuestionAnswering
from jaxencoder.tasks.token_classification.objective import TokenClassification
from jaxencoder.text.config import DataConfig, TokenizerConfig
from jaxencoder.training.config import OptimizerConfig, TrainingConfig
from jaxencoder.training.loop import train
from jaxencoder.training.setup import set_up


class Trained(NamedTuple):
    """A run's folder, and what the trainer said of it last."""

    folder: Path
    result: dict[str, float]


def write_records(path: Path, records: Iterable[dict]) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def write_data(path: Path, number: int, label: Callable[[bool, int], object], seed: int) -> str:
    """Short texts of good or bad words, with labels by that and by their number."""
    random, records = np.random.default_rng(seed), []
    good, bad = ["lovely", "great", "fine", "good"], ["awful", "poor", "bad", "sad"]
    for i in range(number):
        positive = bool(random.integers(2))
        words = [
            *random.choice(["film", "plot", "cast", "the", "a", "was"], 4),
            random.choice(good if positive else bad),
        ]
        records.append({"text": " ".join(random.permutation(words)), "label": label(positive, i)})
    return write_records(path, records)


def train_tiny(folder: Path, objective, data: DataConfig, steps: int, vocab_size: int = 80, **settings) -> Trained:
    """A run of a few steps, or of random weights for none."""
    config = RunConfig(
        name=folder.name,
        model=EncoderConfig(
            num_layers=1, hidden_size=32, mlp_size=32, num_heads=2, max_length=32, dropout=0.0, attention_dropout=0.0
        ),
        compute=ComputeConfig(dtype="float32"),
        objective=objective,
        tokenizer=TokenizerConfig(vocab_size=vocab_size),
        data=dataclasses.replace(data, row_length=32, workers=1, cache=str(folder.parent / "cache")),
        training=TrainingConfig(steps=max(steps, 1), batch_size=8, eval_batches=0, tensorboard=False),
        **settings,
    )
    return Trained(folder, train(config, folder) if steps else untrained(config, folder))


def untrained(config: RunConfig, folder: Path) -> dict[str, float]:
    """A run of random weights, without the trainer's compilations."""
    setup = set_up(config, folder)
    random = np.random.default_rng(0)
    shapes = jax.eval_shape(setup.objective.init, jax.random.key(0))
    params = jax.tree.map(lambda x: random.normal(0, 0.3, x.shape).astype(np.float32), shapes)
    with contextlib.closing(CheckpointManager(folder / "checkpoints")) as checkpoints:
        checkpoints.save(1, {"params": params}, wait=True)
    batch = setup.validation[0].read(np.arange(len(setup.validation[0])))
    loss, _ = jax.jit(setup.objective.loss, static_argnums=3)(params, batch, jax.random.key(0), False)
    return {"loss": float(loss)}


def run(folder: Path, objective, label: Callable[[bool, int], object], steps: int) -> Trained:
    """A run on `write_data`."""
    sources = [
        (write_data(folder.with_name(f"{folder.name}_{part}.jsonl"), number, label, seed),)
        for part, number, seed in (("train", 200, 0), ("held_out", 53, 1))
    ]
    label_field = "label" if isinstance(objective, Classification) else ""
    data = DataConfig(train=sources[0], validation=sources[1], label_field=label_field)
    return train_tiny(folder, objective, data, steps, vocab_size=60)


def run_on_records(folder: Path, objective, data: DataConfig, make, steps: int, rate: float = 1e-2) -> Trained:
    """A run on records of which `make` gives one from a random generator."""
    sources = []
    for part, number, seed in (("train", 150, 0), ("held_out", 40, 1)):
        random = np.random.default_rng(seed)
        records = [make(random) for _ in range(number)]
        sources.append((write_records(folder.with_name(f"{folder.name}_{part}.jsonl"), records),))
    data = dataclasses.replace(data, train=sources[0], validation=sources[1])
    return train_tiny(folder, objective, data, steps, optimizer=OptimizerConfig(name="adamw", learning_rate=rate))


@pytest.fixture(scope="session")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="session")
def masked(home: Path) -> Trained:
    return run(home / "masked", MaskedLM(), lambda positive, i: 0, steps=3)


@pytest.fixture(scope="session")
def classifier(home: Path) -> Trained:
    return run(home / "classifier", Classification(), lambda positive, i: "yes" if positive else "no", steps=30)


@pytest.fixture(scope="session")
def regressor(home: Path) -> Trained:
    return run(home / "regressor", Classification(), lambda positive, i: positive * 4 + 0.5, steps=0)


@pytest.fixture(scope="session")
def token_classifier(home: Path) -> Trained:
    def make(random):
        words = random.choice(["the", "a", "river", "in", "Elbe", "Spree", "Oder"], 7).tolist()
        return {"tokens": words, "tags": ["B-x" if word[0].isupper() else "O" for word in words]}

    data = DataConfig(text_field="tokens", label_field="tags")
    return run_on_records(home / "token_classifier", TokenClassification(dropout=0.0), data, make, steps=30)


@pytest.fixture(scope="session")
def multi_label_classifier(home: Path) -> Trained:
    """Texts that are of the classes whose rivers they name: none, or one, or several."""

    def make(random):
        words = random.choice(["the", "a", "river", "in", "Elbe", "Spree", "Oder"], 5).tolist()
        return {"text": " ".join(words), "label": [name for name in ("Elbe", "Oder", "Spree") if name in words]}

    data, objective = DataConfig(label_field="label"), Classification(dropout=0.0)
    return run_on_records(home / "multi_label_classifier", objective, data, make, steps=30)


@pytest.fixture(scope="session")
def multiple_choice_model(home: Path) -> Trained:
    """The choice is right that names the river of the text; there are two of them to four."""

    def make(random):
        rivers = random.permutation(["Elbe", "Spree", "Oder", "Rhine"])[: random.integers(2, 5)].tolist()
        right = int(random.integers(len(rivers)))
        return {"context": f"the {rivers[right]}", "choices": [f"a {river}" for river in rivers], "label": right}

    data, objective = (
        DataConfig(text_field="context", pair_field="choices", label_field="label"),
        MultipleChoice(dropout=0.0),
    )
    return run_on_records(home / "multiple_choice_model", objective, data, make, steps=160, rate=4e-3)


@pytest.fixture(scope="session")
def question_answering_model(home: Path) -> Trained:
    def make(random):
        words = random.choice(["the", "a", "river", "in", "of"], 30).tolist()
        words[int(random.integers(30))] = "Elbe"
        context = " ".join(words)
        answers = {"text": ["Elbe"], "answer_start": [context.index("Elbe")]}
        return {"question": "which one", "context": context, "answers": answers}

    data = DataConfig(text_field="question", pair_field="context", label_field="answers", overlap=4)
    return run_on_records(home / "question_answering_model", QuestionAnswering(), data, make, steps=0)


@pytest.fixture(scope="session")
def pairs(home: Path) -> Trained:
    """A cross-encoder of random weights: which of two classes a query and a text are."""

    def make(random):
        words = random.choice(["lovely", "film", "plot", "great", "awful", "cast", "bad", "sad"], 6).tolist()
        return {"query": " ".join(words[:2]), "text": " ".join(words[2:]), "label": int(random.integers(2))}

    data = DataConfig(text_field="query", pair_field="text", label_field="label")
    return run_on_records(home / "pairs", Classification(), data, make, steps=0)
