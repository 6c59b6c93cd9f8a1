"""Metrics of classes and values, by scikit-learn and scipy.

Those of GLUE, Wang et al. 2018, arXiv:1804.07461: accuracy, F1 and Matthews correlation of classes, Pearson and
Spearman correlation of values. For rare classes also average precision and the metrics of each class. With several
classes per text, micro-F1 counts every decision equally, macro-F1 is the mean over the classes, and the accuracy needs
all classes of a text to be right: Tsoumakas et al. 2010, "Mining multi-label data".

Scores are logits [N, C]; labels are ids of the true classes, int [N], or with several classes per text int [N, C], 1
for a class that the text has.
"""

import warnings
from typing import Any

import numpy as np
import scipy.special

# scikit-learn and scipy.stats take a second to import, so the functions that need them import them.

_UNDEFINED: Any = 0  # zero_division, declared by its default, a text


def class_metrics(scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Metrics of exclusive classes: loss (nats), those of `metrics_of_classes`, auprc and examples, their number.

    auprc is the mean average precision over the classes that are true somewhere; of two classes, that of class 1.
    """
    log_probabilities = scipy.special.log_softmax(scores.astype(np.float64), axis=-1)
    loss = float(-np.take_along_axis(log_probabilities, labels[:, None].astype(np.int64), axis=1).mean())
    result = {"loss": loss} | metrics_of_classes(scores.argmax(-1), labels, scores.shape[1])
    classes = per_class(scores, labels)
    classes = classes[1:] if len(classes) == 2 else [x for x in classes if x["examples"]]
    return result | {"auprc": float(np.mean([x["auprc"] for x in classes])), "examples": len(labels)}


def metrics_of_classes(predictions: np.ndarray, labels: np.ndarray, classes: int) -> dict[str, float]:
    """Metrics of predicted classes, from ids int [N] of `classes` exclusive classes.

    These are accuracy, macro_f1 (over the classes that are true or predicted somewhere), matthews (0 if undefined), and
    f1 of class 1 if there are two classes.
    """
    from sklearn import metrics

    is_defined = len(np.union1d(labels, predictions)) > 1  # scikit-learn warns of a single class
    result = {
        "accuracy": float(metrics.accuracy_score(labels, predictions)),
        "macro_f1": float(metrics.f1_score(labels, predictions, average="macro", zero_division=_UNDEFINED)),
        "matthews": float(metrics.matthews_corrcoef(labels, predictions)) if is_defined else 0.0,
    }
    if classes == 2:
        result["f1"] = float(metrics.f1_score(labels, predictions, pos_label=1, zero_division=_UNDEFINED))
    return result


def per_class(scores: np.ndarray, labels: np.ndarray) -> list[dict[str, float]]:
    """Metrics of each of the exclusive classes against all others.

    These are precision, recall and f1 (0 if undefined), auprc (average precision; 0 for a class that is nowhere true)
    and examples, the number in that class.
    """
    classes = np.arange(scores.shape[1])
    probabilities = scipy.special.softmax(scores.astype(np.float64), axis=-1)
    return _per_column(probabilities, classes == scores.argmax(-1)[:, None], classes == labels[:, None])


def value_metrics(scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """loss (mean squared error), those of `correlations` and examples, their number, of values, float [N] each."""
    scores, labels = scores.astype(np.float64), labels.astype(np.float64)
    loss = float(np.square(scores - labels).mean())
    return {"loss": loss, **correlations(scores, labels), "examples": len(labels)}


def correlations(scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """pearson and spearman of two lists of numbers, float64 [N] each; 0 if either is constant."""
    import scipy.stats

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", (scipy.stats.ConstantInputWarning, scipy.stats.NearConstantInputWarning))
        functions = {"pearson": scipy.stats.pearsonr, "spearman": scipy.stats.spearmanr}
        if len(labels) < 2:
            return dict.fromkeys(functions, 0.0)
        return {name: float(np.nan_to_num(f(scores, labels).statistic)) for name, f in functions.items()}


def multi_label_metrics(scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Metrics of texts with any number of classes, each with a threshold of one half.

    These are loss (nats, the mean over texts and classes), those of `metrics_of_decisions`, auprc (the mean average
    precision over the classes that are true somewhere) and examples, their number.
    """
    scores = scores.astype(np.float64)
    loss = -scipy.special.log_expit(np.where(labels > 0, scores, -scores)).mean()
    classes = [x for x in per_label(scores, labels) if x["examples"]]
    auprc = float(np.mean([x["auprc"] for x in classes])) if classes else 0.0
    result = {"loss": float(loss), **metrics_of_decisions(scores > 0, labels > 0)}
    return result | {"auprc": auprc, "examples": len(labels)}


def metrics_of_decisions(predicted: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """micro_f1, macro_f1 (over the classes that are true or predicted somewhere) and accuracy, of bool [N, C] each."""
    # Not by scikit-learn, which takes a single column for the two classes False and True.
    hits, counts = 2 * (predicted & true).sum(0), predicted.sum(0) + true.sum(0)  # [C]
    each = hits[counts > 0] / counts[counts > 0]
    return {
        "micro_f1": float(hits.sum() / max(counts.sum(), 1)),
        "macro_f1": float(each.mean()) if len(each) else 0.0,
        "accuracy": float((predicted == true).all(1).mean()),
    }


def per_label(scores: np.ndarray, labels: np.ndarray) -> list[dict[str, float]]:
    """The metrics of `per_class` for texts with any number of classes, with a threshold of one half."""
    return _per_column(scores, scores > 0, labels > 0)


def _per_column(scores: np.ndarray, predicted: np.ndarray, true: np.ndarray) -> list[dict[str, Any]]:
    from sklearn import metrics

    result = []
    for z, is_predicted, is_true in zip(scores.T, predicted.T, true.T, strict=True):
        precision, recall, f1, _ = metrics.precision_recall_fscore_support(
            is_true, is_predicted, average="binary", zero_division=_UNDEFINED
        )
        auprc = float(metrics.average_precision_score(is_true, z)) if is_true.any() else 0.0
        values = {"precision": float(precision), "recall": float(recall), "f1": float(f1), "auprc": auprc}
        result.append(values | {"examples": int(is_true.sum())})
    return result
