"""A readable report on a classifier or regressor: Markdown, plots (PNG files), and each prediction.

Reliability diagrams are those of Guo et al. 2017, arXiv:1706.04599, with the number of examples per bin.
"""

import contextlib
import os
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.special

from jaxencoder.config import RunConfig
from jaxencoder.evaluation.calibration import Reliability, as_decisions, reliability_bins
from jaxencoder.evaluation.tables import one_line
from jaxencoder.inference.writers import open_writer
from jaxencoder.tasks.classification.classify import decide
from jaxencoder.tasks.classification.predict import Predictions
from jaxencoder.text.sources.records import Record

PREDICTIONS_FILE = "predictions.jsonl"

_MAX_ERRORS = 10  # examples shown
_MAX_CHARACTERS = 160  # of a text
_MAX_CONFUSIONS = 15  # pairs of classes listed
_MAX_NUMBERED = 20  # with more classes, cells of the plot are too small for numbers
_BLUE, _RED, _GRAY = "#3b6ea5", "#c44e52", "#666666"


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
    with tempfile.TemporaryDirectory(prefix=".part.", dir=folder, ignore_cleanup_errors=True) as name:
        part = Path(name)
        with open_writer(part / PREDICTIONS_FILE, vectors=False) as write:
            write(prediction_records(predictions))
        if predictions.names:
            scores, labels = as_decisions(predictions.scores, predictions.labels)
            bins = reliability_bins(scipy.special.softmax(scores, axis=-1), labels)
            plot_reliability(part / "reliability.png", bins)
            if not predictions.is_multi_label:
                plot_confusion(part / "confusion.png", confusion_matrix(predictions), predictions.names)
        else:
            plot_values(part / "scatter.png", predictions.labels, predictions.scores[:, 0])
        text = "\n\n".join(_blocks(predictions, result, title, config, step)) + "\n"
        (part / "report.md").write_text(text, encoding="utf-8")
        for path in sorted(part.iterdir()):
            os.replace(path, folder / path.name)


def prediction_records(predictions: Predictions) -> list[Record]:
    """Records {"record", "truth", "prediction"}, for classes also with "probability" and "probabilities"."""
    names, records = predictions.names, []
    decisions = decide(predictions.scores, names, np.full(len(names), 0.5) if predictions.is_multi_label else None)
    for record, label, decision in zip(predictions.records, predictions.labels, decisions, strict=True):
        if predictions.is_multi_label:
            truth = [names[c] for c in np.flatnonzero(label)]
        else:
            truth = names[label] if names else float(label)
        records.append({"record": record, "truth": truth, "prediction": decision.prediction})
        if names:
            records[-1] |= {"probability": decision.probability, "probabilities": decision.probabilities}
    return records


def confusion_matrix(predictions: Predictions) -> np.ndarray:
    """How often each class (rows: true) was predicted as each: int64 [C, C]."""
    from sklearn import metrics

    classes = np.arange(len(predictions.names))
    return metrics.confusion_matrix(predictions.labels, predictions.scores.argmax(-1), labels=classes)


def _blocks(
    predictions: Predictions, result: dict[str, Any], title: str, config: RunConfig, step: int | str
) -> Iterator[str]:
    """The paragraphs, tables and images of the report."""
    data, truncated = config.data, predictions.truncated
    kind = f"{len(predictions.names)} classes" if predictions.names else "values"
    kind = f"any of {kind}" if predictions.is_multi_label else kind
    fields = " and ".join(filter(None, (data.text_field, data.pair_field)))
    summary = f"{len(predictions.records)} records, {kind}; checkpoint: {step}."
    summary += f" Texts: {fields}; labels: {data.label_field}."
    if long := int((predictions.tokens > data.row_length).sum()):
        treatments = {"truncated": truncated, "read in windows": long - truncated}
        counts = ", ".join(f"{count} {treatment}" for treatment, count in treatments.items() if count)
        summary += f"\n{long} records are longer than the {data.row_length} tokens of a row: {counts}."
    yield from (f"# {title}", summary, "## Metrics", _table(("metric", "value"), _numbers(result, int | float)))
    if predictions.names:
        yield from _classes(predictions, result)
    else:
        yield "![Predicted and true values](scatter.png)"
    for name, slices in result["slices"].items():
        yield from (f"## By {name}", _named_table("slice", slices))
    yield from _errors(predictions, data.text_field, data.pair_field)


def _classes(predictions: Predictions, result: dict[str, Any]) -> Iterator[str]:
    yield from ("## Classes", _named_table("class", result["classes"]))
    if predictions.is_multi_label:
        yield "A record has any number of classes, so that there is no confusion matrix."
    else:
        yield "![Confusion matrix](confusion.png)"
        names, matrix = predictions.names, confusion_matrix(predictions)
        np.fill_diagonal(matrix, 0)
        order = np.argsort(-matrix, axis=None, kind="stable")[:_MAX_CONFUSIONS]
        pairs = [np.unravel_index(i, matrix.shape) for i in order if matrix.flat[i]]
        if pairs:
            rows = [(names[i], names[j], int(matrix[i, j])) for i, j in pairs]
            yield _table(("true", "predicted as", "times"), rows)
    calibration = result["calibration"]
    yield "## Calibration"
    yield (
        "Expected and maximum calibration error of 15 bins, Brier score, the temperature by which to divide scores,\n"
        f"fitted on {calibration['fitted_on']}, and the expected error at that temperature."
    )
    yield from (_table(("metric", "value"), _numbers(calibration, int | float)), "![Reliability](reliability.png)")
    if tuned := result.get("tuned"):
        yield "## Thresholds"
        yield (
            f"Thresholds of the best F1 on {tuned['on']}, each class against the rest. argmax_f1 is the F1 of\n"
            "predicting the most probable class, half_f1 that of a threshold of one half."
        )
        if tuned["classes"]:
            yield _named_table("class", tuned["classes"])
        if numbers := _numbers(tuned, float):
            yield _table(("metric with the threshold", "value"), numbers)


def _errors(predictions: Predictions, text_field: str, pair_field: str) -> Iterator[str]:
    """The most confident wrong predictions, or the values furthest from the truth."""
    names, labels, scores = predictions.names, predictions.labels, predictions.scores
    header, title = ("true", "predicted", "probability", "text"), "Most confidently wrong"
    if predictions.is_multi_label:  # each record counts by its worst decision
        header, probabilities = ("class", "true", "probability", "text"), predictions.probabilities
        is_wrong = predictions.predicted != predictions.true
        decision_errors = np.where(is_wrong, np.abs(probabilities - 0.5) + 0.5, 0)
        errors, worst = decision_errors.max(-1), (np.arange(len(labels)), decision_errors.argmax(-1))
        decided = [names[c] for c in worst[1]], ["yes" if label else "no" for label in labels[worst]]
        columns = (*decided, probabilities[worst].tolist())
    elif names:
        errors = np.where(scores.argmax(-1) != labels, predictions.probabilities.max(-1), 0)
        columns = [names[c] for c in labels], [names[c] for c in scores.argmax(-1)], errors.tolist()
    else:
        header, title = ("true", "predicted", "error", "text"), "Furthest from the truth"
        errors = np.abs(scores[:, 0] - labels)
        columns = labels.tolist(), scores[:, 0].tolist(), errors.tolist()
    rows = []
    for i in [i for i in np.argsort(-errors, kind="stable")[:_MAX_ERRORS] if errors[i]]:
        record = predictions.records[i]
        text = record[text_field] + (f" | {record[pair_field]}" if pair_field else "")
        rows.append((*(column[i] for column in columns), text))
    yield from (f"## {title}", _table(header, rows) if rows else "None.")


def _numbers(result: dict[str, Any], kind: Any) -> list[tuple[str, Any]]:
    return [(name, value) for name, value in result.items() if isinstance(value, kind)]


def _named_table(kind: str, rows: dict[str, dict[str, Any]]) -> str:
    """A table with a row for each name."""
    return _table((kind, *next(iter(rows.values()))), [(name, *row.values()) for name, row in rows.items()])


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = (header, ["---"] * len(header), *([_cell(value) for value in row] for row in rows))
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    text = one_line(str(value))
    text = text if len(text) <= _MAX_CHARACTERS else text[:_MAX_CHARACTERS] + "…"
    for character in "\\|<*`[":
        text = text.replace(character, "\\" + character)
    return text


def plot_confusion(path: Path, matrix: np.ndarray, names: Sequence[str]) -> None:
    """Plot how often each class (rows: true) was predicted as each, int [C, C], colored by the fraction of the row."""
    C = len(names)
    fractions = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    with _figure(path, min(3 + 0.45 * C, 18), min(2.5 + 0.4 * C, 16)) as axes:
        axes.imshow(fractions, cmap="Blues", vmin=0, vmax=1)
        font_size = 9 if C <= _MAX_NUMBERED else 6
        labels = [name if len(name) <= 24 else name[:23] + "…" for name in names]
        axes.set_xticks(range(C), labels, rotation=90, fontsize=font_size, parse_math=False)
        axes.set_yticks(range(C), labels, fontsize=font_size, parse_math=False)
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")
        for i, j in np.ndindex(C, C) if C <= _MAX_NUMBERED else ():
            color = "white" if fractions[i, j] > 0.5 else "black"
            axes.text(j, i, f"{matrix[i, j]}", ha="center", va="center", color=color, fontsize=font_size)


def plot_reliability(path: Path, bins: Reliability) -> None:
    """Plot the accuracy and the number of examples of each bin of confidence."""
    M = len(bins.examples)
    edges, filled = np.arange(M) / M, bins.examples > 0
    with _figure(path, 5, 4.6) as axes:
        axes.bar(edges[filled], bins.accuracy[filled], 1 / M, align="edge", color=_BLUE, edgecolor="white")
        axes.plot(bins.confidence[filled], bins.accuracy[filled], "o", color=_RED, markersize=4, label="mean of a bin")
        axes.plot([0, 1], [0, 1], "--", color=_GRAY, label="calibrated")
        axes.bar(edges, 0.2 * bins.examples / bins.examples.max(), 1 / M, align="edge", color=_GRAY, alpha=0.6)
        axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", ylabel="accuracy (gray: number of examples)")
        axes.set_title(f"ECE {bins.ece:.3f}, largest gap {bins.mce:.3f}", fontsize=10)
        axes.legend(loc="upper left", fontsize=8)


def plot_values(path: Path, true: np.ndarray, predicted: np.ndarray) -> None:
    """Plot predicted against true values, [N] each."""
    with _figure(path, 5, 4.6) as axes:
        axes.plot(true, predicted, ".", color=_BLUE, alpha=0.4, markersize=5)
        limits = [min(true.min(), predicted.min()), max(true.max(), predicted.max())]
        axes.plot(limits, limits, "--", color=_GRAY)
        axes.set(xlabel="true", ylabel="predicted")


@contextlib.contextmanager
def _figure(path: Path, width: float, height: float) -> Iterator:
    """Axes of a size in inches, saved on exit."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # takes a second to import
    from matplotlib.figure import Figure

    figure = Figure((width, height), layout="constrained")
    FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # characters that the font lacks are drawn as boxes
        yield figure.subplots()
        figure.savefig(path, dpi=120)
