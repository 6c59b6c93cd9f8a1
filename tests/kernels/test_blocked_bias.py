"""Tables split into parts for blocks: all blocks together give the scores and gradients of the full tables."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxencoder.kernels.blocked_bias import blocked_bias
from jaxencoder.kernels.relative import RelativeTerms

B, N, H = 2, 3, 4
ALL = "keys queries bias"
CASES = [(16, 16, 8, ALL), (16, 11, 4, ALL), (6, 20, 3, ALL), (5, 9, 1, ALL)]
CASES += [(8, 3, 4, term) for term in ALL.split()]


def heads_first(x: jax.Array) -> jax.Array:
    return jnp.moveaxis(x, 2, 0)


@jax.jit
def at_once(relative: RelativeTerms, q: jax.Array, k: jax.Array, d: jax.Array) -> tuple:
    """Scores, and gradients of the tables, q and k."""
    scores, pull = jax.vjp(lambda relative, q, k: relative.scores(q, k) + jnp.zeros_like(d), relative, q, k)
    return scores, pull(d)


@partial(jax.jit, static_argnums=4)
def in_blocks(relative: RelativeTerms, q: jax.Array, k: jax.Array, d: jax.Array, block: int) -> tuple:
    T, S = d.shape[2:]
    tables, back = jax.vjp(lambda relative, k: blocked_bias(relative, heads_first(k), T, block), relative, k)
    blocks, sums = T // block, jax.tree.map(jnp.zeros_like, tables)
    scores, dq = [], []
    for i in range(blocks):
        queries = slice(i * block, (i + 1) * block)
        part, q_i = tables.at_block(i, blocks, block), heads_first(q[:, queries])
        scores.append(jnp.broadcast_to(part.scores(q_i, S), (N, B, block, S)))
        dq_i, d_part = part.gradients(jnp.swapaxes(d, 0, 1)[:, :, queries], q_i)
        dq.append(jnp.broadcast_to(dq_i, q_i.shape))
        sums = sums.add_at_block(d_part, i, blocks, block)
    d_relative, d_k = back(sums)
    scores, dq = jnp.concatenate(scores, axis=2), jnp.concatenate(dq, axis=2)
    return jnp.swapaxes(scores, 0, 1), (d_relative, jnp.moveaxis(dq, 0, 2), d_k)


@pytest.mark.parametrize(("T", "S", "block", "terms"), CASES)
def test_blocks_together_equal_full_tables(T: int, S: int, block: int, terms: str) -> None:
    rng = np.random.default_rng(0)

    def drawn(*shape: int) -> jax.Array:
        return jnp.asarray(rng.standard_normal(shape), jnp.float32)

    shapes = {"keys": (T + S - 1, N, H), "queries": (T + S - 1, N, H), "bias": (T + S - 1, N)}
    relative = RelativeTerms(**{name: drawn(*shapes[name]) for name in terms.split()})
    arrays = relative, drawn(B, T, N, H), drawn(B, S, N, H), drawn(B, N, T, S)
    (scores, gradients), (expected, expected_gradients) = in_blocks(*arrays, block), at_once(*arrays)
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=2e-5), gradients, expected_gradients)
