"""How often anchors find their positives among the texts of a batch."""

import numpy as np
import pytest

from jaxencoder.tasks.embeddings import vectors as vectors_module
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


@pytest.mark.parametrize("has_numbers", [False, True])
def test_accuracy_written_out(has_numbers: bool, monkeypatch) -> None:
    """Each anchor finds its own positive, among the negatives too; in blocks, and without related texts."""
    monkeypatch.setattr(vectors_module, "_BLOCK", 4)
    random = np.random.default_rng(0)
    vectors = random.standard_normal((11, 3, 8)).astype(np.float32)
    vectors[:, 1] += 1.5 * vectors[:, 0]
    vectors[:4, 2] += 3 * vectors[:4, 0]  # more similar than the positive
    texts = np.arange(33).reshape(11, 3)
    texts[7:9, 1] = texts[3, 1]  # two more examples with the positive of another one
    vectors[7:9, 1] = vectors[3, 1]
    texts = np.where(random.random((11, 3)) < 0.1, -1, texts)
    expected = [0, 0]
    for i, (anchor, positive, _) in enumerate(texts):
        if anchor < 0 or positive < 0:
            continue
        others = texts[:, 1:] >= 0
        others[i, 0] = False
        if has_numbers:
            related = {x for row in texts if row[:2].min() >= 0 and {*row[:2]} & {anchor, positive} for x in row[:2]}
            others &= ~np.isin(texts[:, 1:], list(related))
        scores = vectors[:, 1:] @ vectors[i, 0]
        expected[0] += scores[i, 0] > scores[others].max()
        expected[1] += 1
    hits, count = ranking_accuracy(vectors, texts if has_numbers else texts >= 0, "dot")
    assert [float(hits), float(count)] == expected and 0 < expected[0] < expected[1]
