"""The metrics of a run, or of a published model, on labelled data, and of any model's vectors, kept as JSON."""

import dataclasses
import logging
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxencoder.checkpoints.initial import CHECKPOINT_FOLDER, saved_config
from jaxencoder.config import RunConfig
from jaxencoder.inference import devices
from jaxencoder.inference.load import load
from jaxencoder.inference.model import OpenedModel
from jaxencoder.inference.windows import Long
from jaxencoder.sharding import MeshConfig, make_mesh
from jaxencoder.tasks.calibration import calibration
from jaxencoder.tasks.classification.classify import ScorePooling, class_names, classifies
from jaxencoder.tasks.classification.multi_label import calibration_of_decisions, multi_label_metrics, per_label
from jaxencoder.tasks.classification.predict import Predictions, class_metrics, per_class, predictions, value_metrics
from jaxencoder.tasks.multiple_choice.objective import MultipleChoice
from jaxencoder.tasks.multiple_choice.predict import evaluate_chooser
from jaxencoder.tasks.probing import evaluate_probing
from jaxencoder.tasks.question_answering import objective as spans
from jaxencoder.tasks.question_answering.predict import evaluate_reader
from jaxencoder.tasks.records import with_texts
from jaxencoder.tasks.report import write_report
from jaxencoder.tasks.reranking import evaluate_reranking
from jaxencoder.tasks.results import read_results, results_file, write_results
from jaxencoder.tasks.retrieval import evaluate_retrieval, qrels_file
from jaxencoder.tasks.similarity import evaluate_similarity
from jaxencoder.tasks.slices import slices
from jaxencoder.tasks.thresholds import tuned
from jaxencoder.tasks.token_classification import objective as tokens
from jaxencoder.tasks.token_classification.predict import evaluate_tagger, tag_name
from jaxencoder.text.examples import answers, choices_of, right_choice, tags
from jaxencoder.text.held_out import validation_records
from jaxencoder.text.row_cache import prepare
from jaxencoder.text.sources.fields import infer_source_fields
from jaxencoder.text.store import Store
from jaxencoder.training.loop import evaluator
from jaxencoder.training.setup import Setup, training_rows
from jaxencoder.training.step import TrainState

log = logging.getLogger(__name__)

REPORT_FOLDER = "report"
VALIDATION = "validation"  # names the run's own


def evaluate(
    run: str | Path,
    data: str | None = None,
    step: int | Literal["latest", "best"] = "latest",
    report: str | Path | None = None,
    output: str | Path | None = None,
    text_field: str | None = None,
    pair_field: str | None = None,
    label_field: str | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Measure a run, on all that was held out or on another source, or a published model with a head.

    Args:
        run: folder of the run, or of transformers with a classifier, a tagger or a reader, or its name of the hub.
        data: source to measure on; None: the run's validation data.
        step: which checkpoint; "best" by the run's own `training.best_metric`.
        report: folder for a readable report of a classifier or regressor; None: report/NAME in the run's folder, and
            none of a published model.
        output: JSON file for the result; None: the run's results.json, and none of a published model.
        text_field, pair_field, label_field: of the source; None: those of the run, of a published classifier text, no
            pairs and label, of a tagger tokens and tags, of a reader question, context and answers; or usual names.
        options: of `evaluate_classifier`; there are none for others.

    Returns:
        For masked language models loss (nats a masked token), accuracy, perplexity (exp(loss): the "pseudo-perplexity"
        of Salazar et al. 2020, arXiv:1910.14659, but many tokens masked at once) and unigram_loss, what predicting each
        token by its frequency in the training data would lose. For classes and values see `evaluate_classifier`. The
        same is put into the JSON file, under "validation" or the source's `data_name`.

    Raises:
        ValueError: nothing was held out, or a published model has no head that can be measured.
        OSError: the run or the data cannot be read, or the result cannot be written.
    """
    name = data_name(data) if data else VALIDATION
    model = load(run, step=step)
    if model.published is None:
        model = _as_trained(model)
    elif data is None or _head_settings(model) is None:
        raise ValueError(
            f"{run} is no run and has held nothing out; measure it with --task similarity or retrieval, or on labelled "
            "--data where it has a head for classes, tags or answers"
        )
    model = _with_fields(model, data, {"text_field": text_field, "pair_field": pair_field, "label_field": label_field})
    header, output = results_file(run, model, output)
    if output is not None:
        read_results(output)  # what cannot be added to is said now, not after minutes
    found = None
    if classifies(model):
        result, found = evaluate_classifier(model, data, **options)
    elif report is not None or any(options.values()):
        raise ValueError(f"{run} is no classifier of texts, and of others there is no report; leave its options out")
    elif model.heads.keys() & {tokens.NAME, spans.NAME} or isinstance(model.config.objective, MultipleChoice):
        result = evaluate_words(model, data)
    else:
        result = _evaluate_masked(model, *_stores(model, data))
    if report is None and model.published is None:
        report = Path(run) / REPORT_FOLDER / _as_folder(name)
    if found is not None and report is not None:
        result["report"] = str(report)
        write_report(Path(report), found, result, f"{Path(run).name} on {name}", model.config, step)
    if output is not None:
        write_results(output, header | read_results(output) | {name: result | _checkpoint(model, step)})
    return result


def _checkpoint(model: OpenedModel, step: int | str) -> dict[str, Any]:
    """What a result says of the checkpoint: how it was asked for, and its step. Nothing of a published model."""
    return {"checkpoint": step, "step": model.step} if model.published is None else {}


def _head_settings(model: OpenedModel) -> tuple[dict[str, Any], dict[str, str]] | None:
    """What a run for a published model's head has in its configuration, and in its data; None without such a head."""
    if classifies(model):
        return {}, {"text_field": "text", "label_field": "label"}
    if tokens.NAME in model.heads:
        fields = {"text_field": "tokens", "label_field": "tags", "label_unit": "word"}
        return {"objective": tokens.TokenClassification()}, fields
    if spans.NAME in model.heads:
        fields = {"text_field": "question", "pair_field": "context", "label_field": "answers", "label_unit": "span"}
        return {"objective": spans.QuestionAnswering()}, fields
    return None


def _with_fields(model: OpenedModel, source: str | None, given: dict[str, str | None]) -> OpenedModel:
    """The model with the fields of the records on which it is measured."""
    settings, fields = (None if model.published is None else _head_settings(model)) or ({}, {})
    named = {name: value for name, value in given.items() if value is not None}
    data = dataclasses.replace(model.config.data, **fields | named)
    if source is not None and data.label_field:
        data = infer_source_fields(source, data, named)
    return dataclasses.replace(model, config=dataclasses.replace(model.config, data=data, **settings))


def kept_step(config: RunConfig) -> Literal["latest", "best"]:
    """The checkpoint that a run is judged by: its best, where it holds something out and keeps the best."""
    holds_out = config.data.validation or config.data.validation_fraction
    return "best" if config.training.keep_best and holds_out else "latest"


def open_run(folder: str | Path, step: int | Literal["latest", "best"] | None = None) -> OpenedModel:
    """A run that computes as it did in training.

    Args:
        folder: of the run.
        step: which checkpoint; None: see `kept_step`.

    Raises:
        ValueError: no run.
        OSError: there is none, or not that checkpoint.
    """
    if step is None and (Path(folder) / CHECKPOINT_FOLDER).is_dir():
        step = kept_step(saved_config(Path(folder)))
    model = load(folder, step="latest" if step is None else step)
    if model.published is not None:
        raise ValueError(f"{folder} is no run and has held nothing out; measure it with a --task")
    return _as_trained(model)


def _as_trained(model: OpenedModel) -> OpenedModel:
    return dataclasses.replace(model, compute=dataclasses.replace(model.config.compute, remat="none"))


def evaluate_classifier(
    model: OpenedModel,
    data: str | None = None,
    slice_by: Sequence[str] = (),
    tune_threshold: str | None = None,
    long: Long = "truncate",
    stride: int | None = None,
    window_pooling: ScorePooling | None = None,
) -> tuple[dict[str, Any], Predictions]:
    """The metrics of a classifier, of what it predicts for each record.

    Args:
        model: of a run with the objective Classification, or a published classifier.
        data: source to measure on; None: the run's validation data.
        slice_by: fields of the records, by whose values the metrics are shown too.
        tune_threshold: source on which the thresholds of classes are chosen, "validation" for the run's own.
        long, stride, window_pooling: as in `Model.classify`.

    Returns:
        (metrics, predictions): for values `value_metrics`; for classes `class_metrics` with "classes", by name what
        `per_class` gives, "calibration" (see `calibration`; "fitted_on" says where the temperature is from) and, if
        asked for, "tuned" (see `tuned`; "on" says on what); for several classes of each record the same by
        `multi_label_metrics`, `per_label` and `calibration_of_decisions`. All with "slices" (see `slices`).

    Raises:
        ValueError: a record without text or label, a label that training has not seen, thresholds that would be tuned
            on what they are measured on, or a field that no record has.
        OSError: a source cannot be read.
    """
    own = data or VALIDATION
    held_out = ",".join(model.config.data.validation) or VALIDATION
    if tune_threshold and model.published is not None and tune_threshold == VALIDATION:
        raise ValueError("a published model has held nothing out; name the source of --tune-threshold")
    if tune_threshold and len({data_name(held_out if x == VALIDATION else x) for x in (own, tune_threshold)}) == 1:
        raise ValueError(f"thresholds tuned on {own} cannot be measured on it; name other data with --data")
    if tune_threshold and not class_names(model):
        raise ValueError("this model predicts values, which have no threshold; leave --tune-threshold out")
    found = predictions(model, data, long, stride, window_pooling)
    parts = {"slices": slices(found, slice_by)}
    if not found.names:
        return value_metrics(found.scores[:, 0], found.labels) | parts, found
    _warn_of_missing(found, own)
    source = None if tune_threshold in (None, VALIDATION) else tune_threshold
    tuning = predictions(model, source, long, stride, window_pooling) if tune_threshold else found
    whole, each, calibrated = (
        (multi_label_metrics, per_label, calibration_of_decisions)
        if found.several
        else (class_metrics, per_class, calibration)
    )
    classes = dict(zip(found.names, each(found.scores, found.labels), strict=True))
    measured = calibrated(found.scores, found.labels, (tuning.scores, tuning.labels))
    result = whole(found.scores, found.labels) | {"classes": classes}
    result["calibration"] = measured | {"fitted_on": data_name(tune_threshold or own)}
    if tune_threshold:
        result["tuned"] = tuned(found, tuning) | {"on": data_name(tune_threshold)}
    return result | parts, found


def _warn_of_missing(found: Predictions, source: str) -> None:
    missing = [name for name, there in zip(found.names, found.true.any(0), strict=True) if not there]
    if missing:
        which = ", ".join(missing[:8]) + (", ..." if len(missing) > 8 else "")
        log.warning("%s holds no example of %d of the %d classes: %s.", source, len(missing), len(found.names), which)


def evaluate_task(
    model: str | Path,
    task: Literal["similarity", "retrieval", "reranking", "probing"],
    data: Sequence[str],
    output: str | Path | None = None,
    step: int | Literal["latest", "best"] = "latest",
    **options: Any,
) -> dict[str, dict[str, Any]]:
    """Measure a model on published sets: its vectors of texts, its scores of pairs, or the words that it fills in.

    Args:
        model: folder of a run, of transformers or of sentence-transformers, or a name of the hub.
        task: "similarity" of pairs, "retrieval" of documents, "reranking" of what another model retrieves, or
            "probing" with masked words.
        data: one or more sets. For similarity each is a source as in `jaxencoder.text.sources`, or several with commas
            between; for retrieval and reranking the folder of a BEIR set; for probing a source.
        output: JSON file for the results; None: a run's results.json, and for other models none.
        step: which checkpoint of a run.
        options: of `evaluate_similarity`, `evaluate_retrieval`, `evaluate_reranking` or `evaluate_probing`.

    Returns:
        The result for each of `data`. It is written as soon as it is known, to {task: {name: result}}, beside those of
        other data and in place of an older one; the name is the `data_name` of the source or of the relevances. In a
        file of one's own "model" says whose results they are.

    Raises:
        ValueError: not a model, data that it cannot be measured on, or a file with results of another model.
        OSError: something cannot be read or written.
    """
    opened = load(model, step=step)
    header, output = results_file(model, opened, output)
    entry = _checkpoint(opened, step)
    if task == "reranking":
        if not (first := str(options.get("first") or "")):
            raise ValueError("reranking needs a model that searches; name it as first")
        options["first"] = load(first)
        entry["first"] = data_name(first) if Path(first).is_dir() else first
    results = {}
    for words in data:
        if task == "similarity":
            result, name = evaluate_similarity(opened, words.split(","), **options), data_name(words)
        elif task == "probing":
            result, name = evaluate_probing(opened, words, **options), data_name(words)
        else:
            result = (evaluate_reranking if task == "reranking" else evaluate_retrieval)(opened, words, **options)
            name = data_name(str(qrels_file(Path(words), options.get("split", "test"))))
        results[words] = result
        if output is not None:
            there = header | read_results(output)
            write_results(output, there | {task: there.get(task, {}) | {name: result | entry}})
    return results


def data_name(source: str) -> str:
    """The name of a source among results, the same wherever it is named from: paths are made absolute.

    sts12/test.jsonl -> /data/sts12/test.jsonl; tfds:glue/stsb:test, s3://bucket/a.jsonl and pydocs stay.
    """
    named = re.compile(rf"pydocs$|{VALIDATION}$|\w+:")
    return ",".join(x if named.match(x) else os.path.abspath(os.path.expanduser(x)) for x in source.split(","))


def _as_folder(name: str) -> str:
    """A folder's name of a source's: /data/sst2/test.jsonl -> data-sst2-test-jsonl, its end where it is long."""
    return re.sub(r"[^\w.]+", "-", name)[-80:].strip("-.")


def _stores(model: OpenedModel, source: str | None) -> tuple[tuple[tuple[Store, ...], ...], tuple[Store, ...]]:
    """The rows of training, for the frequencies of tokens, and the rows to measure on."""
    data = model.config.data
    train = training_rows(model.config, model.tokenizer)
    if source is not None:
        data = dataclasses.replace(data, validation=(source,))
    validation = prepare(data, model.tokenizer, "validation")
    if not validation:
        raise ValueError("this run has held nothing out; name a source with --data")
    return train, validation


def evaluate_words(model: OpenedModel, source: str | None = None) -> dict[str, Any]:
    """The metrics of a tagger, a reader or a chooser on the records that were held out, or on those of a source."""
    data = model.config.data
    if source is not None:
        data = dataclasses.replace(data, validation=(source,))
    found = validation_records(data)
    if tokens.NAME in model.heads:
        examples = (
            (words, [tag_name(x, model.labels, where) for x in tags(record[data.label_field], words, where)])
            for where, record in found
            if (words := record[data.text_field])
        )
        return evaluate_tagger(model, examples)
    if isinstance(model.config.objective, MultipleChoice):
        examples = (
            (record[data.text_field], own, right_choice(record[data.label_field], own, where))
            for where, record in found
            if (own := choices_of(record[data.pair_field], where))
        )
        return evaluate_chooser(model, examples)
    no_answer = None
    if model.published is not None:  # what such a model has learned to leave open, only the data can tell
        no_answer = any(not any(answers(x[data.label_field], where)) for where, x in validation_records(data))
    checked = ((where, with_texts(record, (data.pair_field,), where)) for where, record in found)
    examples = ((x[data.text_field], x[data.pair_field], answers(x[data.label_field], where)) for where, x in checked)
    return evaluate_reader(model, examples, no_answer)


def _evaluate_masked(
    model: OpenedModel, train: tuple[tuple[Store, ...], ...], validation: tuple[Store, ...]
) -> dict[str, float]:
    config = model.config
    config = dataclasses.replace(config, training=dataclasses.replace(config.training, eval_batches=0))
    objective = config.objective.build(config.model, model.compute, model.tokenizer)
    setup = Setup(config, model.tokenizer, train, validation, objective)
    shards = math.gcd(config.training.batch_size, jax.local_device_count())
    mesh = make_mesh(MeshConfig(), jax.local_devices()[:shards])
    with devices.in_use(mesh, model.compute):
        return evaluator(setup, mesh)(TrainState(jnp.int32(config.training.steps), model.params, None, None))
