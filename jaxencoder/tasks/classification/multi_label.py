"""Metrics of classifiers that give a document any number of classes, all by scikit-learn.

Micro-F1 counts every decision alike, macro-F1 is the mean over the classes, and the accuracy asks for all classes of a
document at once: Tsoumakas et al. 2010, "Mining multi-label data".
"""

import numpy as np
import scipy.special

from jaxencoder.tasks.calibration import calibration


def multi_label_metrics(scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """How well scores tell which classes documents have, each with a threshold of one half.

    Args:
        scores: [N, C] logits.
        labels: [N, C] int, 1 for a class that a document has.

    Returns:
        loss (nats, the mean over documents and classes), what `metrics_of_decisions` gives, auprc (average precision,
        the mean over the classes that are true somewhere), and examples, their number.
    """
    scores = scores.astype(np.float64)
    loss = -scipy.special.log_expit(np.where(labels > 0, scores, -scores)).mean()
    classes = [x for x in per_label(scores, labels) if x["examples"]]
    auprc = float(np.mean([x["auprc"] for x in classes])) if classes else 0.0
    return {
        "loss": float(loss),
        **metrics_of_decisions(scores > 0, labels > 0),
        "auprc": auprc,
        "examples": len(labels),
    }


def metrics_of_decisions(found: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """micro_f1, macro_f1 (over the classes that are true or found somewhere) and accuracy, of bool [N, C] each."""
    from sklearn import metrics

    there = (found | true).any(0)
    each = metrics.f1_score(true, found, average=None, zero_division=0)[there]
    return {
        "micro_f1": float(metrics.f1_score(true, found, average="micro", zero_division=0)),
        "macro_f1": float(each.mean()) if there.any() else 0.0,
        "accuracy": float(metrics.accuracy_score(true, found)),
    }


def per_label(scores: np.ndarray, labels: np.ndarray) -> list[dict[str, float]]:
    """For each class what `jaxencoder.tasks.classification.predict.per_class` gives, with a threshold of one half.

    Args:
        scores: [N, C] logits. labels: [N, C] int, 1 for a class that a document has.
    """
    from sklearn import metrics

    options = {"average": "binary", "zero_division": 0}
    result = []
    for z, true in zip(scores.T, labels.T > 0, strict=True):
        precision, recall, f1, _ = metrics.precision_recall_fscore_support(true, z > 0, **options)
        auprc = float(metrics.average_precision_score(true, z)) if true.any() else 0.0
        values = {"precision": float(precision), "recall": float(recall), "f1": float(f1), "auprc": auprc}
        result.append(values | {"examples": int(true.sum())})
    return result


def calibration_of_decisions(
    scores: np.ndarray, labels: np.ndarray, fit: tuple[np.ndarray, np.ndarray]
) -> dict[str, float]:
    """`calibration` of all yes-or-no decisions together; arguments and result as there, labels as above."""
    return calibration(*as_decisions(scores, labels), as_decisions(*fit))


def as_decisions(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[N, C] logits and labels as those of N * C examples of two classes: [N * C, 2] and [N * C]."""
    flat = scores.astype(np.float64).ravel()
    return np.stack([np.zeros_like(flat), flat], axis=-1), labels.astype(np.int64).ravel()
