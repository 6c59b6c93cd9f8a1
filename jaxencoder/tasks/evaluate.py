"""The metrics of a run on held-out data, kept in the run's folder."""

import dataclasses
import json
import math
import os
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxencoder.inference.load import load
from jaxencoder.inference.model import Model
from jaxencoder.objectives.classification import Classification
from jaxencoder.sharding import MeshConfig, make_mesh
from jaxencoder.tasks.classification import evaluate_classifier
from jaxencoder.text.rows import prepare
from jaxencoder.text.store import Store
from jaxencoder.training.loop import evaluator
from jaxencoder.training.setup import Setup, training_rows
from jaxencoder.training.step import TrainState

RESULTS_FILE = "results.json"


def evaluate(
    run: str | Path, data: str | None = None, step: int | Literal["latest", "best"] = "latest"
) -> dict[str, float]:
    """Measure a run, on all rows that were held out or on another source.

    Args:
        run: folder of the run.
        data: source to measure on, with the fields of the run's own; None: the run's validation data.
        step: which checkpoint; "best" by the run's own `training.best_metric`.

    Returns:
        For masked language models loss (nats a masked token), accuracy, perplexity (exp(loss): the "pseudo-perplexity"
        of Salazar et al. 2020, arXiv:1910.14659, but many tokens masked at once) and unigram_loss, what predicting each
        token by its frequency in the training data would lose. For classifiers see `class_metrics`, for regression
        `value_metrics`. The same is put into the run's results.json, under "validation" or the name of the source.

    Raises:
        ValueError: not a run, or nothing was held out.
        OSError: the run or the data cannot be read, or the result cannot be written.
    """
    folder = Path(run)
    model = load(folder, step=step)
    model = dataclasses.replace(model, compute=dataclasses.replace(model.config.compute, remat="none"))
    train, validation = _stores(model, data)
    if isinstance(model.config.objective, Classification):
        result = evaluate_classifier(model, validation)
    else:
        result = _evaluate_masked(model, train, validation)
    _record(folder / RESULTS_FILE, data or "validation", result | {"checkpoint": step})
    return result


def _stores(model: Model, source: str | None) -> tuple[tuple[tuple[Store, ...], ...], tuple[Store, ...]]:
    """The rows of training, for their classes and their frequencies, and the rows to measure on."""
    data = model.config.data
    train = training_rows(model.config, model.tokenizer)
    if source is not None:
        # The classes keep the ids that they had in training, whatever the other source holds.
        data = dataclasses.replace(data, validation=(source,), labels=tuple(train[0][0].meta["labels"]))
    validation = prepare(data, model.tokenizer, "validation")
    if not validation:
        raise ValueError("this run has held nothing out; name a source with --data")
    return train, validation


def _evaluate_masked(
    model: Model, train: tuple[tuple[Store, ...], ...], validation: tuple[Store, ...]
) -> dict[str, float]:
    config = model.config
    config = dataclasses.replace(config, training=dataclasses.replace(config.training, eval_batches=0))
    objective = config.objective.build(config.model, model.compute, model.tokenizer)
    setup = Setup(config, model.tokenizer, train, validation, objective)
    shards = math.gcd(config.training.batch_size, len(jax.devices()))
    mesh = make_mesh(MeshConfig(), jax.devices()[:shards])
    with jax.set_mesh(mesh):
        return evaluator(setup, mesh)(TrainState(jnp.int32(config.training.steps), model.params, None, None))


def _record(path: Path, name: str, result: dict[str, Any]) -> None:
    """Put one result beside those of other data, whole or not at all."""
    try:
        results = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); delete it") from None
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        part.write_text(json.dumps(results | {name: result}, indent=2) + "\n", encoding="utf-8")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
