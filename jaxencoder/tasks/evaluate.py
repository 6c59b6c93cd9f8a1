"""The metrics of a run on held-out data, and of any model's vectors on published sets, kept as JSON."""

import dataclasses
import json
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxencoder.inference.load import load
from jaxencoder.inference.model import Model
from jaxencoder.objectives.classification import Classification
from jaxencoder.objectives.spans import SpanExtraction
from jaxencoder.objectives.tokens import TokenClassification
from jaxencoder.sharding import MeshConfig, make_mesh
from jaxencoder.tasks.classification import evaluate_classifier
from jaxencoder.tasks.retrieval import evaluate_retrieval, qrels_file
from jaxencoder.tasks.similarity import evaluate_similarity
from jaxencoder.tasks.spans import evaluate_reader
from jaxencoder.tasks.tokens import evaluate_tagger
from jaxencoder.text.examples import records, tags
from jaxencoder.text.rows import prepare
from jaxencoder.text.store import Store
from jaxencoder.training.loop import evaluator
from jaxencoder.training.setup import Setup, training_rows
from jaxencoder.training.step import TrainState

RESULTS_FILE = "results.json"


def evaluate(
    run: str | Path, data: str | None = None, step: int | Literal["latest", "best"] = "latest"
) -> dict[str, Any]:
    """Measure a run, on all rows that were held out or on another source.

    Args:
        run: folder of the run.
        data: source to measure on, with the fields of the run's own; None: the run's validation data.
        step: which checkpoint; "best" by the run's own `training.best_metric`.

    Returns:
        For masked language models loss (nats a masked token), accuracy, perplexity (exp(loss): the "pseudo-perplexity"
        of Salazar et al. 2020, arXiv:1910.14659, but many tokens masked at once) and unigram_loss, what predicting each
        token by its frequency in the training data would lose. For classes and values see `evaluate_classifier`. The
        same is put into the run's results.json, under "validation" or the source's `data_name`.

    Raises:
        ValueError: not a run, or nothing was held out.
        OSError: the run or the data cannot be read, or the result cannot be written.
    """
    folder = Path(run)
    model = load(folder, step=step)
    if model.published is not None:
        raise ValueError(f"{folder} is no run and has held nothing out; measure it with --task similarity or retrieval")
    model = dataclasses.replace(model, compute=dataclasses.replace(model.config.compute, remat="none"))
    if isinstance(model.config.objective, TokenClassification | SpanExtraction):
        result = _evaluate_records(model, data)
        name = data_name(data) if data else "validation"
        _write(folder / RESULTS_FILE, _read(folder / RESULTS_FILE) | {name: result | {"checkpoint": step}})
        return result
    train, validation = _stores(model, data)
    if isinstance(model.config.objective, Classification):
        result = evaluate_classifier(model, validation)
    else:
        result = _evaluate_masked(model, train, validation)
    name = data_name(data) if data else "validation"
    _write(folder / RESULTS_FILE, _read(folder / RESULTS_FILE) | {name: result | {"checkpoint": step}})
    return result


def evaluate_vectors(
    model: str | Path,
    task: Literal["similarity", "retrieval"],
    data: Sequence[str],
    output: str | Path | None = None,
    step: int | Literal["latest", "best"] = "latest",
    **options: Any,
) -> dict[str, dict[str, Any]]:
    """Measure what a model's vectors of texts are worth on published sets.

    Args:
        model: folder of a run, of transformers or of sentence-transformers, or a name of the hub.
        task: "similarity" of pairs, or "retrieval" of documents.
        data: one or more sets. For similarity each is a source as in `jaxencoder.text.sources`, or several with commas
            between; for retrieval the folder of a BEIR set.
        output: JSON file for the results; None: a run's results.json, and for other models none.
        step: which checkpoint of a run.
        options: of `evaluate_similarity` or `evaluate_retrieval`.

    Returns:
        The result for each of `data`. It is written as soon as it is known, to {task: {name: result}}, beside those of
        other data and in place of an older one; the name is the `data_name` of the source or of the relevances. In a
        file of one's own "model" says whose results they are.

    Raises:
        ValueError: not a model, data that it cannot be measured on, or a file with results of another model.
        OSError: something cannot be read or written.
    """
    opened = load(model, step=step)
    header, entry = {"model": str(Path(model).absolute()) if Path(model).is_dir() else str(model)}, {}
    if opened.published is None:
        entry = {"checkpoint": step}
        if output is None:
            header, output = {}, Path(model) / RESULTS_FILE
    if output is not None:
        output = Path(output)
        there = _read(output)
        if header and there and there.get("model") != header["model"]:
            raise ValueError(f"{output} holds results of {there.get('model', 'a run')}; give another --output")
        if not output.parent.is_dir():
            raise FileNotFoundError(f"no folder {output.parent} to write {output.name} to")
    results = {}
    for words in data:
        if task == "similarity":
            result, name = evaluate_similarity(opened, words.split(","), **options), data_name(words)
        else:
            result = evaluate_retrieval(opened, words, **options)
            name = data_name(str(qrels_file(Path(words), options.get("split", "test"))))
        results[words] = result
        if output is not None:
            there = header | _read(output)
            _write(output, there | {task: there.get(task, {}) | {name: result | entry}})
    return results


def data_name(source: str) -> str:
    """The name of a source among results, the same wherever it is named from: paths are made absolute.

    sts12/test.jsonl -> /data/sts12/test.jsonl; tfds:glue/stsb:test, s3://bucket/a.jsonl and pydocs stay.
    """
    parts = source.split(",")
    return ",".join(x if re.match(r"pydocs$|\w+:", x) else os.path.abspath(os.path.expanduser(x)) for x in parts)


def table(results: dict[str, dict[str, Any]]) -> str:
    """Lines of text: one for each set, with a column for each metric; fractions are given times 100."""
    columns = list(next(iter(results.values())))
    rows = [["", *columns]] + [
        [name, *(_cell(result[column]) for column in columns)] for name, result in results.items()
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *(x.rjust(n) for x, n in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    )


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{100 * value:.2f}"
    return ", ".join(value) if isinstance(value, list) else str(value)


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


def _evaluate_records(model: Model, source: str | None) -> dict[str, Any]:
    """The metrics of a tagger or a reader on the records that were held out, or on those of a source."""
    data = model.config.data
    if source is not None:
        data = dataclasses.replace(data, validation=(source,))
    elif not data.validation and not data.validation_share:
        raise ValueError("this run has held nothing out; name a source with --data")
    found = records(data, "validation")
    if isinstance(model.config.objective, TokenClassification):
        examples = (
            (words, [str(tag) for tag in tags(record[data.label_field], words, f"record {number}")])
            for number, record in enumerate(found, 1)
            if (words := record[data.text_field])
        )
        return evaluate_tagger(model, examples)
    return evaluate_reader(
        model, ((x[data.text_field], x[data.pair_field], x[data.label_field]["text"]) for x in found)
    )


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


def _read(path: Path) -> dict[str, Any]:
    """The results that are there."""
    try:
        results = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); delete it") from None
    if not isinstance(results, dict):
        raise ValueError(f"{path} holds no results but a {type(results).__name__}; delete it, or name another file")
    return results


def _write(path: Path, results: dict[str, Any]) -> None:
    """The results, whole or not at all."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        part.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
