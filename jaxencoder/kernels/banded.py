"""Attention within a window, in time and memory linear in T: each block of queries against the band of keys around it.

Beltagy et al. 2020 (Longformer, arXiv:2004.05150) compute windows by chunks that overlap; here a block takes one chunk
before it and one after it.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxencoder.kernels.dense import masked_softmax, places
from jaxencoder.kernels.dropout import hashed_dropout
from jaxencoder.kernels.relative import RelativeTerms

_BLOCK = 128  # queries that share one band of keys


class GlobalKeys(NamedTuple):
    """Keys that every block sees besides its band, and not in it.

    Attributes:
        k, v: [B, G, N, H].
        segments: [B, G], -1 for those that nobody sees.
        slots: [B, G], where in the row they stand.
        there: [B, S] bool, whether a key of the row is one of them.
    """

    k: jax.Array
    v: jax.Array
    segments: jax.Array
    slots: jax.Array
    there: jax.Array


def banded(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    q_segments: jax.Array,
    k_segments: jax.Array,
    relative: RelativeTerms | None = None,
    *,
    window: int,
    offset: int = 0,
    dropout: float = 0.0,
    seed: jax.Array | None = None,
    beside: GlobalKeys | None = None,
) -> jax.Array:
    """As `dense` with a window, through scores [B, N, T, band_size(window)].

    The row is cut into chunks no shorter than the window, so that a block of m chunks needs exactly the m + 2 chunks
    from one before it to one after it.

    Args:
        k, v, k_segments: of S = T + 2 offset keys.
        offset: keys before the first query's own place, and behind the last one's: 0, or at least the window.
        beside: global keys.

    Returns:
        [B, T, N, H] in the dtype of v.
    """
    B, T, N, H = q.shape
    C = _chunk(window)
    m = max(1, _BLOCK // C)
    block, band = m * C, (m + 2) * C
    X = -(-T // block)  # blocks of queries
    pad = X * block - T

    def bands(x: jax.Array, fill: int = 0) -> jax.Array:
        """[B, S, ...] -> [B, X, band, ...]"""
        x = x[:, max(offset - C, 0) : max(offset - C, 0) + T + 2 * min(offset, C)]
        edge = C - min(offset, C)
        x = jnp.pad(x, [(0, 0), (edge, edge + pad)] + [(0, 0)] * (x.ndim - 2), constant_values=fill)
        x = x.reshape(B, X * m + 2, C, *x.shape[2:])
        return jnp.concatenate([x[:, i : i + (X - 1) * m + 1 : m] for i in range(m + 2)], axis=2)

    queries = jnp.pad(q, [(0, 0), (0, pad), (0, 0), (0, 0)]).reshape(B, X, block, N, H)
    query_segments = jnp.pad(q_segments, [(0, 0), (0, pad)]).reshape(B, X, block)
    distance = jnp.arange(band) - C - jnp.arange(block)[:, None]  # of a key from a query, in a band
    same = query_segments[..., :, None] == bands(k_segments, -1)[..., None, :]  # outside the row (-1) is nobody's
    mask = (same & (jnp.abs(distance) <= window))[:, :, None]  # [B, X, 1, block, band]
    keys = bands(k)
    scores = jnp.einsum("BXTNH,BXSNH->BXNTS", queries, keys, preferred_element_type=jnp.float32)
    if relative is not None:
        # Distance 0 is row T - 1 + offset of the table, and row block - 1 + C of a block's part of it.
        scores += relative.rows(T + offset - block - C, block + band - 1).scores(queries, keys)
    if beside is not None:
        more = jnp.einsum("BXTNH,BGNH->BXNTG", queries, beside.k, preferred_element_type=jnp.float32)
        scores = jnp.concatenate([scores, more], axis=-1)
        theirs = query_segments[..., None] == beside.segments[:, None, None, :]  # [B, X, block, G]
        mask = jnp.concatenate([mask & ~bands(beside.there)[:, :, None, None, :], theirs[:, :, None]], axis=-1)
    weights = masked_softmax(scores, mask)
    if dropout:
        batch, head, query, _ = places(seed, (B, N, X * block, 0), 0)
        batch, query = batch[..., None], query.reshape(X, 1, block, 1)
        keys_at = query + distance.astype(jnp.uint32)  # [X, 1, block, band]
        if beside is not None:
            slots = jnp.broadcast_to(beside.slots[:, None, None, None], (B, X, 1, block, beside.slots.shape[1]))
            keys_at = jnp.broadcast_to(keys_at, (B, *keys_at.shape))
            keys_at = jnp.concatenate([keys_at, slots.astype(jnp.uint32)], axis=-1)
        weights = hashed_dropout(weights, dropout, seed, batch, head, query, keys_at)
    weights = weights.astype(v.dtype)
    out = jnp.einsum("BXNTS,BXSNH->BXTNH", weights[..., :band], bands(v), preferred_element_type=jnp.float32)
    if beside is not None:
        out += jnp.einsum("BXNTG,BGNH->BXTNH", weights[..., band:], beside.v, preferred_element_type=jnp.float32)
    return out.astype(v.dtype).reshape(B, X * block, N, H)[:, :T]


def band_size(window: int) -> int:
    """Keys that a block of queries is compared with."""
    C = _chunk(window)
    return (max(1, _BLOCK // C) + 2) * C


def _chunk(window: int) -> int:
    return max(window, 32)
