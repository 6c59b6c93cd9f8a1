"""Random batches of vectors, and losses and gradients here and in sentence-transformers, there in float64."""

from collections.abc import Callable, Iterator
from functools import lru_cache

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")

SHAPES = ((9, 4, 7),)  # N, C, D


def batches(shapes=SHAPES, seeds=(0, 1, 2), complete: bool = False) -> Iterator[tuple[np.random.Generator, ...]]:
    """A random generator, vectors [N, C, D] and a mask [N, C]: for seed 0 with all texts, then without some.

    `complete` keeps query and positive of an example together.
    """
    for shape in shapes:
        for seed in seeds:
            random = np.random.default_rng(seed)
            vectors = random.standard_normal(shape, np.float32)
            vectors[:, 1:] += vectors[:, :1]
            mask = random.random(shape[:2]) < (0.75 if seed else 2)
            mask[0, :2] = mask[-1, :2] = True
            if seed:
                mask[2:3] = False  # padding
            if complete:
                mask[:, 0] = mask[:, 1]
                mask &= mask[:, :1]
            yield random, vectors, mask


@lru_cache(maxsize=4)
def _compiled(loss: Callable) -> Callable:
    def quotient(vectors: jax.Array, *rest: jax.Array) -> jax.Array:
        total, weight = loss(vectors, *rest)
        return total / jax.numpy.maximum(weight, 1)

    return jax.jit(jax.value_and_grad(quotient))


def loss_and_gradient(loss: Callable, vectors: np.ndarray, mask: np.ndarray, *rest) -> tuple[float, np.ndarray]:
    """The quotient of sum and weight, and its gradient; absent vectors are NaN, which must not matter.

    The same `loss` is compiled only once for each shape.
    """
    value, gradient = _compiled(loss)(np.where(mask[..., None], vectors, np.nan), mask, *rest)
    return float(value), np.asarray(gradient)


def assert_equals_peer(loss: Callable, peer: Callable, vectors: np.ndarray, mask: np.ndarray, *rest) -> None:
    """`loss` has the value and the gradient of `peer`, a function of a tensor [N, C, D] with zeros for absent texts."""
    value, gradient = loss_and_gradient(loss, vectors, mask, *rest)
    tensor = torch.tensor(np.where(mask[..., None], vectors, 0), dtype=torch.float64, requires_grad=True)
    expected = peer(tensor)
    expected.backward()
    assert value == pytest.approx(expected.item(), rel=1e-5, abs=1e-5)
    scale = max(1, float(tensor.grad.abs().max()))
    np.testing.assert_allclose(gradient / scale, tensor.grad.numpy() / scale, atol=1e-5)


def columns(tensor, rows=slice(None)) -> list:
    return list(tensor[rows].unbind(1))


class Identity(torch.nn.Module):
    """A model whose vectors are its inputs."""

    device = "cpu"

    def __init__(self, size: int = 0) -> None:
        super().__init__()
        self.size = size

    def get_embedding_dimension(self) -> int:
        return self.size

    def forward(self, features: dict) -> dict:
        return dict(features)


def as_features(tensors: list) -> list[dict]:
    return [{"sentence_embedding": tensor} for tensor in tensors]
