"""Does a classifier mean its probabilities: of what it gives 80%, are 80% right?

Guo et al. 2017, arXiv:1706.04599: expected and maximum calibration error, and the temperature that mends them. The
score of Brier 1950 ("Verification of forecasts expressed in terms of probability") is scikit-learn's.
"""

from typing import NamedTuple

import numpy as np
import scipy.optimize
import scipy.special

BINS = 15
_TEMPERATURES = (0.05, 20.0)


class Reliability(NamedTuple):
    """Predictions in M bins of equal width by their confidence, the probability of the class that is predicted.

    examples: int64 [M]. confidence, accuracy: float64 [M], the mean of each bin; nan in one without examples.
    """

    examples: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray

    @property
    def gaps(self) -> np.ndarray:
        """How far confidence and accuracy of each bin are apart: float64 [M], 0 without examples."""
        return np.nan_to_num(np.abs(self.accuracy - self.confidence))

    @property
    def ece(self) -> float:
        """The expected calibration error: the mean of the gaps, each weighted by its examples."""
        return float(np.average(self.gaps, weights=self.examples))

    @property
    def mce(self) -> float:
        """The maximum calibration error: the largest gap."""
        return float(self.gaps.max())


def reliability(probabilities: np.ndarray, labels: np.ndarray, bins: int = BINS) -> Reliability:
    """The bins ((m - 1) / M, m / M] of probabilities [N, C], N above 0, of which the classes labels [N] are true."""
    confidence = probabilities.max(-1)
    right = probabilities.argmax(-1) == labels
    # Of floats such as 0.2 * 15, a little above 3, the bin is still the one that ends there.
    at = np.clip(np.ceil(np.round(confidence * bins, 9)).astype(int) - 1, 0, bins - 1)
    examples = np.bincount(at, minlength=bins)
    with np.errstate(invalid="ignore"):
        means = (np.bincount(at, x, bins) / examples for x in (confidence, right))
        return Reliability(examples, *means)


def temperature(scores: np.ndarray, labels: np.ndarray) -> float:
    """What logits are to be divided by, so that the loss is least; between 0.05 and 20.

    Args:
        scores: [N, C] logits. labels: [N] int, ids of the true classes.
    """
    scores = scores.astype(np.float64)

    def loss(log_temperature: float) -> float:
        logs = scipy.special.log_softmax(scores / np.exp(log_temperature), axis=-1)
        return -np.take_along_axis(logs, labels[:, None], axis=1).mean()

    found = scipy.optimize.minimize_scalar(loss, bounds=np.log(_TEMPERATURES), method="bounded")
    return float(np.exp(found.x))


def calibration(scores: np.ndarray, labels: np.ndarray, fit: tuple[np.ndarray, np.ndarray]) -> dict[str, float]:
    """How well a classifier's probabilities are calibrated.

    Args:
        scores, labels: logits [N, C] and the true classes int [N].
        fit: those on which the temperature is fitted; the same ones make `scaled_ece` a little too good.

    Returns:
        ece and mce (15 bins), brier (of two classes in [0, 1], of more in [0, 2]), temperature, and scaled_ece, the ece
        of probabilities at that temperature.
    """
    from sklearn.metrics import brier_score_loss

    shares = scipy.special.softmax(scores.astype(np.float64), axis=-1)
    found, factor = reliability(shares, labels), temperature(*fit)
    scaled = reliability(scipy.special.softmax(scores / factor, axis=-1), labels)
    brier = brier_score_loss(labels, shares / shares.sum(-1, keepdims=True), labels=np.arange(shares.shape[1]))
    return {
        "ece": found.ece,
        "mce": found.mce,
        "brier": float(brier),
        "temperature": factor,
        "scaled_ece": scaled.ece,
    }


def calibration_of_decisions(
    scores: np.ndarray, labels: np.ndarray, fit: tuple[np.ndarray, np.ndarray]
) -> dict[str, float]:
    """`calibration` of all yes-or-no decisions together, for texts with any number of classes.

    Args:
        scores: [N, C] logits. labels: [N, C] int, 1 for a class that a text has. fit: the same of other texts.
    """
    return calibration(*as_decisions(scores, labels), as_decisions(*fit))


def as_decisions(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[N, C] logits and labels as those of N * C examples of two classes: [N * C, 2] and [N * C]."""
    flat = scores.astype(np.float64).ravel()
    return np.stack([np.zeros_like(flat), flat], axis=-1), labels.astype(np.int64).ravel()
