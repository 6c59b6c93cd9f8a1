"""Classes and values for records, and their evaluation."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.special

from jaxencoder.tasks.classification import classify, metrics
from jaxencoder.tasks.classification.objective import SEVERAL_CLASSES
from jaxencoder.tasks.records import check_new_fields, chunks, labeled_records, numbered, with_texts
from jaxencoder.tasks.running import row_length
from jaxencoder.tasks.task import Evaluation, TaskModel
from jaxencoder.text.buckets import warn_truncated
from jaxencoder.text.config import DataConfig, WindowConfig
from jaxencoder.text.labels import Labels, are_indicators
from jaxencoder.text.schema import TEXTS
from jaxencoder.text.sources.fields import infer_source_fields
from jaxencoder.text.sources.records import Record

log = logging.getLogger(__name__)

ADDED = ("prediction", "probability", "probabilities")


def predict_classes(
    model: TaskModel,
    source: str | Iterable[Record],
    text_field: str | None = None,
    pair_field: str | None = None,
    probabilities: bool = False,
    windows: WindowConfig | None = None,
    batch_tokens: int | None = None,
    threshold: classify.Threshold | None = None,
) -> Iterator[list[Record]]:
    """Add to records "prediction", the name of a class or a value, and for classes "probability".

    With multi_label both are lists, the most probable class first.

    Args:
        model, windows, batch_tokens, threshold: as in `classify`.
        source: as in `jaxencoder.text.sources`, or records; labels are not needed.
        text_field, pair_field: None for both: those of the run, of a published model text and no pairs, or, in a source
            that lacks them, usual names for them; None for one: that of the run.
        probabilities: also add those of all classes by name, as "probabilities".

    Raises:
        ValueError: as in `classify`, or a record that lacks a text or has one of these fields.
    """
    data, head = model.config.data, classify.classifier_head(model)
    minimum = classify.thresholds(head, threshold)
    if isinstance(source, str) and text_field is None and pair_field is None:
        data = infer_source_fields(source, data, TEXTS, ["label_field"])
    names = text_field or data.text_field, data.pair_field if pair_field is None else pair_field
    fields = [name for name in names if name]
    records = (
        with_texts(record, fields, where) for where, record in numbered(source, fields[0], fields[1:], data.text_unit)
    )
    added = (ADDED if probabilities else ADDED[:2]) if head.names else ADDED[:1]  # a value has no probability
    for chunk, result in _scored(model, records, fields, windows, batch_tokens, new_fields=ADDED):
        decisions = classify.decide(result.scores, head.names, minimum)
        yield [record | dict(zip(added, x, strict=False)) for record, x in zip(chunk, decisions, strict=True)]


def _scored(
    model: TaskModel,
    records: Iterable[Record],
    fields: Sequence[str],
    windows: WindowConfig | None,
    batch_tokens: int | None = None,
    new_fields: Sequence[str] = (),
) -> Iterator[tuple[list[Record], classify.ClassScores]]:
    """Yield chunks of records with their scores; at the end, warn of truncated texts."""
    count = truncated = 0
    for chunk in chunks(records, lambda record: sum(len(record[name]) for name in fields)):
        check_new_fields(chunk, new_fields)
        columns = ([record[name] for record in chunk] for name in fields)
        result = classify.score(model, *columns, windows=windows, batch_tokens=batch_tokens)
        yield chunk, result
        count, truncated = count + len(chunk), truncated + result.truncated
    warn_truncated(truncated, count, row_length(model))


class Predictions(NamedTuple):
    """A model's scores of N labeled records.

    `labels` are ids of classes, int64 [N]; with multi_label int64 [N, labels], 1 for each class that a record has; or
    values, float64 [N].
    """

    records: list[Record]
    scores: np.ndarray  # float64 [N, labels], see `ClassScores`
    labels: np.ndarray
    tokens: np.ndarray  # int64 [N], of each text before truncation
    names: tuple[str, ...]  # of the classes; empty for values
    truncated: int  # number of records that lost tokens

    @property
    def probabilities(self) -> np.ndarray:
        """Probabilities of the classes, float64 [N, labels]."""
        return scipy.special.expit(self.scores) if self.is_multi_label else scipy.special.softmax(self.scores, axis=-1)

    @property
    def is_multi_label(self) -> bool:
        return self.labels.ndim == 2

    @property
    def true(self) -> np.ndarray:
        """The classes of each record: bool [N, labels]."""
        return self.labels > 0 if self.is_multi_label else np.arange(len(self.names)) == self.labels[:, None]

    @property
    def predicted(self) -> np.ndarray:
        """The predicted classes of each record: bool [N, labels]."""
        if self.is_multi_label:
            return self.scores > 0
        return np.arange(len(self.names)) == self.scores.argmax(-1)[:, None]

    @property
    def metrics(self) -> dict[str, Any]:
        """`value_metrics`, or `class_metrics` or `multi_label_metrics` with "classes", the metrics of each by name."""
        if not self.names:
            return metrics.value_metrics(self.scores[:, 0], self.labels)
        overall, each = metrics.class_metrics, metrics.per_class
        if self.is_multi_label:
            overall, each = metrics.multi_label_metrics, metrics.per_label
        classes = dict(zip(self.names, each(self.scores, self.labels), strict=True))
        return overall(self.scores, self.labels) | {"classes": classes}


def predictions(model: TaskModel, source: str | None = None, windows: WindowConfig | None = None) -> Predictions:
    """A model's predictions for its validation data, or for another source with the same fields.

    `source` is as in `jaxencoder.text.sources`; None: the data that the run has held out. Records that their data set
    marks as unlabeled are left out, with a warning; another tells of numbers that are taken as ids of named classes.
    ValueError for a record that lacks a text or a label, or whose label is none of the run's.
    """
    data, head = model.config.data, classify.classifier_head(model)
    names, is_multi_label = head.names, head.kind == SEVERAL_CLASSES
    fields = [name for name in (data.text_field, data.pair_field) if name]
    named_records = [
        (where, with_texts(record, fields, where)) for where, record in labeled_records(TEXTS, data, source, names)
    ]
    records, labels = _labeled(named_records, data, names, is_multi_label)
    results = [result for _, result in _scored(model, records, fields, windows)]
    if is_multi_label:
        table = np.zeros((len(labels), len(names)), np.int64)
        for row, ids in zip(table, labels, strict=True):
            row[list(ids)] = 1
    else:
        table = np.array(labels, np.int64 if names else np.float64)
    scores, tokens = (np.concatenate([getattr(result, name) for result in results]) for name in ("scores", "tokens"))
    return Predictions(records, scores, table, tokens, names, sum(result.truncated for result in results))


def _labeled(
    named_records: list[tuple[str, Record]], data: DataConfig, names: tuple[str, ...], is_multi_label: bool
) -> tuple[list[Record], list[Any]]:
    """The records that have a label, and their labels as `Labels.encode` gives them."""
    kind, field = "classes" if is_multi_label else "class" if names else "value", data.label_field
    values = [record[field] for _, record in named_records]
    kinds = Labels(kind, names, is_multi_label and are_indicators(values, len(names)))
    labels = [kinds.encode(value, where) for value, (where, _) in zip(values, named_records, strict=True)]
    is_order_known = names == data.labels or all(name == f"LABEL_{i}" for i, name in enumerate(names))
    if not is_order_known and any(map(kinds.are_ids, values)):
        ids = ", ".join(f"{i} = {name}" for i, name in enumerate(names))
        log.warning("The labels in field %r are numbers, taken as ids of the model's classes: %s.", field, ids[:400])
    if unlabeled := labels.count(None):
        if unlabeled == len(labels):
            raise ValueError(f"none of the {unlabeled} records has a label in field {field!r}; name other data")
        marks = sorted({str(value) for value, label in zip(values, labels, strict=True) if label is None})
        log.warning("Left out %d of %d records, which have no label but %s.", unlabeled, len(labels), ", ".join(marks))
    kept = [(record, label) for (_, record), label in zip(named_records, labels, strict=True) if label is not None]
    return [record for record, _ in kept], [label for _, label in kept]


def evaluate_classes(model: TaskModel, source: str | None = None, windows: WindowConfig | None = None) -> Evaluation:
    """The metrics of `Predictions`, and the predictions; arguments and errors as in `predictions`."""
    result = predictions(model, source, windows)
    return Evaluation(result.metrics, result)
