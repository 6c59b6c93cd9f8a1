"""Classifiers and regressors of documents: predictions for records, and the metrics of GLUE.

Wang et al. 2018, arXiv:1804.07461: accuracy, F1 and Matthews correlation of classes, Pearson and Spearman correlation
of values; and for rare classes average precision and the metrics of each class. All by scikit-learn and scipy.
"""

import dataclasses
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import scipy.special
import scipy.stats

from jaxencoder.inference.embed import chunks
from jaxencoder.inference.model import OpenedModel
from jaxencoder.inference.windows import Long
from jaxencoder.inference.writers import refuse_fields
from jaxencoder.tasks.classification.classify import (
    Classified,
    ScorePooling,
    Threshold,
    class_names,
    classified,
    decides_several,
    row_length,
    score,
    thresholds,
)
from jaxencoder.tasks.records import with_texts
from jaxencoder.text.buckets import warn_of_cuts
from jaxencoder.text.held_out import validation_records
from jaxencoder.text.labels import Labels
from jaxencoder.text.sources import Record, read
from jaxencoder.text.sources.fields import infer_source_fields

ADDED = ("prediction", "probability", "probabilities")


def predict_classes(
    model: OpenedModel,
    source: str | Iterable[Record],
    text_field: str | None = None,
    pair_field: str | None = None,
    probabilities: bool = False,
    long: Long = "truncate",
    stride: int | None = None,
    batch_tokens: int | None = None,
    threshold: Threshold | None = None,
    window_pooling: ScorePooling | None = None,
) -> Iterator[list[Record]]:
    """Records with "prediction", the name of a class or a value, and of classes "probability".

    Of a run that gives a text any number of classes both are lists, the most probable class first.

    Args:
        model: a classifier, as `Model.classify` takes it.
        source: as in `jaxencoder.text.sources`, or records; without labels.
        text_field, pair_field: None for both: those of the run, of a published model text and no pairs, or, in a source
            that lacks them, usual names for them; None for one: that of the run.
        probabilities: also those of all classes by name, as "probabilities".
        long, stride, batch_tokens, threshold, window_pooling: as in `Model.classify`.

    Raises:
        ValueError: a record that lacks a text or has a field of one of these names, or what `Model.classify` raises.
    """
    data, names, least = model.config.data, class_names(model), thresholds(model, threshold)
    if isinstance(source, str) and text_field is None and pair_field is None:
        data = infer_source_fields(source, data, ["label_field"])
    text_field = text_field or data.text_field
    pair_field = data.pair_field if pair_field is None else pair_field
    where = "record"
    if isinstance(source, str):
        required = [pair_field] if pair_field else []
        where = f"{source}, record"
        source = read(source, text_field=text_field, required=required, text_unit=data.text_unit)
    count = cut = 0
    records = (with_texts(record, (text_field, pair_field), f"{where} {i}") for i, record in enumerate(source, 1))
    for chunk in chunks(records, lambda record: sum(map(len, _own(record, text_field, pair_field)))):
        refuse_fields(chunk, ADDED)
        texts, pairs = _texts(chunk, text_field, pair_field)
        found = score(model, texts, pairs, long, stride, batch_tokens, window_pooling)
        yield [
            record | _added(one, probabilities)
            for record, one in zip(chunk, classified(found.scores, names, least), strict=True)
        ]
        count, cut = count + len(chunk), cut + found.cut
    warn_of_cuts(cut, count, row_length(model))


def _own(record: Record, text_field: str, pair_field: str) -> list[str]:
    return [record[name] for name in (text_field, pair_field) if name]


def _texts(records: Sequence[Record], text_field: str, pair_field: str) -> tuple[list[str], list[str] | None]:
    pairs = [record[pair_field] for record in records] if pair_field else None
    return [record[text_field] for record in records], pairs


def _added(found: Classified, probabilities: bool) -> Record:
    if not found.probabilities:
        return {"prediction": found.prediction}
    more = {"probabilities": found.probabilities} if probabilities else {}
    return {"prediction": found.prediction, "probability": found.probability} | more


def class_metrics(scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """How well scores tell classes.

    Args:
        scores: [N, C] logits.
        labels: [N] int, ids of the true classes.

    Returns:
        loss (nats), accuracy, macro_f1 (over the classes that are true or predicted somewhere), matthews (0 where it is
        not defined), auprc (area under the curve of precision over recall, as average precision: the mean over the
        classes that are true somewhere; of two classes that of class 1, 0 if it is nowhere true), f1 of class 1 when
        there are two classes, and examples, their number.
    """
    log_probabilities = scipy.special.log_softmax(scores.astype(np.float64), axis=-1)
    loss = float(-np.take_along_axis(log_probabilities, labels[:, None].astype(np.int64), axis=1).mean())
    result = {"loss": loss} | metrics_of_classes(scores.argmax(-1), labels, scores.shape[1])
    classes = per_class(scores, labels)
    classes = classes[1:] if len(classes) == 2 else [x for x in classes if x["examples"]]
    return result | {"auprc": float(np.mean([x["auprc"] for x in classes])), "examples": len(labels)}


def metrics_of_classes(predictions: np.ndarray, labels: np.ndarray, classes: int) -> dict[str, float]:
    """Those of `class_metrics` for which the classes that were predicted are enough.

    Args:
        predictions, labels: [N] int, ids of classes.
        classes: how many there are.
    """
    from sklearn import metrics  # a second to import

    several = len(np.union1d(labels, predictions)) > 1  # scikit-learn warns of one
    result = {
        "accuracy": float(metrics.accuracy_score(labels, predictions)),
        "macro_f1": float(metrics.f1_score(labels, predictions, average="macro", zero_division=0)),
        "matthews": float(metrics.matthews_corrcoef(labels, predictions)) if several else 0.0,
    }
    if classes == 2:
        result["f1"] = float(metrics.f1_score(labels, predictions, pos_label=1, zero_division=0))
    return result


def per_class(scores: np.ndarray, labels: np.ndarray) -> list[dict[str, float]]:
    """For each class how well scores tell it from all others.

    Args:
        scores: [N, C] logits.
        labels: [N] int, ids of the true classes.

    Returns:
        Of each class precision, recall and f1 (0 where they are not defined), auprc (average precision; 0 for a class
        that is nowhere true) and examples, the number that are of it.
    """
    from sklearn import metrics

    classes = np.arange(scores.shape[1])
    options = {"labels": classes, "zero_division": 0}
    found = metrics.precision_recall_fscore_support(labels, scores.argmax(-1), **options)
    shares = scipy.special.softmax(scores.astype(np.float64), axis=-1)
    result = []
    for c, precision, recall, f1, examples in zip(classes, *found, strict=True):
        auprc = float(metrics.average_precision_score(labels == c, shares[:, c])) if examples else 0.0
        values = {"precision": float(precision), "recall": float(recall), "f1": float(f1), "auprc": auprc}
        result.append(values | {"examples": int(examples)})
    return result


def value_metrics(scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """How well scores predict values.

    Args:
        scores, labels: [N] float.

    Returns:
        loss (mean squared error), pearson, spearman (0 where either side is constant), and examples, their number.
    """
    scores, labels = scores.astype(np.float64), labels.astype(np.float64)
    loss = float(np.square(scores - labels).mean())
    return {"loss": loss, **correlations(scores, labels), "examples": len(labels)}


def correlations(scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """pearson and spearman of two lists of numbers, float64 [N] each; 0 where either is constant."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", (scipy.stats.ConstantInputWarning, scipy.stats.NearConstantInputWarning))
        functions = {"pearson": scipy.stats.pearsonr, "spearman": scipy.stats.spearmanr}
        if len(labels) < 2:
            return dict.fromkeys(functions, 0.0)
        return {name: float(np.nan_to_num(f(scores, labels).statistic)) for name, f in functions.items()}


class Predictions(NamedTuple):
    """What a run predicts for N labelled records.

    records: as they were read. scores: float64 [N, labels] of `jaxencoder.tasks.classification.classify`. labels: int64 [N], ids
    of classes, [N, labels], 1 for each class that a record has, or float64 [N], values. tokens: int64 [N], of each
    before it was cut. names: of the classes; none of values. cut: how many records lost tokens.
    """

    records: list[Record]
    scores: np.ndarray
    labels: np.ndarray
    tokens: np.ndarray
    names: tuple[str, ...]
    cut: int

    @property
    def probabilities(self) -> np.ndarray:
        """Of the classes, float64 [N, labels]."""
        return scipy.special.expit(self.scores) if self.several else scipy.special.softmax(self.scores, axis=-1)

    @property
    def several(self) -> bool:
        """Whether a record has any number of classes."""
        return self.labels.ndim == 2

    @property
    def true(self) -> np.ndarray:
        """Which classes each record has: bool [N, labels]."""
        return self.labels > 0 if self.several else np.arange(len(self.names)) == self.labels[:, None]

    @property
    def chosen(self) -> np.ndarray:
        """Which classes each record is predicted to have: bool [N, labels]."""
        if self.several:
            return self.scores > 0
        return np.arange(len(self.names)) == self.scores.argmax(-1)[:, None]


def predictions(
    model: OpenedModel,
    source: str | None = None,
    long: Long = "truncate",
    stride: int | None = None,
    window_pooling: ScorePooling | None = None,
) -> Predictions:
    """What a model predicts for its own validation data, or for another source with the same fields.

    Args:
        model: a classifier, as `Model.classify` takes it.
        source: as in `jaxencoder.text.sources`; None: what the run has held out.
        long, stride, window_pooling: as in `Model.classify`.

    Raises:
        ValueError: a record that lacks a text or a label, or whose label is none of the run's.
        OSError: the source cannot be read.
    """
    data, names = model.config.data, class_names(model)
    if source is not None:
        data = dataclasses.replace(data, validation=(source,))
    several = decides_several(model)
    kinds = Labels("classes" if several else "class" if names else "value", names)
    records, labels, found = [], [], []
    for where, record in validation_records(data):
        records.append(with_texts(record, (data.text_field, data.pair_field), where))
        labels.append(kinds.encode(record[data.label_field], where))
    if not records:
        raise ValueError(f"data.validation_fraction {data.validation_fraction} has held no record out; name a source")
    for chunk in chunks(records, lambda record: sum(map(len, _own(record, data.text_field, data.pair_field)))):
        texts = _texts(chunk, data.text_field, data.pair_field)
        found.append(score(model, *texts, long, stride, window_pooling=window_pooling))
    cut = sum(part.cut for part in found)
    warn_of_cuts(cut, len(records), row_length(model))
    scores, tokens = (np.concatenate([part[i] for part in found]) for i in (0, 1))
    if several:
        table = np.zeros((len(labels), len(names)), np.int64)
        for row, ids in zip(table, labels, strict=True):
            row[list(ids)] = 1
    else:
        table = np.array(labels, np.int64 if names else np.float64)
    return Predictions(records, scores, table, tokens, names, cut)
