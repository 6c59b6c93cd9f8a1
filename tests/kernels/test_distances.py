"""Tables in the parts that blocks meet: all blocks together are the scores and the gradients of the whole."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxencoder.kernels.distances import distances
from jaxencoder.kernels.relative import Relative

B, N, H = 2, 3, 4


ALL = "keys queries bias"
CASES = [(16, 16, 8, ALL), (16, 11, 4, ALL), (6, 20, 3, ALL), (5, 9, 1, ALL)]
CASES += [(8, 3, 4, term) for term in ALL.split()]


@pytest.mark.parametrize(("T", "S", "block", "terms"), CASES)
def test_blocks_together_are_the_whole(T: int, S: int, block: int, terms: str) -> None:
    keys = jax.random.split(jax.random.key(0), 6)
    shapes = {"keys": (T + S - 1, N, H), "queries": (T + S - 1, N, H), "bias": (T + S - 1, N)}
    tables = {name: jax.random.normal(key, shapes[name]) for name, key in zip(shapes, keys, strict=False)}
    relative = Relative(**{name: tables[name] for name in terms.split()})
    q, k = jax.random.normal(keys[3], (B, T, N, H)), jax.random.normal(keys[4], (B, S, N, H))
    d = jax.random.normal(keys[5], (B, N, T, S))
    expected, pull = jax.vjp(lambda relative, q, k: relative.scores(q, k) + jnp.zeros_like(d), relative, q, k)

    heads_first = lambda x: jnp.moveaxis(x, 2, 0)  # noqa: E731
    whole, back = jax.vjp(lambda relative, k: distances(relative, heads_first(k), T, block), relative, k)
    blocks, sums = T // block, jax.tree.map(jnp.zeros_like, whole)
    scores, dq = [], []
    for i in range(blocks):
        own = slice(i * block, (i + 1) * block)
        met, q_i = whole.met(i, blocks, block), heads_first(q[:, own])
        scores.append(met.scores(q_i, S))
        dq_i, d_met = met.gradients(jnp.swapaxes(d, 0, 1)[:, :, own], q_i)
        dq.append(jnp.broadcast_to(dq_i, q_i.shape))
        sums = sums.plus(d_met, i, blocks, block)
    scores = jnp.concatenate([jnp.broadcast_to(x, (N, B, block, S)) for x in scores], axis=2)
    np.testing.assert_allclose(scores, jnp.swapaxes(expected, 0, 1), atol=1e-5)
    d_relative, d_k = back(sums)
    got = (d_relative, jnp.moveaxis(jnp.concatenate(dq, axis=2), 0, 2), d_k)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=2e-5), got, pull(d))
