"""A readable report of what a classifier or regressor was measured to do: Markdown, drawings, and each prediction."""

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
from jaxencoder.evaluation.calibration import reliability
from jaxencoder.evaluation.tables import one_line
from jaxencoder.inference.writers import open_writer
from jaxencoder.tasks.classification.classify import decide
from jaxencoder.tasks.classification.predict import Predictions
from jaxencoder.text.sources.records import Record

PREDICTIONS_FILE = "predictions.jsonl"

_WRONG = 10  # examples that are shown
_TEXT = 160  # characters of a text that are shown
_CONFUSIONS = 15  # pairs of classes that are listed


def write_report(
    folder: Path, found: Predictions, result: dict[str, Any], title: str, config: RunConfig, step: int | str
) -> None:
    """Write report.md, its drawings and predictions.jsonl into a folder, each file whole or not at all.

    Args:
        folder: created when missing; files of an older report are replaced.
        found, result: of `evaluate_model`.
        title: what was measured on what.
        config, step: of the run, and the checkpoint that was measured.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=".part.", dir=folder))
    try:
        with open_writer(part / PREDICTIONS_FILE, vectors=False) as write:
            write(lines(found))
        if found.is_multi_label:
            scores, labels = as_decisions(found.scores, found.labels)
            plots.reliability(part / "reliability.png", reliability(scipy.special.softmax(scores, axis=-1), labels))
        elif found.names:
            plots.confusion(part / "confusion.png", confusion_matrix(found), found.names)
            plots.reliability(part / "reliability.png", reliability(found.probabilities, found.labels))
        else:
            plots.scatter(part / "scatter.png", found.labels, found.scores[:, 0])
        text = "\n".join(_report(found, result, title, config, step)) + "\n"
        (part / "report.md").write_text(text, encoding="utf-8")
        for path in sorted(part.iterdir()):
            os.replace(path, folder / path.name)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def lines(found: Predictions) -> list[Record]:
    """For each record {"record", "truth", "prediction"} and, of classes, "probability" and "probabilities"."""
    least = np.full(len(found.names), 0.5) if found.is_multi_label else None
    truths = [_truth(found, i) for i in range(len(found.records))]
    both = zip(found.records, truths, decide(found.scores, found.names, least), strict=True)
    return [
        {"record": record, "truth": truth, "prediction": one.prediction}
        | ({"probability": one.probability, "probabilities": one.probabilities} if found.names else {})
        for record, truth, one in both
    ]


def _truth(found: Predictions, i: int) -> str | list[str] | float:
    if found.is_multi_label:
        return [found.names[c] for c in np.flatnonzero(found.labels[i])]
    return found.names[found.labels[i]] if found.names else float(found.labels[i])


def confusion_matrix(found: Predictions) -> np.ndarray:
    """How often each class (rows: true) was predicted as each: int64 [C, C]."""
    from sklearn import metrics

    return metrics.confusion_matrix(found.labels, found.scores.argmax(-1), labels=np.arange(len(found.names)))


def _report(
    found: Predictions, result: dict[str, Any], title: str, config: RunConfig, step: int | str
) -> Iterable[str]:
    data = config.data
    long = int((found.tokens > data.row_length).sum())
    kind = f"{len(found.names)} classes" if found.names else "values"
    kind = f"any of {kind}" if found.is_multi_label else kind
    fields = " and ".join(filter(None, (data.text_field, data.pair_field)))
    yield f"# {title}"
    yield ""
    yield f"{len(found.records)} records, {kind}; checkpoint: {step}. Texts: {fields}; labels: {data.label_field}."
    ways = (
        f"{number} {what}"
        for number, what in ((found.truncated, "cut"), (long - found.truncated, "read in windows"))
        if number
    )
    if long:
        yield f"{long} records are longer than the {data.row_length} tokens of a row: {', '.join(ways)}."
    yield ""
    yield "## Metrics"
    yield ""
    numbers = {name: value for name, value in result.items() if isinstance(value, int | float)}
    yield from _table(("metric", "value"), numbers.items())
    if found.names:
        yield from _classes(found, result)
    else:
        yield from ("", "![Predicted and true values](scatter.png)")
    for name, parts in result["slices"].items():
        yield from ("", f"## By {name}", "")
        yield from _table(("slice", *next(iter(parts.values()))), ((key, *x.values()) for key, x in parts.items()))
    yield from _wrong(found, data.text_field, data.pair_field)


def _classes(found: Predictions, result: dict[str, Any]) -> Iterable[str]:
    classes = result["classes"]
    yield from ("", "## Classes", "")
    yield from _table(("class", *next(iter(classes.values()))), ((name, *x.values()) for name, x in classes.items()))
    if found.is_multi_label:
        yield from ("", "A record has any number of classes, so that there is no confusion matrix.")
    else:
        yield from _confusions(found)
    measured = result["calibration"]
    yield from ("", "## Calibration", "")
    yield "Expected and maximum calibration error of 15 bins, Brier score, and the temperature by which scores are to"
    yield f"be divided, fitted on {measured['fitted_on']}, with the expected error that is left."
    yield ""
    yield from _table(("metric", "value"), ((k, v) for k, v in measured.items() if k != "fitted_on"))
    yield from ("", "![Reliability](reliability.png)")
    if "tuned" in result:
        yield from _tuned(result["tuned"])


def _confusions(found: Predictions) -> Iterable[str]:
    yield from ("", "![Confusion matrix](confusion.png)", "")
    matrix = confusion_matrix(found)
    wrong = matrix - np.diag(np.diag(matrix))
    order = np.argsort(-wrong, axis=None, kind="stable")[:_CONFUSIONS]
    pairs = [np.unravel_index(i, wrong.shape) for i in order if wrong.flat[i]]
    if pairs:
        rows = ((found.names[i], found.names[j], int(wrong[i, j])) for i, j in pairs)
        yield from _table(("true", "predicted as", "times"), rows)


def _tuned(result: dict[str, Any]) -> Iterable[str]:
    yield from ("", "## Thresholds", "")
    yield f"With the best F1 on {result['on']}, each class against the rest; argmax_f1 is that of the largest"
    yield "probability, half_f1 that of a threshold of one half."
    yield ""
    rows = result["classes"]
    if rows:
        yield from _table(("class", *next(iter(rows.values()))), ((name, *x.values()) for name, x in rows.items()))
    numbers = {name: value for name, value in result.items() if isinstance(value, float)}
    if numbers:
        yield ""
        yield from _table(("metric with the threshold", "value"), numbers.items())


def _wrong(found: Predictions, text_field: str, pair_field: str) -> Iterable[str]:
    if found.is_multi_label:
        # Of each record the decision that is furthest off.
        off = np.where(found.predicted != found.true, np.abs(found.probabilities - 0.5) + 0.5, 0)
        wrong = off.max(-1)
        head, title = ("class", "true", "probability", "text"), "Most confidently wrong"
    elif found.names:
        confidence = found.probabilities.max(-1)
        wrong = np.where(found.scores.argmax(-1) != found.labels, confidence, 0)
        head, title = ("true", "predicted", "probability", "text"), "Most confidently wrong"
    else:
        wrong = np.abs(found.scores[:, 0] - found.labels)
        head, title = ("true", "predicted", "error", "text"), "Furthest from the truth"
    rows = []
    for i in np.argsort(-wrong, kind="stable")[:_WRONG].tolist():
        if wrong[i]:
            text = found.records[i][text_field] + (f" | {found.records[i][pair_field]}" if pair_field else "")
            if found.is_multi_label:
                c = int(off[i].argmax())
                row = (found.names[c], "yes" if found.labels[i, c] else "no", float(found.probabilities[i, c]))
            elif found.names:
                row = (found.names[found.labels[i]], found.names[found.scores[i].argmax()], float(wrong[i]))
            else:
                row = (float(found.labels[i]), float(found.scores[i, 0]), float(wrong[i]))
            rows.append((*row, text))
    yield from ("", f"## {title}", "")
    yield from _table(head, rows) if rows else ("None.",)


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> Iterable[str]:
    """A table of Markdown."""
    rows = [[_cell(value) for value in row] for row in rows]
    yield _row(head)
    yield _row(["---"] * len(head))
    yield from map(_row, rows)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    text = one_line(str(value))
    text = text if len(text) <= _TEXT else text[:_TEXT] + "…"
    for character in "\\|<*`[":
        text = text.replace(character, "\\" + character)
    return text
