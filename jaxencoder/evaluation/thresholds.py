"""From which probability on a class is predicted, where the largest one is not the best rule: of rare classes.

The threshold of the best F1 on validation data, one class against the rest: Lipton et al. 2014, arXiv:1402.1892.
"""

from typing import Any

import numpy as np

from jaxencoder.tasks.classification.metrics import metrics_of_classes, metrics_of_decisions
from jaxencoder.tasks.classification.predict import Predictions


def best_threshold(probabilities: np.ndarray, positive: np.ndarray) -> float:
    """The threshold whose F1 is best; of equal ones the largest.

    It lies half way between two probabilities, so that either side has some room, unless they are neighbours.

    Args:
        probabilities: float [N], of the class. positive: bool [N], where it is true, somewhere at least.
    """
    from sklearn.metrics import precision_recall_curve

    precision, recall, thresholds = precision_recall_curve(positive, probabilities)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    best = len(thresholds) - 1 - int(f1[:-1][::-1].argmax())
    below = thresholds[best - 1] if best else 0.0
    middle = (below + thresholds[best]) / 2
    return float(middle if middle > below else thresholds[best])


def tuned(measured: Predictions, tuning: Predictions) -> dict[str, Any]:
    """Metrics of a classifier whose thresholds have the best F1 on other data.

    Args:
        measured: what is measured. tuning: what the thresholds are chosen on, of the same run.

    Returns:
        "classes": of each class that is true somewhere in `tuning`, by name: its threshold and, one class against the
        rest, precision, recall and f1 with that threshold, beside argmax_f1, that of the largest probability. Of two
        classes only the second has a threshold, which decides for all: then also accuracy, macro_f1, matthews and f1.
        Where a record has any number of classes, half_f1 is that of a threshold of one half, which stays for classes
        that are nowhere true in `tuning`; then also micro_f1, macro_f1 and accuracy.
    """
    from sklearn.metrics import precision_recall_fscore_support

    binary = len(measured.names) == 2 and not measured.is_multi_label
    options = {"average": "binary", "zero_division": 0}
    classes, shares, chosen = {}, measured.probabilities, measured.predicted
    before, decided = "half_f1" if measured.is_multi_label else "argmax_f1", chosen.copy()
    for c in range(1 if binary else 0, len(measured.names)):
        if not tuning.true[:, c].any():
            continue
        threshold = best_threshold(tuning.probabilities[:, c], tuning.true[:, c])
        decided[:, c] = above = shares[:, c] >= threshold
        true = measured.true[:, c]
        precision, recall, f1, _ = precision_recall_fscore_support(true, above, **options)
        classes[measured.names[c]] = {
            "threshold": threshold,
            "precision": float(precision),
            "recall": float(recall),
            "f1": float(f1),
            before: float(precision_recall_fscore_support(true, chosen[:, c], **options)[2]),
        }
    result: dict[str, Any] = {"classes": classes}
    if binary and classes:
        result |= metrics_of_classes(above.astype(np.int64), measured.labels, 2)
    if measured.is_multi_label:
        result |= metrics_of_decisions(decided, measured.true)
    return result
