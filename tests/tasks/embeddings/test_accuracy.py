"""Comparisons of vectors that the losses and their metrics share."""

import numpy as np
import pytest

from jaxencoder.tasks.embeddings.vectors import finds_positive

MISSING = -np.inf


@pytest.mark.parametrize(
    ("own", "other", "is_found"),
    [
        ([0.9, 0.5], [0.1, 0.2], True),
        ([0.5, 0.9], [0.1, 0.2], False),  # its own negative is more similar
        ([0.5, 0.1], [0.9, 0.2], False),  # a positive of another query
        ([0.5, 0.1], [0.2, 0.9], False),
        ([0.5, 0.5], [0.1, 0.2], False),  # a tie
        ([0.5, MISSING], [MISSING, MISSING], True),
    ],
)
def test_the_positive_is_more_similar_than_all_other_texts(own, other, is_found: bool) -> None:
    scores = np.array([[own, other], [other, own]], np.float32)
    assert finds_positive(scores, np.array([0, 1])).tolist() == [is_found, is_found]
