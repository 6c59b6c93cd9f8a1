"""Equal texts of a batch: found by their tokens, and left out of the negatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxencoder.tasks.embeddings.duplicates import related_texts, text_numbers
from jaxencoder.tasks.embeddings.ranking import guided_ranking, multiple_negatives_ranking, score_ranking
from jaxencoder.tasks.embeddings.vectors import similarities

# Texts of the examples: two have anchor 0 in common, two positive 1, and one negative is the positive of another one.
TEXTS = np.array([[0, 1, 2], [0, 3, 1], [4, 1, 5], [6, 7, 3], [8, 9, 9]])
RELATED = [{0, 1, 3, 4}, {0, 1, 3}, {0, 1, 4}, {6, 7}, {8, 9}]
DIRECTIONS = ("query_to_document", "document_to_query", "query_to_query", "document_to_document")


def test_related_texts() -> None:
    """Of all examples at once or of some; a pair that is not complete relates nothing."""
    expected = np.array([[[text in group for text in row] for row in TEXTS] for group in RELATED])
    assert (related_texts(TEXTS, TEXTS) == expected).all()
    assert (related_texts(TEXTS, TEXTS[3:]) == expected[3:]).all()
    texts = np.where(TEXTS == 3, -1, TEXTS)
    assert related_texts(texts, texts)[0].tolist() == np.isin(texts, [0, 1, 4]).tolist()


def test_related_texts_are_no_negatives() -> None:
    """The softmax in all directions, written out, also of scores; without equal texts nothing changes."""
    random = np.random.default_rng(0)
    vectors = random.standard_normal((5, 3, 6)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    q, d, total, first = vectors[:, 0], vectors[:, 1:], 0.0, 0.0
    for i, group in enumerate(RELATED):
        is_own = np.arange(5) == i
        positive = 20 * q[i] @ d[i, 0]
        is_document = ~np.isin(TEXTS[:, 1:], list(group))
        is_query = ~np.isin(TEXTS[:, 0], list(group))
        to_documents = np.exp(20 * d[is_document] @ q[i]).sum() + np.exp(positive)
        to_queries = np.exp(20 * q[is_query] @ d[i, 0]).sum() + np.exp(positive)
        others = np.exp(20 * q[is_query] @ q[i]).sum()
        others += np.exp(20 * d[is_document & ~is_own[:, None]] @ d[i, 0]).sum()
        total += np.log(to_documents + to_queries + others) - positive
        first += np.log(to_documents) - positive
    value, count = multiple_negatives_ranking(vectors, TEXTS, directions=DIRECTIONS)
    assert float(value) == pytest.approx(total, rel=1e-5) and count == 5
    scores = similarities("dot", vectors[:, 0], vectors[:, 1:])
    assert float(score_ranking(scores, TEXTS, scale=20.0)[0]) == pytest.approx(first, rel=1e-5)
    different = np.arange(15).reshape(5, 3)
    plain, same = (multiple_negatives_ranking(vectors, texts)[0] for texts in (different >= 0, different))
    assert float(plain) == float(same)


def test_related_texts_are_no_negatives_beside_a_guide() -> None:
    """A guide whose vectors are all equal leaves nothing out itself."""
    vectors = np.random.default_rng(0).standard_normal((5, 3, 6)).astype(np.float32)
    guides = np.broadcast_to(np.eye(4, dtype=np.float32)[0], (5, 3, 4))
    for texts in (TEXTS, TEXTS >= 0):
        guided = guided_ranking(vectors, texts, guides, temperature=0.05, contrast_positives=False)
        plain = multiple_negatives_ranking(vectors, texts, directions=("query_to_document", "query_to_query"))
        assert float(guided[0]) == pytest.approx(float(plain[0]), rel=1e-5) and guided[1] == 5


def test_a_batch_of_equal_pairs_has_no_loss() -> None:
    """Neither a loss nor a gradient, where sentence-transformers has log N."""

    def loss(vectors):
        return multiple_negatives_ranking(vectors, np.tile([0, 1], (4, 1)))[0]

    value, gradient = jax.value_and_grad(loss)(np.ones((4, 2, 3), np.float32))
    assert float(value) == pytest.approx(0, abs=1e-6) and not np.asarray(gradient).any()


def test_text_numbers() -> None:
    """Equal tokens have equal numbers, wherever they stand and whatever the prompt; order and length tell apart."""
    texts = [[[1, 5, 6, 2], [1, 6, 5, 2]], [[1, 6, 5, 2], [1, 5, 6, 2], [1, 5, 2]], [[1, 5, 2]]]
    batch = {name: np.zeros((3, 12), np.int32) for name in ("token_ids", "segment_ids", "positions")}
    for row, pieces in enumerate(texts):
        start = 0
        for segment, ids in enumerate(pieces, 1):
            span = slice(start, start + len(ids))
            batch["token_ids"][row, span], batch["segment_ids"][row, span] = ids, segment
            batch["positions"][row, span] = np.arange(len(ids))
            start = span.stop
    batch |= {"labels": np.zeros((3, 3)), "tuples": np.array([[[0, 1, -1]], [[0, 1, 2]], [[0, -1, -1]]])}
    numbers = np.asarray(jax.jit(text_numbers)(batch))
    (a, b, none), (b2, a2, c), (c2, *_) = numbers.tolist()
    assert (a, b, c) == (a2, b2, c2) and len({a, b, c}) == 3 and none == -1
    after_prompts = text_numbers(batch | {"prompt_tokens": jnp.array([[1, 1, 1], [2, 1, 1], [1, 1, 1]])})
    assert after_prompts[1, 0] == after_prompts[2, 0] != after_prompts[0, 1]  # [1 6] before 5, or [1]
