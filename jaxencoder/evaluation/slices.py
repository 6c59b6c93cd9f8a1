"""Metrics of slices of a data set: by length, and by the fields of its records."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxencoder.tasks.classification.metrics import correlations, metrics_of_classes, metrics_of_decisions
from jaxencoder.tasks.classification.predict import Predictions
from jaxencoder.text.sources import closest, listed

LENGTH = "length in tokens"
_MAX_SLICES = 30  # per field; the rarest values share one slice
_QUANTILES = 4  # slices of numbers, with about equally many examples
_ABSENT, _OTHER = "(none)", "(others)"


def slice_metrics(predictions: Predictions, fields: Sequence[str] = ()) -> dict[str, dict[str, dict[str, float]]]:
    """The main metrics of each slice of a data set.

    Args:
        predictions: what a run predicts.
        fields: names of fields of the records. A slice is the records with the same value of a field. A field of more
            than 30 values has a slice for each quartile if all values are numbers; else one for each of the 29 most
            frequent values and one for the others. The length in tokens always has quartiles.

    Returns:
        {"length in tokens" or the field: {name of the slice: metrics}}: examples, and for classes accuracy, macro_f1
        and matthews, for multi-label predictions `metrics_of_decisions`, for values pearson and spearman.

    Raises:
        ValueError: no record has one of the fields.
    """
    slices = {LENGTH: _quartiles(predictions.tokens.tolist())}
    for name in fields:
        if not any(name in record for record in predictions.records):
            first = predictions.records[0]
            raise ValueError(f"no record has the field {name!r}, but {listed(first)}{closest(name, first)}")
        slices[name] = _slices_of_values([record.get(name) for record in predictions.records])
    return {name: _metrics_by_slice(predictions, record_slices) for name, record_slices in slices.items()}


def _metrics_by_slice(predictions: Predictions, record_slices: list[tuple[int, str]]) -> dict[str, dict[str, float]]:
    """Metrics by the name of a slice, by rank; record_slices holds the rank and the name of each record's slice."""
    result = {}
    for rank, slice_name in sorted(set(record_slices)):
        rows = np.array([record_slice == (rank, slice_name) for record_slice in record_slices])
        if predictions.is_multi_label:
            metrics = metrics_of_decisions(predictions.predicted[rows], predictions.true[rows])
        elif predictions.names:
            classes = predictions.scores[rows].argmax(-1)
            metrics = metrics_of_classes(classes, predictions.labels[rows], len(predictions.names))
            metrics = {name: metrics[name] for name in ("accuracy", "macro_f1", "matthews")}
        else:
            metrics = correlations(predictions.scores[rows, 0], predictions.labels[rows])
        result[slice_name] = {"examples": int(rows.sum())} | metrics
    return result


def _quartiles(values: list[float]) -> list[tuple[int, str]]:
    """The rank and the name of each number's slice, such as (0, "3 to 17")."""
    numbers = np.asarray(values)
    bounds = np.unique(np.quantile(numbers, np.arange(1, _QUANTILES) / _QUANTILES, method="lower"))
    ranks = np.searchsorted(bounds, numbers)
    names = {}
    for rank in np.unique(ranks).tolist():
        low, high = numbers[ranks == rank].min(), numbers[ranks == rank].max()
        names[rank] = f"{low:.15g}" if low == high else f"{low:.15g} to {high:.15g}"
    return [(rank, names[rank]) for rank in ranks.tolist()]


def _slices_of_values(values: list[Any]) -> list[tuple[int, str]]:
    """The rank and the name of each value's slice, the most frequent first; missing values (None) share a slice."""
    names = [_ABSENT if value is None else str(value) for value in values]
    frequent = [name for name, _ in Counter(names).most_common()]
    if len(frequent) > _MAX_SLICES:
        if all(isinstance(x, int | float) and np.isfinite(x) for x in values):
            return _quartiles(values)
        frequent = frequent[: _MAX_SLICES - 1]
    ranks = {name: rank for rank, name in enumerate(frequent)}
    return [(ranks[name], name) if name in ranks else (_MAX_SLICES, _OTHER) for name in names]
