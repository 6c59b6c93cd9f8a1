"""Calibration of a classifier: how far its probabilities are from the fractions of correct predictions.

Expected and maximum calibration error, and the temperature that reduces them, are those of Guo et al. 2017,
arXiv:1706.04599. The score of Brier 1950 ("Verification of forecasts expressed in terms of probability") is
scikit-learn's.
"""

from typing import NamedTuple

import numpy as np
import scipy.optimize
import scipy.special

BINS = 15

Scored = tuple[np.ndarray, np.ndarray]  # logits [N, C] and true classes int [N]; or both [N, C] for multi-label


class Reliability(NamedTuple):
    """Predictions in M bins of equal width by confidence, the probability of the predicted class.

    examples: int64 [M]. confidence, accuracy: float64 [M], means per bin; NaN in empty bins. ece, mce: the expected and
    the maximum calibration error, the mean gap between confidence and accuracy over the examples, and the largest gap.
    """

    examples: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray
    ece: float
    mce: float


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
