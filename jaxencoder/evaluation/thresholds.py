"""Probability thresholds of classes, for rare classes that are seldom the most probable one.

The threshold of the best F1 on validation data, one class against the rest: Lipton et al. 2014, arXiv:1402.1892.
"""

from typing import Any

import numpy as np

from jaxencoder.tasks.classification.metrics import metrics_of_classes, metrics_of_decisions
from jaxencoder.tasks.classification.predict import Predictions


def best_threshold(probabilities: np.ndarray, positive: np.ndarray) -> float:
    """The threshold with the best F1, and the largest of several.

    It is the midpoint of two probabilities, or the upper one if no float lies between them.

    Args:
        probabilities: float [N], of the class.
        positive: bool [N], the examples of the class; at least one.
    """
    from sklearn.metrics import precision_recall_curve

    precision, recall, thresholds = precision_recall_curve(positive, probabilities)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    best = len(thresholds) - 1 - int(f1[:-1][::-1].argmax())
    below = thresholds[best - 1] if best else 0.0
    middle = (below + thresholds[best]) / 2
    return float(middle if middle > below else thresholds[best])


def tuned_metrics(measured: Predictions, tuning: Predictions) -> dict[str, Any]:
    """Metrics of a classifier with the thresholds of the best F1 on other data.

    Args:
        measured: predictions to measure.
        tuning: predictions of the same model to choose the thresholds on.

    Returns:
        "classes", by name, for each class that occurs in `tuning`: threshold and, one class against the rest,
        precision, recall and f1 with it, and argmax_f1, the f1 of predicting the most probable class. With two classes
        only the second has a threshold, which decides all examples: then also accuracy, macro_f1, matthews and f1. With
        multi-label predictions half_f1 replaces argmax_f1 and is the f1 of a threshold of one half, which classes that
        do not occur in `tuning` keep: then also micro_f1, macro_f1 and accuracy.
    """
    from sklearn.metrics import precision_recall_fscore_support

    def scores(true: np.ndarray, predicted: np.ndarray) -> list[float]:
        values = precision_recall_fscore_support(true, predicted, average="binary", zero_division=0)  # pyright: ignore[reportArgumentType]  # 0 is allowed
        return [float(x) for x in values[:3]]

    is_binary = len(measured.names) == 2 and not measured.is_multi_label
    untuned = "half_f1" if measured.is_multi_label else "argmax_f1"
    predicted, probabilities, tuning_probabilities = measured.predicted, measured.probabilities, tuning.probabilities
    classes, decisions = {}, predicted.copy()
    for c in range(1 if is_binary else 0, len(measured.names)):
        is_tuning, is_true = tuning.true[:, c], measured.true[:, c]
        if not is_tuning.any():
            continue
        threshold = best_threshold(tuning_probabilities[:, c], is_tuning)
        decisions[:, c] = probabilities[:, c] >= threshold
        tuned = dict(zip(("precision", "recall", "f1"), scores(is_true, decisions[:, c]), strict=True))
        before = {untuned: scores(is_true, predicted[:, c])[2]}
        classes[measured.names[c]] = {"threshold": threshold} | tuned | before
    result: dict[str, Any] = {"classes": classes}
    if is_binary and classes:
        result |= metrics_of_classes(decisions[:, 1].astype(np.int64), measured.labels, 2)
    if measured.is_multi_label:
        result |= metrics_of_decisions(decisions, measured.true)
    return result
