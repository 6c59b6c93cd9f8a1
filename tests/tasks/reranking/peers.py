"""Lists of scores, and losses of cross-encoders in sentence-transformers on given scores."""

from collections.abc import Callable, Iterator
from functools import lru_cache

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")
losses = pytest.importorskip("sentence_transformers.cross_encoder.losses")

SIZES = ([5, 5, 5, 5], [5, 1, 3, 2])  # documents of each query


class GivenScores(losses.BinaryCrossEntropyLoss.__init__.__globals__["CrossEncoder"]):
    """A model that has the scores of all pairs already; a document's text is its row and column in them."""

    num_labels, device = 1, torch.device("cpu")

    def __init__(self, scores) -> None:
        torch.nn.Module.__init__(self)
        self.given = scores

    def preprocess(self, pairs, **_) -> dict:
        return {"places": torch.tensor([[int(x) for x in text.split()] for _, text in pairs])}

    def __call__(self, features: dict) -> dict:
        return {"scores": self.given[tuple(features["places"].T)][:, None]}


def lists(sizes: list[int], seed: int, graded: bool = True) -> tuple[np.ndarray, ...]:
    """Scores and labels float32 [N, K], with ties in both, and the mask, of a list for each of some sizes.

    Without `graded` the first document has label 1, the others 0.
    """
    random, shape = np.random.default_rng(seed), (len(sizes), max(sizes))
    scores = random.normal(0, 2, shape).astype(np.float32)
    labels = random.integers(0, 4, shape).astype(np.float32) if graded else np.zeros(shape, np.float32)
    if not graded:
        labels[:, 0] = 1
    if shape[1] > 3:
        scores[0, 3] = scores[0, 0]
    return scores, labels, np.arange(shape[1]) < np.array(sizes)[:, None]


def texts(sizes: list[int]) -> list[list[str]]:
    return [[f"{row} {column}" for column in range(size)] for row, size in enumerate(sizes)]


def as_lists(loss: Callable, sizes: list[int], labels: np.ndarray) -> Callable:
    """The loss of sentence-transformers of one list of labels for each query, as a function of the scores."""
    tensors = [torch.tensor(row[:size]) for row, size in zip(labels, sizes, strict=True)]
    return lambda scores: loss(GivenScores(scores))([["q"] * len(sizes), texts(sizes)], tensors)


def as_pairs(loss: Callable, mask: np.ndarray, labels: np.ndarray) -> Callable:
    """The loss of sentence-transformers of labeled pairs."""
    flat = [f"{row} {column}" for row, column in np.argwhere(mask)]
    return lambda scores: loss(GivenScores(scores))([["q"] * len(flat), flat], torch.tensor(labels[mask]))


def as_columns(loss: Callable, shape: tuple[int, int], labels: np.ndarray | None = None) -> Callable:
    """The loss of sentence-transformers of queries, positives and columns of negatives."""
    columns = [[f"{row} {column}" for row in range(shape[0])] for column in range(shape[1])]
    tensor = None if labels is None else torch.tensor(labels)
    return lambda scores: loss(GivenScores(scores))([["q"] * shape[0], *columns], tensor)


@lru_cache
def compiled(loss: Callable) -> Callable:
    """The quotient of sum and weight and its gradient, the sum, and the weight."""

    def quotient(scores: jax.Array, labels: jax.Array, mask: jax.Array) -> tuple[jax.Array, tuple]:
        total, weight = loss(scores, labels, mask)
        return total / jax.numpy.maximum(weight, 1), (total, weight)

    return jax.jit(jax.value_and_grad(quotient, has_aux=True))


def assert_equals_peer(loss: Callable, peer: Callable, scores: np.ndarray, labels: np.ndarray, mask: np.ndarray):
    """`loss` has the value and the gradient of `peer`; NaN where there is no document does not matter."""
    given = (np.where(mask, x, np.nan).astype(np.float32) for x in (scores, labels))
    (value, _), gradient = compiled(loss)(*given, mask)
    tensor = torch.tensor(scores, requires_grad=True)
    expected = peer(tensor)
    expected.backward()
    assert float(value) == pytest.approx(expected.item(), rel=1e-5, abs=1e-6)
    theirs = np.zeros_like(scores) if tensor.grad is None else tensor.grad.numpy()
    np.testing.assert_allclose(gradient, np.where(mask, theirs, 0), atol=1e-5, rtol=1e-5)


def cases(graded: bool = True) -> Iterator[tuple]:
    for seed, sizes in enumerate(SIZES):
        yield sizes, *lists(sizes, seed, graded)
