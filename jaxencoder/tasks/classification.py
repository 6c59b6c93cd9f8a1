"""Classifiers and regressors of documents: predictions over prepared rows, and the metrics of GLUE.

Wang et al. 2018, arXiv:1804.07461: accuracy, F1 and Matthews correlation of classes, Pearson and Spearman correlation
of values; and for rare classes average precision and the metrics of each class. All by scikit-learn and scipy.
"""

import warnings
from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Any

import jax
import numpy as np
import scipy.special
import scipy.stats

from jaxencoder.config import RunConfig
from jaxencoder.inference.model import Model
from jaxencoder.model.config import ComputeConfig, EncoderConfig
from jaxencoder.objectives.classification import Classification
from jaxencoder.objectives.objective import Batch, Params
from jaxencoder.text.batches import Batches
from jaxencoder.text.store import Store


def predict(model: Model, stores: Sequence[Store], batch_size: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """The scores and the true labels of every labelled document, in the order of the rows.

    Args:
        model: of a run with the objective Classification.
        stores: rows with labels.
        batch_size: rows computed at once.

    Returns:
        (scores [N, labels] float32, labels [N] int32, or float32 for regression).

    Raises:
        ValueError: the run has no classifier.
    """
    objective = model.config.objective
    if not isinstance(objective, Classification):
        raise ValueError(f"this run was trained for {type(objective).__name__} and has no classifier")
    function = partial(_scores, model.config.model, model.compute, objective)
    batches = Batches(stores, model.config.data, batch_size, shuffle=False)
    found: list[tuple[np.ndarray, np.ndarray]] = []
    for number in range(batches.steps_per_epoch):
        rows = batches.batch(number)
        labels = rows["labels"]  # [B, E]
        there = labels >= 0 if labels.dtype.kind == "i" else ~np.isnan(labels)
        found.append((np.asarray(function(model.placed, model.place(rows)))[there], labels[there]))
    scores, labels = zip(*found, strict=True)
    return np.concatenate(scores), np.concatenate(labels)


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
    from sklearn import metrics  # a second to import

    predictions = scores.argmax(-1)
    log_probabilities = scipy.special.log_softmax(scores.astype(np.float64), axis=-1)
    several = len(np.union1d(labels, predictions)) > 1  # scikit-learn warns of one
    result = {
        "loss": float(-np.take_along_axis(log_probabilities, labels[:, None].astype(np.int64), axis=1).mean()),
        "accuracy": float(metrics.accuracy_score(labels, predictions)),
        "macro_f1": float(metrics.f1_score(labels, predictions, average="macro", zero_division=0)),
        "matthews": float(metrics.matthews_corrcoef(labels, predictions)) if several else 0.0,
    }
    classes = per_class(scores, labels)
    classes = classes[1:] if len(classes) == 2 else [x for x in classes if x["examples"]]
    result["auprc"] = float(np.mean([x["auprc"] for x in classes]))
    if scores.shape[1] == 2:
        result["f1"] = float(metrics.f1_score(labels, predictions, pos_label=1, zero_division=0))
    return result | {"examples": len(labels)}


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


def evaluate_classifier(model: Model, stores: Sequence[Store]) -> dict[str, Any]:
    """The metrics of a run with the objective Classification.

    Returns:
        `value_metrics`, or `class_metrics` and "classes", by name what `per_class` gives.
    """
    config: RunConfig = model.config
    scores, labels = predict(model, stores, config.training.batch_size)
    if scores.shape[1] == 1:
        return value_metrics(scores[:, 0], labels)
    names = stores[0].meta["labels"]
    return class_metrics(scores, labels) | {"classes": dict(zip(names, per_class(scores, labels), strict=True))}


@partial(jax.jit, static_argnums=(0, 1, 2))
def _scores(
    encoder: EncoderConfig, compute: ComputeConfig, objective: Classification, params: Params, rows: Batch
) -> jax.Array:
    return _built(encoder, compute, objective).scores(params, rows, jax.random.key(0), False)


@lru_cache
def _built(encoder: EncoderConfig, compute: ComputeConfig, objective: Classification):
    return objective.build(encoder, compute, None)  # a classifier asks nothing of the vocabulary
