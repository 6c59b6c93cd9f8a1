"""Metrics of a run, or of a published model, on labeled data, and of any model's vectors, kept as JSON.

A run has its own results.json; another file names the model that it is about.
"""

import dataclasses
import inspect
import logging
import math
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxencoder.checkpoints.run import CHECKPOINT_FOLDER, Step, saved_config
from jaxencoder.config import RunConfig
from jaxencoder.evaluation.bitext import evaluate_bitext
from jaxencoder.evaluation.calibration import calibration, tuned_metrics
from jaxencoder.evaluation.classification import evaluate_classification
from jaxencoder.evaluation.clustering import evaluate_clustering
from jaxencoder.evaluation.compression import evaluate_compression
from jaxencoder.evaluation.pair_classification import evaluate_pair_classification
from jaxencoder.evaluation.probing import evaluate_probing
from jaxencoder.evaluation.report import write_report
from jaxencoder.evaluation.retrieval import evaluate_reranking, evaluate_retrieval, qrels_file
from jaxencoder.evaluation.similarity import evaluate_similarity
from jaxencoder.evaluation.slices import slice_metrics
from jaxencoder.evaluation.triplets import evaluate_triplets
from jaxencoder.files import read_json, write_json
from jaxencoder.inference import devices
from jaxencoder.inference.load import load
from jaxencoder.inference.model import OpenedModel
from jaxencoder.sharding import MeshConfig, make_mesh
from jaxencoder.tasks.classification.predict import Predictions
from jaxencoder.tasks.table import task_of_model
from jaxencoder.tasks.task import Evaluation, Task
from jaxencoder.text.buckets import require_tokenizer
from jaxencoder.text.cache import prepare
from jaxencoder.text.sources.fields import infer_source_fields
from jaxencoder.training.evaluator import evaluator
from jaxencoder.training.setup import Setup, training_rows
from jaxencoder.training.step import TrainState

log = logging.getLogger(__name__)

RESULTS_FILE = "results.json"
VALIDATION = "validation"  # names the data that a run holds out

PublishedTask = Literal[
    "similarity", "pair_classification", "triplets", "bitext", "classification", "clustering", "retrieval",
    "compression", "reranking", "probing"
]  # fmt: skip
_FUNCTIONS: dict[PublishedTask, Callable[..., dict[str, Any]]] = {
    "similarity": evaluate_similarity,
    "pair_classification": evaluate_pair_classification,
    "triplets": evaluate_triplets,
    "bitext": evaluate_bitext,
    "classification": evaluate_classification,
    "clustering": evaluate_clustering,
    "retrieval": evaluate_retrieval,
    "compression": evaluate_compression,
    "reranking": evaluate_reranking,
    "probing": evaluate_probing,
}
_BEIR_TASKS = ("retrieval", "compression", "reranking")  # a set is a folder


def evaluate(
    run: str | Path,
    data: str | None = None,
    step: Step = "latest",
    report: str | Path | None = None,
    output: str | Path | None = None,
    text_field: str | None = None,
    pair_field: str | None = None,
    label_field: str | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Measure a run on the data that it held out or on another source, or a published model with the head of a task.

    Args:
        run: folder of the run, or of transformers with the head of a task, or its name on the hub.
        data: source to measure on; None: the run's validation data.
        step: which checkpoint; "best" by the run's own `training.best_metric`.
        report: folder for a readable report of classes or values; None: report/NAME in the run's folder, and none for a
            published model.
        output: JSON file for the result; None: the run's results.json, and none for a published model.
        text_field, pair_field, label_field: of the source; None: those of the run or of the task, or usual ones.
        options: of `evaluate_model`.

    Returns:
        The metrics of `evaluate_model`, as also put into the JSON file under "validation" or the source's `data_name`.

    Raises:
        ValueError: nothing was held out, or a published model has no head of a task.
        OSError: the run or the data cannot be read, or the result cannot be written.
    """
    name = data_name(data) if data else VALIDATION
    model = load(run, step=step)
    task = task_of_model(model)
    if model.published is None:
        model = _as_trained(model)
    elif task is None:
        raise ValueError(f"{run} is no run and has no head of a task; try evaluate similarity or retrieval")
    elif data is None:
        raise ValueError(f"{run} is no run and has held nothing out; name labeled --data")
    fields = {"text_field": text_field, "pair_field": pair_field, "label_field": label_field}
    model = _with_fields(model, task, data, {name: field for name, field in fields.items() if field is not None})
    header, output = _results_file(run, model, output)
    if output is not None:
        _read_results(output)  # fails now, not after minutes, if nothing can be added
    if report is not None and not (task and task.scores_classes):
        raise ValueError(f"{run} is no classifier of texts, so it has no report; leave its options out")
    result, predictions = evaluate_model(model, data, **options)
    if report is None and model.published is None:
        # /data/sst2/test.jsonl -> data-sst2-test-jsonl, its end where it is long
        report = Path(run) / "report" / re.sub(r"[^\w.]+", "-", name)[-80:].strip("-.")
    if predictions is not None and report is not None:
        result["report"] = str(report)
        write_report(Path(report), predictions, result, f"{Path(run).name} on {name}", model.config, step)
    if output is not None:
        write_json(output, header | _read_results(output) | {name: result | _checkpoint(model, step)})
    return result


def evaluate_model(
    model: OpenedModel,
    data: str | None = None,
    slice_by: Sequence[str] = (),
    tune_threshold: str | None = None,
    **options: Any,
) -> Evaluation:
    """Measure an opened model, whose data settings name the fields, on labeled records or text.

    Args:
        data: as for `evaluate`.
        slice_by: for classes and values, fields of the records by whose values the metrics are shown too.
        tune_threshold: for classes, source on which their thresholds are chosen; "validation" for the run's own.
        options: of the task's evaluation, such as `windows` of `evaluate_classes`.

    Returns:
        For masked language models loss (nats per masked token), accuracy, perplexity (exp(loss): the
        "pseudo-perplexity" of Salazar et al. 2020, arXiv:1910.14659, but with many tokens masked at once) and
        unigram_loss, the loss of predicting each token by its frequency in the training data. For a task those of its
        evaluation; for classes also "calibration" (see `calibration`; "fitted_on" names the data of the temperature)
        and, if asked for, "tuned" (see `tuned_metrics`; "on" names the data); for classes and values also "slices" (see
        `slice_metrics`).

    Raises:
        ValueError: nothing was held out, a record or a label is invalid, an option is for another task, thresholds
            would be tuned on the data to measure on, or no record has a field of slice_by.
    """
    task = task_of_model(model)
    accepted = inspect.signature(task.evaluate).parameters if task else {}
    options = {name: value for name, value in options.items() if value is not None}
    refused = sorted(options.keys() - accepted)
    if not (task and task.scores_classes):
        refused += [name for name, x in {"slice_by": slice_by, "tune_threshold": tune_threshold}.items() if x]
    if refused:
        raise ValueError(f"{refused[0]} is not an option for {task.name if task else 'pretraining'}; leave it out")
    if task is None:
        return Evaluation(_evaluate_masked(model, data))
    if tune_threshold:
        _check_tuning(model, data or VALIDATION, tune_threshold)
    evaluation = task.evaluate(model, data, **options)
    predictions = evaluation.predictions
    if predictions is None:
        return evaluation
    result = dict(evaluation.metrics)
    if predictions.names:
        _warn_of_missing(predictions, data or VALIDATION)
        tuning = predictions
        if tune_threshold:
            source = None if tune_threshold == VALIDATION else tune_threshold
            tuning = task.evaluate(model, source, **options).predictions
        calibrated = calibration(predictions.scores, predictions.labels, (tuning.scores, tuning.labels))
        result["calibration"] = calibrated | {"fitted_on": data_name(tune_threshold or data or VALIDATION)}
        if tune_threshold:
            result["tuned"] = tuned_metrics(predictions, tuning) | {"on": data_name(tune_threshold)}
    elif tune_threshold:
        raise ValueError("this model predicts values, which have no threshold; leave --tune-threshold out")
    return Evaluation(result | {"slices": slice_metrics(predictions, slice_by)}, predictions)


def _check_tuning(model: OpenedModel, data: str, tune_threshold: str) -> None:
    held_out = ",".join(model.config.data.validation) or VALIDATION
    if model.published is not None and tune_threshold == VALIDATION:
        raise ValueError("a published model has held nothing out; name the source of --tune-threshold")
    if len({data_name(held_out if x == VALIDATION else x) for x in (data, tune_threshold)}) == 1:
        raise ValueError(f"thresholds tuned on {data} cannot be measured on it; name other data with --data")


def _warn_of_missing(predictions: Predictions, source: str) -> None:
    occurs = np.any(predictions.true, axis=0)
    if missing := [name for name, is_present in zip(predictions.names, occurs, strict=True) if not is_present]:
        names = ", ".join(missing[:8]) + (", ..." if len(missing) > 8 else "")
        log.warning("%s holds no example of %d of the %d classes: %s.", source, len(missing), len(occurs), names)


def _checkpoint(model: OpenedModel, step: int | str) -> dict[str, Any]:
    """How the checkpoint of a result was asked for, and its step; empty for a published model."""
    return {"checkpoint": step, "step": model.step} if model.published is None else {}


def _with_fields(model: OpenedModel, task: Task | None, source: str | None, fields: dict[str, str]) -> OpenedModel:
    """The model with the fields of the records to measure on; a published one with the settings of its task."""
    config, task = model.config, task if model.published is not None else None
    data = dataclasses.replace(config.data, **{**(task.schema.fields if task else {}), **fields})
    if task is not None:
        config = dataclasses.replace(config, objective=task.objective(), data=data)  # which are checked together
    if source is not None and data.label_field:
        data = infer_source_fields(source, data, config.schema, fields)
    return dataclasses.replace(model, config=dataclasses.replace(config, data=data))


def kept_step(config: RunConfig) -> Literal["latest", "best"]:
    """The checkpoint that a run is judged by: its best, where it holds something out and keeps the best."""
    holds_out = config.data.validation or config.data.validation_fraction or config.training.evaluations
    return "best" if config.training.keep_best and holds_out else "latest"


def open_run(folder: str | Path, step: Step | None = None) -> OpenedModel:
    """A run that computes as it did in training; without a step see `kept_step`. ValueError for other models."""
    if step is None and (Path(folder) / CHECKPOINT_FOLDER).is_dir():
        step = kept_step(saved_config(Path(folder)))
    model = load(folder, step="latest" if step is None else step)
    if model.published is not None:
        raise ValueError(f"{folder} is no run, so it has held nothing out; name runs")
    return _as_trained(model)


def _as_trained(model: OpenedModel) -> OpenedModel:
    return dataclasses.replace(model, compute=dataclasses.replace(model.config.compute, remat="none"))


def evaluate_task(
    model: str | Path,
    task: PublishedTask,
    data: Sequence[str],
    output: str | Path | None = None,
    step: Step = "latest",
    **options: Any,
) -> dict[str, dict[str, Any]]:
    """Measure a model on published sets: its vectors of texts, its scores of pairs, or the words that it fills in.

    Args:
        model, step: as in `load`.
        task, options: see `evaluate_TASK`, such as `evaluate_similarity` and `evaluate_retrieval`.
        data: one or more sets: for retrieval, compression and reranking folders of BEIR, else sources as in
            `jaxencoder.text.sources`; for tasks other than probing commas join several to one set.
        output: JSON file for the results; None: a run's results.json, and for other models none.

    Returns:
        The result for each of `data`. Each is written as soon as it is computed, to {task: {name: result}}, and keeps
        those of other data; the name is the `data_name` of the source or of the relevances.

    Raises:
        ValueError: not a model, data that it cannot be measured on, or a file with results of another model.
    """
    opened = load(model, step=step)
    header, output = _results_file(model, opened, output)
    entry = _checkpoint(opened, step)
    if task == "reranking":
        if not (first := str(options.get("first") or "")):
            raise ValueError("reranking needs a model that searches; name it as first")
        options["first"] = load(first)
        entry["first"] = data_name(first) if Path(first).is_dir() else first
    if train := options.get("train"):
        entry["train"] = data_name(train)
    results = {}
    for words in data:
        sources = words.split(",") if task not in (*_BEIR_TASKS, "probing") else words
        results[words] = result = _FUNCTIONS[task](opened, sources, **options)
        name = words if task not in _BEIR_TASKS else str(qrels_file(Path(words), options.get("split", "test")))
        if output is not None:
            stored_results = header | _read_results(output)
            of_task = stored_results.get(task, {}) | {data_name(name): result | entry}
            write_json(output, stored_results | {task: of_task})
    return results


def data_name(source: str) -> str:
    """The name of a source among results, the same wherever it is named from: paths are made absolute.

    sts12/test.jsonl -> /data/sts12/test.jsonl; tfds:glue/stsb:test, s3://bucket/a.jsonl and pydocs stay.
    """
    named = re.compile(rf"pydocs$|{VALIDATION}$|\w+:")
    return ",".join(x if named.match(x) else os.path.abspath(os.path.expanduser(x)) for x in source.split(","))


def _results_file(run: str | Path, model: OpenedModel, output: str | Path | None) -> tuple[dict[str, Any], Path | None]:
    """The header and the path of the JSON file of a model's results; ValueError if it holds those of another.

    Without an output: a run's results.json, which needs no header, and no file for other models.
    """
    if output is None:
        return {}, Path(run) / RESULTS_FILE if model.published is None else None
    header = {"model": str(Path(run).absolute()) if Path(run).is_dir() else str(run)}
    output = Path(output)
    previous = _read_results(output)
    if previous and previous.get("model") != header["model"]:
        raise ValueError(f"{output} holds results of {previous.get('model', 'a run')}; give another --output")
    if not output.parent.is_dir():
        raise FileNotFoundError(f"no folder {output.parent} to write {output.name} to")
    return header, output


def _read_results(path: Path) -> dict[str, Any]:
    try:
        return read_json(path, dict) if path.exists() else {}
    except ValueError as error:
        raise ValueError(f"{error}; delete it, or name another file") from None


def _evaluate_masked(model: OpenedModel, source: str | None) -> dict[str, float]:
    config, tokenizer = model.config, require_tokenizer(model.tokenizer)
    train = training_rows(config, tokenizer)  # for the frequencies of tokens
    data = config.data if source is None else dataclasses.replace(config.data, validation=(source,))
    validation = prepare(data, tokenizer, "validation", schema=config.schema)
    if not validation:
        raise ValueError("this run has held nothing out; name a source with --data")
    config = dataclasses.replace(config, training=dataclasses.replace(config.training, eval_batches=0))
    objective = config.objective.build(config.model, model.compute, tokenizer)
    setup = Setup(config, tokenizer, train, validation, objective)
    shards = math.gcd(config.training.batch_size, jax.local_device_count())
    mesh = make_mesh(MeshConfig(), jax.local_devices()[:shards])
    with devices.compute_context(mesh, model.compute):
        return evaluator(setup, mesh)(TrainState(jnp.int32(config.training.steps), model.params, None, None))
