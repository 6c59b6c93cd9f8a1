"""Probabilities of a classifier: how far they are from the fractions of correct predictions, and thresholds of them.

Expected and maximum calibration error, and the temperature that reduces them, are those of Guo et al. 2017,
arXiv:1706.04599; the score of Brier 1950 is scikit-learn's. Rare classes are seldom the most probable one, so each may
have the threshold of the best F1 on validation data, one class against the rest: Lipton et al. 2014, arXiv:1402.1892.
"""

from typing import Any, NamedTuple

import numpy as np
import scipy.optimize
import scipy.special

from jaxencoder.tasks.classification.metrics import metrics_of_classes, metrics_of_decisions
from jaxencoder.tasks.classification.predict import Predictions

BINS = 15

Scored = tuple[np.ndarray, np.ndarray]  # logits [N, C] and true classes int [N]; or both [N, C] for multi-label


class Reliability(NamedTuple):
    """Predictions in M bins of equal width by confidence, the probability of the predicted class."""

    examples: np.ndarray  # int64 [M]
    confidence: np.ndarray  # float64 [M], means per bin; NaN in empty bins
    accuracy: np.ndarray  # the same
    ece: float  # expected calibration error: the mean gap between confidence and accuracy over the examples
    mce: float  # maximum calibration error: the largest gap


def reliability_bins(probabilities: np.ndarray, labels: np.ndarray, bins: int = BINS) -> Reliability:
    """The bins ((m - 1) / M, m / M] of probabilities [N, C], N above 0, with true classes labels int [N]."""
    confidence = probabilities.max(-1)
    is_correct = probabilities.argmax(-1) == labels
    # Rounding keeps 0.2 * 15, which is a little above 3 in floats, in the bin that ends there.
    index = np.clip(np.ceil(np.round(confidence * bins, 9)).astype(int) - 1, 0, bins - 1)
    examples = np.bincount(index, minlength=bins)
    with np.errstate(invalid="ignore"):
        confidence, accuracy = (np.bincount(index, x, bins) / examples for x in (confidence, is_correct))
    gaps = np.nan_to_num(np.abs(accuracy - confidence))  # 0 in empty bins
    return Reliability(examples, confidence, accuracy, float(np.average(gaps, weights=examples)), float(gaps.max()))


def fit_temperature(scores: np.ndarray, labels: np.ndarray) -> float:
    """The divisor of logits [N, C] that minimizes the loss for true classes int [N]; between 0.05 and 20."""
    scores = scores.astype(np.float64)

    def loss(log_temperature: float) -> float:
        log_probabilities = scipy.special.log_softmax(scores / np.exp(log_temperature), axis=-1)
        return -np.take_along_axis(log_probabilities, labels[:, None], axis=1).mean()

    minimum = scipy.optimize.minimize_scalar(loss, bounds=np.log((0.05, 20.0)), method="bounded")
    return float(np.exp(minimum.x))


def calibration(scores: np.ndarray, labels: np.ndarray, fit: Scored) -> dict[str, float]:
    """Measure how well a classifier's probabilities are calibrated, multi-label over all its binary decisions.

    Args:
        scores, labels: logits [N, C] and the true classes int [N]; or both [N, C] for multi-label.
        fit: the same for fitting the temperature; if they are the measured ones, `scaled_ece` is slightly too low.

    Returns:
        ece and mce (15 bins), brier (in [0, 1] for two classes, else in [0, 2]), temperature, and scaled_ece, the ece
        of probabilities at that temperature.
    """
    from sklearn.metrics import brier_score_loss

    scores, labels = as_decisions(scores, labels)
    probabilities = scipy.special.softmax(scores.astype(np.float64), axis=-1)
    bins, temperature = reliability_bins(probabilities, labels), fit_temperature(*as_decisions(*fit))
    scaled = reliability_bins(scipy.special.softmax(scores / temperature, axis=-1), labels)
    normalized = probabilities / probabilities.sum(-1, keepdims=True)
    brier = float(brier_score_loss(labels, normalized, labels=np.arange(scores.shape[1])))
    return {"ece": bins.ece, "mce": bins.mce, "brier": brier, "temperature": temperature, "scaled_ece": scaled.ece}


def as_decisions(scores: np.ndarray, labels: np.ndarray) -> Scored:
    """Multi-label logits and labels [N, C] as N * C examples of two classes, [N * C, 2] and [N * C]; others as is."""
    if labels.ndim == 1:
        return scores, labels
    flat = scores.astype(np.float64).ravel()
    return np.stack([np.zeros_like(flat), flat], axis=-1), labels.astype(np.int64).ravel()


def best_threshold(probabilities: np.ndarray, positive: np.ndarray) -> float:
    """The threshold of probabilities [N] with the best F1 for positive bool [N], not all False; the largest of several.

    It is the midpoint of two probabilities, or the upper one if no float lies between them.
    """
    from sklearn.metrics import precision_recall_curve

    precision, recall, thresholds = precision_recall_curve(positive, probabilities)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    best = len(thresholds) - 1 - int(f1[:-1][::-1].argmax())
    below = thresholds[best - 1] if best else 0.0
    middle = (below + thresholds[best]) / 2
    return float(middle if middle > below else thresholds[best])


def tuned_metrics(measured: Predictions, tuning: Predictions) -> dict[str, Any]:
    """Metrics of a classifier with the thresholds of the best F1 in its predictions `tuning`, of other data.

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
