"""Tiny runs in folders as the trainer leaves them."""

import contextlib
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

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


class Trained:
    """A run's folder, and what the trainer said of it last."""

    def __init__(self, folder: Path, result: dict[str, float]):
        self.folder, self.result = folder, result


def write_data(path: Path, number: int, label: Callable[[bool, int], object], seed: int) -> str:
    random = np.random.default_rng(seed)
    good, bad, other = (
        ["lovely", "great", "fine", "good"],
        ["awful", "poor", "bad", "sad"],
        ["film", "plot", "cast", "the", "a", "was"],
    )
    with path.open("w") as file:
        for i in range(number):
            positive = bool(random.integers(2))
            words = [*random.choice(other, 4), random.choice(good if positive else bad)]
            file.write(json.dumps({"text": " ".join(random.permutation(words)), "label": label(positive, i)}) + "\n")
    return str(path)


def run(folder: Path, name: str, objective, label: Callable[[bool, int], object], steps: int) -> Trained:
    data = DataConfig(
        train=(write_data(folder / f"{name}_train.jsonl", 200, label, 0),),
        validation=(write_data(folder / f"{name}_held_out.jsonl", 53, label, 1),),
        label_field="label" if isinstance(objective, Classification) else "",
        row_length=32,
        cache=str(folder / "cache"),
        workers=1,
    )
    config = RunConfig(
        name=name,
        model=EncoderConfig(
            num_layers=1, hidden_size=32, mlp_size=32, num_heads=2, max_length=32, dropout=0.0, attention_dropout=0.0
        ),
        compute=ComputeConfig(dtype="float32"),
        objective=objective,
        tokenizer=TokenizerConfig(vocab_size=60),
        data=data,
        training=TrainingConfig(steps=max(steps, 1), batch_size=8, eval_batches=0, tensorboard=False),
    )
    return Trained(folder / name, train(config, folder / name) if steps else untrained(config, folder / name))


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


@pytest.fixture(scope="session")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="session")
def masked(home: Path) -> Trained:
    return run(home, "masked", MaskedLM(), lambda positive, i: 0, steps=3)


@pytest.fixture(scope="session")
def classifier(home: Path) -> Trained:
    return run(home, "classifier", Classification(), lambda positive, i: "yes" if positive else "no", steps=30)


def run_on_records(
    folder: Path, name: str, objective, data: DataConfig, make: Callable, steps: int, rate: float = 1e-2
) -> Trained:
    """A run on records of which `make` gives one from a random generator."""
    sources = []
    for part, seed, number in (("train", 0, 150), ("held_out", 1, 40)):
        random = np.random.default_rng(seed)
        path = folder / f"{name}_{part}.jsonl"
        path.write_text("".join(json.dumps(make(random)) + "\n" for _ in range(number)))
        sources.append((str(path),))
    config = RunConfig(
        name=name,
        model=EncoderConfig(
            num_layers=1, hidden_size=32, mlp_size=32, num_heads=2, max_length=32, dropout=0.0, attention_dropout=0.0
        ),
        compute=ComputeConfig(dtype="float32"),
        objective=objective,
        tokenizer=TokenizerConfig(vocab_size=80),
        data=dataclasses.replace(data, train=sources[0], validation=sources[1], cache=str(folder / "cache")),
        optimizer=OptimizerConfig(name="adamw", learning_rate=rate),
        training=TrainingConfig(steps=max(steps, 1), batch_size=8, eval_batches=0, tensorboard=False),
    )
    return Trained(folder / name, train(config, folder / name) if steps else untrained(config, folder / name))


@pytest.fixture(scope="session")
def token_classifier(home: Path) -> Trained:
    def make(random):
        words = random.choice(["the", "a", "river", "in", "Elbe", "Spree", "Oder"], 7).tolist()
        return {"tokens": words, "tags": ["B-x" if word[0].isupper() else "O" for word in words]}

    data = DataConfig(text_field="tokens", label_field="tags", row_length=32, workers=1)
    return run_on_records(home, "token_classifier", TokenClassification(dropout=0.0), data, make, steps=30)


@pytest.fixture(scope="session")
def multi_label_classifier(home: Path) -> Trained:
    """Texts that are of the classes whose rivers they name: none, or one, or several."""

    def make(random):
        words = random.choice(["the", "a", "river", "in", "Elbe", "Spree", "Oder"], 5).tolist()
        return {"text": " ".join(words), "label": [name for name in ("Elbe", "Oder", "Spree") if name in words]}

    data = DataConfig(label_field="label", row_length=32, workers=1)
    return run_on_records(home, "multi_label_classifier", Classification(dropout=0.0), data, make, steps=30)


@pytest.fixture(scope="session")
def multiple_choice_model(home: Path) -> Trained:
    """The choice is right that names the river of the text; there are two of them to four."""

    def make(random):
        rivers = random.permutation(["Elbe", "Spree", "Oder", "Rhine"])[: random.integers(2, 5)].tolist()
        right = int(random.integers(len(rivers)))
        return {"context": f"the {rivers[right]}", "choices": [f"a {river}" for river in rivers], "label": right}

    data = DataConfig(text_field="context", pair_field="choices", label_field="label", row_length=32, workers=1)
    return run_on_records(home, "multiple_choice_model", MultipleChoice(dropout=0.0), data, make, steps=160, rate=4e-3)


@pytest.fixture(scope="session")
def question_answering_model(home: Path) -> Trained:
    def make(random):
        words = random.choice(["the", "a", "river", "in", "of"], 30).tolist()
        place = int(random.integers(30))
        words[place] = "Elbe"
        context = " ".join(words)
        return {
            "question": "which one",
            "context": context,
            "answers": {"text": ["Elbe"], "answer_start": [context.index("Elbe")]},
        }

    data = DataConfig(
        text_field="question", pair_field="context", label_field="answers", row_length=32,
        overlap=4, workers=1,
    )  # fmt: skip
    return run_on_records(home, "question_answering_model", QuestionAnswering(), data, make, steps=0)


@pytest.fixture(scope="session")
def pairs(home: Path) -> Trained:
    """A cross-encoder of random weights: which of two classes a query and a text are."""

    def make(random):
        words = random.choice(["lovely", "film", "plot", "great", "awful", "cast", "bad", "sad"], 6).tolist()
        return {"query": " ".join(words[:2]), "text": " ".join(words[2:]), "label": int(random.integers(2))}

    data = DataConfig(text_field="query", pair_field="text", label_field="label", row_length=32, workers=1)
    return run_on_records(home, "pairs", Classification(), data, make, steps=0)


@pytest.fixture(scope="session")
def regressor(home: Path) -> Trained:
    return run(home, "regressor", Classification(), lambda positive, i: positive * 4 + 0.5, steps=0)
