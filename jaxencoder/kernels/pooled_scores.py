"""Scores of all tokens of the vocabulary, pooled over the texts of packed rows, a few rows at a time.

Scores of a complete batch, [B, T, V], would need gigabytes. For the maximum, the backward pass takes the place of each
from the forward pass, so that no score is stored or computed twice.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from jaxencoder.sharding import row_shards

_TOKENS = 512  # whose scores are in memory at once, on each device


def largest_scores(
    hidden: jax.Array, table: jax.Array, bias: jax.Array, segment_ids: jax.Array, documents: int
) -> jax.Array:
    """The largest score of each token of the vocabulary among the positions of a text.

    Args:
        hidden: [B, T, D] float32 or bfloat16; a score is its product with a row of `table`, plus the bias.
        table: [V, D] float32, cast to the dtype of `hidden` for the product.
        bias: [V] float32.
        segment_ids: int32 [B, T]; text e of a row has the segment id e + 1.
        documents: E, the most texts of a row.

    Returns:
        [B, E, V] float32, minus infinity for texts without tokens. Among equal scores the first has the gradient.
    """
    return _largest(hidden, table, bias, segment_ids, documents, _groups(hidden))


def summed_scores(
    hidden: jax.Array,
    table: jax.Array,
    bias: jax.Array,
    segment_ids: jax.Array,
    documents: int,
    activation: Callable[[jax.Array], jax.Array],
) -> jax.Array:
    """The sum over the positions of a text of an activation of the scores; arguments and result as `largest_scores`."""

    @jax.checkpoint
    def pooled(x: jax.Array, ids: jax.Array) -> jax.Array:
        values = activation(_scores(x, table.astype(x.dtype), bias))
        return _by_text(jax.ops.segment_sum, values, ids, documents)

    return _in_groups(lambda group: pooled(*group), (hidden, segment_ids), _groups(hidden))


def _scores(x: jax.Array, table: jax.Array, bias: jax.Array) -> jax.Array:
    return jnp.einsum("BTD,VD->BTV", x, table, preferred_element_type=jnp.float32) + bias


def _groups(hidden: jax.Array) -> int:
    """The number of groups of rows: each has as many rows of every device, with about `_TOKENS` tokens."""
    B, T = hidden.shape[:2]
    shards = row_shards()
    rows = B // shards if B % shards == 0 else B
    size = max(n for n in range(1, rows + 1) if rows % n == 0 and (n == 1 or n * T <= _TOKENS))
    return rows // size


def _split(x: jax.Array, groups: int) -> jax.Array:
    """[B, ...] -> [groups, B / groups, ...], interleaved, so that each device already holds its rows of every group."""
    return jnp.moveaxis(x.reshape(-1, groups, *x.shape[1:]), 1, 0)


def _join(x: jax.Array) -> jax.Array:
    """The inverse of `_split`."""
    return jnp.moveaxis(x, 0, 1).reshape(-1, *x.shape[2:])


def _in_groups(function: Callable, arrays: tuple[jax.Array, ...], groups: int) -> jax.Array:
    """A function of rows, applied to one group after the other."""
    if groups == 1:
        return function(arrays)
    return jax.tree.map(_join, jax.lax.map(function, tuple(_split(x, groups) for x in arrays)))


def _by_text(reduce: Callable, values: jax.Array, segment_ids: jax.Array, documents: int) -> jax.Array:
    """Values [B, T, V] of positions, reduced to those of texts, [B, E, V]."""
    segments = partial(reduce, num_segments=documents + 1)
    return jax.vmap(segments)(values, segment_ids)[:, 1:]


def _of_positions(values: jax.Array, segment_ids: jax.Array) -> jax.Array:
    """Values [B, E, V] of texts at each of their positions, [B, T, V]; those at padding are meaningless."""
    return jnp.take_along_axis(values, jnp.maximum(segment_ids - 1, 0)[..., None], axis=1)


@partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _largest(hidden, table, bias, segment_ids, documents, groups):
    return _forward(hidden, table, bias, segment_ids, documents, groups, index=False)[0]


def _forward(hidden, table, bias, segment_ids, documents, groups, index=True):
    cast = table.astype(hidden.dtype)

    def pooled(group):
        x, ids = group
        scores = _scores(x, cast, bias)
        largest = _by_text(jax.ops.segment_max, scores, ids, documents)
        if not index:
            return largest, None
        # The first position with the largest score.
        position = jnp.arange(x.shape[1], dtype=jnp.int32)[:, None]
        candidates = jnp.where(scores == _of_positions(largest, ids), position, x.shape[1])
        return largest, _by_text(jax.ops.segment_min, candidates, ids, documents)

    largest, positions = _in_groups(pooled, (hidden, segment_ids), groups)
    return largest, (hidden, table, segment_ids, positions)


def _backward(documents, groups, residuals, cotangent):
    hidden, table, segment_ids, positions = residuals
    cast = table.astype(hidden.dtype)

    def add(sums, group):
        x, ids, at, gradient = group
        is_largest = _of_positions(at, ids) == jnp.arange(x.shape[1], dtype=jnp.int32)[:, None]
        d_scores = jnp.where(is_largest & (ids > 0)[..., None], _of_positions(gradient, ids), 0)
        # A sum as a product with ones: XLA's CPU backend reduces outer axes slowly.
        d_bias = jnp.einsum("BTV,BT->V", d_scores, jnp.ones(ids.shape), precision="highest")
        d_scores = d_scores.astype(x.dtype)
        d_hidden = jnp.einsum("BTV,VD->BTD", d_scores, cast, preferred_element_type=jnp.float32).astype(x.dtype)
        d_table = jnp.einsum("BTV,BTD->VD", d_scores, x, preferred_element_type=jnp.float32)
        return (sums[0] + d_table, sums[1] + d_bias), d_hidden

    start = jnp.zeros(table.shape, jnp.float32), jnp.zeros(table.shape[0], jnp.float32)
    arrays = tuple(_split(x, groups) for x in (hidden, segment_ids, positions, cotangent))
    (d_table, d_bias), d_hidden = jax.lax.scan(add, start, arrays)
    return _join(d_hidden), d_table, d_bias, None


_largest.defvjp(_forward, _backward)
