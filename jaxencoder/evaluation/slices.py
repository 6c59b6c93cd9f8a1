"""Metrics of parts of a data set: by length, and by any field of its records."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxencoder.tasks.classification.metrics import correlations, metrics_of_classes, metrics_of_decisions
from jaxencoder.tasks.classification.predict import Predictions
from jaxencoder.text.sources import closest, listed

LENGTH = "length in tokens"
_MOST = 30  # slices of a field; the values of the rarest are one slice
_PARTS = 4  # of numbers, with about as many examples each
_ABSENT, _OTHERS = "(none)", "(others)"


def slices(found: Predictions, fields: Sequence[str] = ()) -> dict[str, dict[str, dict[str, float]]]:
    """The main metrics of each part of a data set.

    Args:
        found: what a run predicts.
        fields: of the records. Each value is a slice, of many values the 29 most frequent; numbers of many values are
            cut into quarters, as the lengths always are.

    Returns:
        {"length in tokens" or the field: {the slice: metrics}}: examples, and of classes accuracy, macro_f1 and
        matthews, of several classes for each record `metrics_of_decisions`, of values pearson and spearman.

    Raises:
        ValueError: a field that no record has.
    """
    columns: dict[str, list[Any]] = {LENGTH: found.tokens.tolist()}
    for name in fields:
        if not any(name in record for record in found.records):
            there = found.records[0]
            raise ValueError(f"no record has the field {name!r}, but {listed(there)}{closest(name, there)}")
        columns[name] = [record.get(name) for record in found.records]
    return {name: _of_column(found, values, name == LENGTH) for name, values in columns.items()}


def _of_column(found: Predictions, values: list[Any], quarters: bool) -> dict[str, dict[str, float]]:
    keys = _quarters(values) if quarters else _values(values)
    result = {}
    for key in dict.fromkeys(sorted(keys, key=lambda key: key[0])):
        at = np.array([key == other for other in keys])
        if found.is_multi_label:
            result[key[1]] = {"examples": int(at.sum())} | metrics_of_decisions(found.predicted[at], found.true[at])
        elif found.names:
            labels, chosen = found.labels[at], found.scores[at].argmax(-1)
            metrics = metrics_of_classes(chosen, labels, len(found.names))
            metrics = {name: metrics[name] for name in ("accuracy", "macro_f1", "matthews")}
            result[key[1]] = {"examples": int(at.sum())} | metrics
        else:
            metrics = correlations(found.scores[at, 0], found.labels[at])
            result[key[1]] = {"examples": int(at.sum())} | metrics
    return result


def _quarters(values: list[float]) -> list[tuple[float, str]]:
    """Of each number its place in the order of slices, and the slice's name, such as "3 to 17"."""
    numbers = np.asarray(values)
    bounds = np.unique(np.quantile(numbers, np.arange(1, _PARTS) / _PARTS, method="lower"))
    parts = np.searchsorted(bounds, numbers)
    names = {}
    for part in np.unique(parts).tolist():
        low, high = numbers[parts == part].min(), numbers[parts == part].max()
        names[part] = f"{low:.15g}" if low == high else f"{low:.15g} to {high:.15g}"
    return [(part, names[part]) for part in parts.tolist()]


def _values(values: list[Any]) -> list[tuple[float, str]]:
    counts = Counter(_ABSENT if value is None else str(value) for value in values)
    if len(counts) > _MOST and all(isinstance(x, int | float) and np.isfinite(x) for x in values):
        return _quarters(values)
    order = [name for name, _ in counts.most_common()]
    kept = order if len(order) <= _MOST else order[: _MOST - 1]
    places = {name: place for place, name in enumerate(kept)}
    names = (_ABSENT if value is None else str(value) for value in values)
    return [(places[name], name) if name in places else (_MOST, _OTHERS) for name in names]
