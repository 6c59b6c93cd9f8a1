"""How often anchors find their positives among the texts of a batch."""

import numpy as np
import pytest

from jaxencoder.tasks.embeddings.accuracy import finds_positive, ranking_accuracy

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


def test_accuracy() -> None:
    """Ties with another text count as errors; examples without a positive do not count."""
    vectors = np.zeros((4, 3, 2), np.float32)
    vectors[:2, :2] = [[[1, 0], [1, 0]], [[0, 1], [1, 1]]]
    vectors[2, :2] = [[1, 1], [1, 1]]  # as similar as the positive of the second example
    mask = np.array([[1, 1, 0], [1, 1, 0], [1, 1, 0], [1, 0, 0]], bool)
    hits, count = ranking_accuracy(vectors, mask, "cosine")
    assert (float(hits), float(count)) == (1, 3)
