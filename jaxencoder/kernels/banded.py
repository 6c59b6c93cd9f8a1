"""Attention within a window, linear in T: each block of queries against the band of keys around it.

Beltagy et al. 2020 (Longformer, arXiv:2004.05150) use overlapping chunks; here each block takes one more chunk of keys
on either side.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxencoder.kernels.dense import masked_softmax
from jaxencoder.kernels.dropout import hashed_dropout, weight_indices
from jaxencoder.kernels.inputs import AttentionInputs, AttentionOptions

_BLOCK = 128  # queries that share one band of keys


class GlobalKeys(NamedTuple):
    """Keys that every block sees in addition to its band (Longformer's global tokens)."""

    k: jax.Array  # [B, G, N, H], as v
    v: jax.Array
    segments: jax.Array  # [B, G], -1 for unused slots
    indices: jax.Array  # [B, G], positions in the row
    is_global: jax.Array  # [B, S] bool, the keys of the row that are among them


class _Layout(NamedTuple):
    """Rows of T queries split into X blocks of m chunks of C tokens, the last block padded.

    C is no shorter than the window, so that a block needs exactly m + 2 chunks of keys: its own and one to either side.
    """

    C: int
    m: int
    X: int
    padding: int
    T: int
    offset: int

    @property
    def block(self) -> int:
        return self.m * self.C

    @property
    def band(self) -> int:
        return (self.m + 2) * self.C

    def query_blocks(self, x: jax.Array) -> jax.Array:
        """[B, T, ...] -> [B, X, block, ...]"""
        x = jnp.pad(x, [(0, 0), (0, self.padding)] + [(0, 0)] * (x.ndim - 2))
        return x.reshape(len(x), self.X, self.block, *x.shape[2:])

    def key_bands(self, x: jax.Array, fill: int = 0) -> jax.Array:
        """[B, S, ...] -> [B, X, band, ...], with `fill` outside the row."""
        C, m, X = self.C, self.m, self.X
        # C keys on either side of the queries: those of the neighbors on a split row, else padding.
        start, present = max(self.offset - C, 0), min(self.offset, C)
        x = x[:, start : start + self.T + 2 * present]
        edges = (C - present, C - present + self.padding)
        x = jnp.pad(x, [(0, 0), edges] + [(0, 0)] * (x.ndim - 2), constant_values=fill)
        x = x.reshape(len(x), X * m + 2, C, *x.shape[2:])  # chunks; band b is chunks b m to b m + m + 1
        # Slice i is chunk i of every band, [B, X, C, ...].
        return jnp.concatenate([x[:, i : i + (X - 1) * m + 1 : m] for i in range(m + 2)], axis=2)


def banded(inputs: AttentionInputs, options: AttentionOptions, global_keys: GlobalKeys | None = None) -> jax.Array:
    """Attention within a window, through scores [B, X, N, block, band (+ G)] float32.

    Each of X blocks of queries is compared with one band of keys. There are S = T + 2 offset keys, where offset is 0 or
    at least the window; `global_keys` come in addition.
    """
    q, k, v, relative, q_segments, k_segments, _, seed, _ = inputs
    B, T, N, H = q.shape
    layout = _layout(T, options.window, int(inputs.offset))
    block, band, C = layout.block, layout.band, layout.C
    queries, query_segments = layout.query_blocks(q), layout.query_blocks(q_segments)  # [B, X, block, ...]
    distance = jnp.arange(band) - C - jnp.arange(block)[:, None]  # of a key from a query, [block, band]
    # Keys outside the row get segment -1, which no query has.
    same = query_segments[..., :, None] == layout.key_bands(k_segments, -1)[..., None, :]
    near = jnp.abs(distance) <= options.window
    near = near & (distance <= 0) if options.causal else near
    mask = (same & near)[:, :, None]  # [B, X, 1, block, band]
    keys = layout.key_bands(k)  # [B, X, band, N, H]
    scores = jnp.einsum("BXTNH,BXSNH->BXNTS", queries, keys, preferred_element_type=jnp.float32)
    if relative is not None:
        # Distance 0 is row T - 1 + offset of the table, and row block - 1 + C of a block's part of it.
        scores += relative.rows(T + layout.offset - block - C, block + band - 1).scores(queries, keys)
    if global_keys is not None:
        to_global = jnp.einsum("BXTNH,BGNH->BXNTG", queries, global_keys.k, preferred_element_type=jnp.float32)
        scores = jnp.concatenate([scores, to_global], axis=-1)
        same_global = query_segments[..., None] == global_keys.segments[:, None, None, :]  # [B, X, block, G]
        # A global key inside the band counts once, in its own column.
        in_band = mask & ~layout.key_bands(global_keys.is_global)[:, :, None, None, :]
        mask = jnp.concatenate([in_band, same_global[:, :, None]], axis=-1)
    weights = masked_softmax(scores, mask)  # [B, X, N, block, band + G]
    if options.dropout:
        indices = _indices(layout, seed, (B, N), distance, global_keys)
        weights = hashed_dropout(weights, options.dropout, *indices)
    weights = weights.astype(v.dtype)  # products in the compute dtype
    out = jnp.einsum("BXNTS,BXSNH->BXTNH", weights[..., :band], layout.key_bands(v), preferred_element_type=jnp.float32)
    if global_keys is not None:
        out += jnp.einsum("BXNTG,BGNH->BXTNH", weights[..., band:], global_keys.v, preferred_element_type=jnp.float32)
    return out.astype(v.dtype).reshape(B, layout.X * block, N, H)[:, :T]


def band_size(window: int) -> int:
    """Keys that each block of queries is compared with."""
    return _layout(0, window, 0).band


def _layout(T: int, window: int, offset: int) -> _Layout:
    C = max(window, 32)
    m = max(1, _BLOCK // C)
    X = -(-T // (m * C))
    return _Layout(C, m, X, X * m * C - T, T, offset)


def _indices(
    layout: _Layout, seed: jax.Array | None, sizes: tuple[int, int], distance: jax.Array, global_keys: GlobalKeys | None
) -> tuple[jax.Array, ...]:
    """`weight_indices` that broadcast to the weights [B, X, N, block, band + G]."""
    X, block = layout.X, layout.block
    word, batch, head, query, _ = weight_indices(seed, (*sizes, X * block, 0))  # [B, 1, 1, 1], [N, 1, 1], [T, 1]
    query = query.reshape(X, 1, block, 1)
    keys = query + distance.astype(jnp.uint32)  # [X, 1, block, band]; a negative distance wraps around, so does the sum
    if global_keys is not None:
        B, G = global_keys.indices.shape
        indices = jnp.broadcast_to(global_keys.indices[:, None, None, None], (B, X, 1, block, G))
        keys = jnp.broadcast_to(keys, (B, *keys.shape))
        keys = jnp.concatenate([keys, indices.astype(jnp.uint32)], axis=-1)
    return word, batch[:, None], head, query, keys
