"""Metrics of slices of a data set: by length, and by the fields of its records."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxencoder.tasks.classification.metrics import correlations, metrics_of_classes, metrics_of_decisions
from jaxencoder.tasks.classification.predict import Predictions
from jaxencoder.text.messages import closest, listed

_MAX_SLICES = 30  # per field; the rarest values share one slice


def slice_metrics(predictions: Predictions, fields: Sequence[str] = ()) -> dict[str, dict[str, dict[str, float]]]:
    """The main metrics of each slice of a data set.

    A slice is the records with the same value of one of the fields. A field of more than 30 values has a slice for each
    quartile if all values are numbers; else one for each of the 29 most frequent values and one for the others. The
    length in tokens always has quartiles.

    Returns:
        {"length in tokens" or the field: {name of the slice: metrics}}: examples, and for classes accuracy, macro_f1
        and matthews, for multi-label predictions `metrics_of_decisions`, for values pearson and spearman.

    Raises:
        ValueError: no record has one of the fields.
    """
    slices = {"length in tokens": _quartiles(predictions.tokens)}
    for name in fields:
        if not any(name in record for record in predictions.records):
            first = predictions.records[0]
            raise ValueError(f"no record has the field {name!r}, but {listed(first)}{closest(name, first)}")
        slices[name] = _slices_of_values([record.get(name) for record in predictions.records])
    return {
        name: {slice_name: _metrics(predictions, rows) for slice_name, rows in rows_by_slice.items()}
        for name, rows_by_slice in slices.items()
    }


def _metrics(predictions: Predictions, rows: np.ndarray) -> dict[str, float]:
    if predictions.is_multi_label:
        metrics = metrics_of_decisions(predictions.predicted[rows], predictions.true[rows])
    elif predictions.names:
        classes = predictions.scores[rows].argmax(-1)
        metrics = metrics_of_classes(classes, predictions.labels[rows], len(predictions.names))
        metrics = {name: metrics[name] for name in ("accuracy", "macro_f1", "matthews")}
    else:
        metrics = correlations(predictions.scores[rows, 0], predictions.labels[rows])
    return {"examples": int(rows.sum())} | metrics


def _quartiles(values: Sequence[float] | np.ndarray) -> dict[str, np.ndarray]:
    """The rows of each slice of numbers, bool [N], by a name such as "3 to 17"."""
    numbers, slices = np.asarray(values), {}
    bounds = np.unique(np.quantile(numbers, (0.25, 0.5, 0.75), method="lower"))
    ranks = np.searchsorted(bounds, numbers)
    for rank in np.unique(ranks):
        low, high = numbers[ranks == rank].min(), numbers[ranks == rank].max()
        slices[f"{low:.15g}" if low == high else f"{low:.15g} to {high:.15g}"] = ranks == rank
    return slices


def _slices_of_values(values: list[Any]) -> dict[str, np.ndarray]:
    """The rows of each value, bool [N], the most frequent first; missing values (None) share a slice."""
    names = np.array(["(none)" if value is None else str(value) for value in values], object)
    frequent = [name for name, _ in Counter(names.tolist()).most_common()]
    if len(frequent) > _MAX_SLICES:
        if all(isinstance(x, int | float) and np.isfinite(x) for x in values):
            return _quartiles(values)
        frequent = frequent[: _MAX_SLICES - 1]
        names[~np.isin(names, frequent)] = "(others)"
        frequent.append("(others)")
    return {name: names == name for name in frequent}
