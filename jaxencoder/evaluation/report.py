"""A readable report on a classifier or regressor: Markdown, plots, and each prediction."""

import os
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.special

from jaxencoder.config import RunConfig
from jaxencoder.evaluation import plots
from jaxencoder.evaluation.calibration import as_decisions, reliability_bins
from jaxencoder.evaluation.tables import one_line
from jaxencoder.inference.writers import open_writer
from jaxencoder.tasks.classification.classify import decide
from jaxencoder.tasks.classification.predict import Predictions
from jaxencoder.text.sources.records import Record

PREDICTIONS_FILE = "predictions.jsonl"

_MAX_ERRORS = 10  # examples shown
_MAX_CHARACTERS = 160  # of a text
_MAX_CONFUSIONS = 15  # pairs of classes listed


def write_report(
    folder: Path, predictions: Predictions, result: dict[str, Any], title: str, config: RunConfig, step: int | str
) -> None:
    """Write report.md, its plots and predictions.jsonl into a folder, each file atomically.

    Args:
        folder: created if missing; files of an older report are replaced.
        predictions, result: from `evaluate_model`.
        title: names the model and the data.
        config, step: of the run and its checkpoint.
    """
    folder.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=".part.", dir=folder))
    try:
        with open_writer(part / PREDICTIONS_FILE, vectors=False) as write:
            write(prediction_records(predictions))
        if predictions.names:
            scores, labels = as_decisions(predictions.scores, predictions.labels)
            bins = reliability_bins(scipy.special.softmax(scores, axis=-1), labels)
            plots.plot_reliability(part / "reliability.png", bins)
            if not predictions.is_multi_label:
                plots.plot_confusion(part / "confusion.png", confusion_matrix(predictions), predictions.names)
        else:
            plots.plot_values(part / "scatter.png", predictions.labels, predictions.scores[:, 0])
        text = "\n".join(_report(predictions, result, title, config, step)) + "\n"
        (part / "report.md").write_text(text, encoding="utf-8")
        for path in sorted(part.iterdir()):
            os.replace(path, folder / path.name)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def prediction_records(predictions: Predictions) -> list[Record]:
    """Records {"record", "truth", "prediction"}, for classes also with "probability" and "probabilities"."""
    minimum = np.full(len(predictions.names), 0.5) if predictions.is_multi_label else None
    decisions = decide(predictions.scores, predictions.names, minimum)
    return [
        {"record": record, "truth": _truth(predictions, i), "prediction": decision.prediction}
        | ({"probability": decision.probability, "probabilities": decision.probabilities} if predictions.names else {})
        for i, (record, decision) in enumerate(zip(predictions.records, decisions, strict=True))
    ]


def _truth(predictions: Predictions, i: int) -> str | list[str] | float:
    names, label = predictions.names, predictions.labels[i]
    if predictions.is_multi_label:
        return [names[c] for c in np.flatnonzero(label)]
    return names[label] if names else float(label)


def confusion_matrix(predictions: Predictions) -> np.ndarray:
    """How often each class (rows: true) was predicted as each: int64 [C, C]."""
    from sklearn import metrics

    classes = np.arange(len(predictions.names))
    return metrics.confusion_matrix(predictions.labels, predictions.scores.argmax(-1), labels=classes)


def _report(
    predictions: Predictions, result: dict[str, Any], title: str, config: RunConfig, step: int | str
) -> Iterable[str]:
    data, truncated = config.data, predictions.truncated
    kind = f"{len(predictions.names)} classes" if predictions.names else "values"
    kind = f"any of {kind}" if predictions.is_multi_label else kind
    fields = " and ".join(filter(None, (data.text_field, data.pair_field)))
    yield from (f"# {title}", "")
    count = len(predictions.records)
    yield f"{count} records, {kind}; checkpoint: {step}. Texts: {fields}; labels: {data.label_field}."
    if long := int((predictions.tokens > data.row_length).sum()):
        treatments = {"truncated": truncated, "read in windows": long - truncated}
        counts = ", ".join(f"{count} {treatment}" for treatment, count in treatments.items() if count)
        yield f"{long} records are longer than the {data.row_length} tokens of a row: {counts}."
    yield from ("", "## Metrics", "")
    yield from _table(("metric", "value"), _numbers(result, int | float))
    if predictions.names:
        yield from _classes(predictions, result)
    else:
        yield from ("", "![Predicted and true values](scatter.png)")
    for name, slices in result["slices"].items():
        yield from ("", f"## By {name}", "")
        yield from _named_table("slice", slices)
    yield from _errors(predictions, data.text_field, data.pair_field)


def _classes(predictions: Predictions, result: dict[str, Any]) -> Iterable[str]:
    yield from ("", "## Classes", "")
    yield from _named_table("class", result["classes"])
    if predictions.is_multi_label:
        yield from ("", "A record has any number of classes, so that there is no confusion matrix.")
    else:
        yield from ("", "![Confusion matrix](confusion.png)", "")
        names, matrix = predictions.names, confusion_matrix(predictions)
        np.fill_diagonal(matrix, 0)
        order = np.argsort(-matrix, axis=None, kind="stable")[:_MAX_CONFUSIONS]
        pairs = [np.unravel_index(i, matrix.shape) for i in order if matrix.flat[i]]
        rows = [(names[i], names[j], int(matrix[i, j])) for i, j in pairs]
        yield from _table(("true", "predicted as", "times"), rows) if rows else ()
    calibration = result["calibration"]
    yield from ("", "## Calibration", "")
    yield "Expected and maximum calibration error of 15 bins, Brier score, the temperature by which to divide scores,"
    yield f"fitted on {calibration['fitted_on']}, and the expected error at that temperature."
    yield ""
    yield from _table(("metric", "value"), _numbers(calibration, int | float))
    yield from ("", "![Reliability](reliability.png)")
    if tuned := result.get("tuned"):
        yield from ("", "## Thresholds", "")
        yield f"Thresholds of the best F1 on {tuned['on']}, each class against the rest. argmax_f1 is the F1 of"
        yield "predicting the most probable class, half_f1 that of a threshold of one half."
        yield ""
        yield from _named_table("class", tuned["classes"]) if tuned["classes"] else ()
        if numbers := _numbers(tuned, float):
            yield ""
            yield from _table(("metric with the threshold", "value"), numbers)


def _errors(predictions: Predictions, text_field: str, pair_field: str) -> Iterable[str]:
    """The most confident wrong predictions, or the values furthest from the truth."""
    names, labels, scores = predictions.names, predictions.labels, predictions.scores
    header, title = ("true", "predicted", "probability", "text"), "Most confidently wrong"
    if predictions.is_multi_label:  # each record counts by its worst decision
        is_wrong = predictions.predicted != predictions.true
        decision_errors = np.where(is_wrong, np.abs(predictions.probabilities - 0.5) + 0.5, 0)
        errors, header = decision_errors.max(-1), ("class", "true", "probability", "text")
    elif names:
        errors = np.where(scores.argmax(-1) != labels, predictions.probabilities.max(-1), 0)
    else:
        errors = np.abs(scores[:, 0] - labels)
        header, title = ("true", "predicted", "error", "text"), "Furthest from the truth"
    rows = []
    for i in filter(lambda i: errors[i], np.argsort(-errors, kind="stable")[:_MAX_ERRORS].tolist()):
        if predictions.is_multi_label:
            c = int(decision_errors[i].argmax())
            row = (names[c], "yes" if labels[i, c] else "no", float(predictions.probabilities[i, c]))
        elif names:
            row = (names[labels[i]], names[scores[i].argmax()], float(errors[i]))
        else:
            row = (float(labels[i]), float(scores[i, 0]), float(errors[i]))
        record = predictions.records[i]
        rows.append((*row, record[text_field] + (f" | {record[pair_field]}" if pair_field else "")))
    yield from ("", f"## {title}", "")
    yield from _table(header, rows) if rows else ("None.",)


def _numbers(result: dict[str, Any], kind: Any) -> list[tuple[str, Any]]:
    return [(name, value) for name, value in result.items() if isinstance(value, kind)]


def _named_table(kind: str, rows: dict[str, dict[str, Any]]) -> Iterable[str]:
    """A table with a row for each name."""
    return _table((kind, *next(iter(rows.values()))), ((name, *row.values()) for name, row in rows.items()))


def _table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> Iterable[str]:
    """Lines of a Markdown table."""
    for cells in (header, ["---"] * len(header), *([_cell(value) for value in row] for row in rows)):
        yield f"| {' | '.join(cells)} |"


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    text = one_line(str(value))
    text = text if len(text) <= _MAX_CHARACTERS else text[:_MAX_CHARACTERS] + "…"
    for character in "\\|<*`[":
        text = text.replace(character, "\\" + character)
    return text
