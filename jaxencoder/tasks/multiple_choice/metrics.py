"""Metrics of multiple choice."""

from collections.abc import Sequence

import numpy as np


def choice_metrics(probabilities: Sequence[np.ndarray], right: Sequence[int]) -> dict[str, float]:
    """How often the right choice is the most probable one.

    Args:
        probabilities: float64 [choices] of each example.
        right: index of the right choice of each example.

    Returns:
        loss (nats per example), accuracy, chance (the accuracy of a random guess) and examples, their number.
    """
    pairs = list(zip(probabilities, right, strict=True))
    with np.errstate(divide="ignore"):
        values = {
            "loss": [-np.log(shares[i]) for shares, i in pairs],
            "accuracy": [shares.argmax() == i for shares, i in pairs],
            "chance": [1 / len(shares) for shares, _ in pairs],
        }
    return {name: float(np.mean(x)) for name, x in values.items()} | {"examples": len(pairs)}
