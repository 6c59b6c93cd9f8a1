"""Attention with scores of distances in tiles on TPUs: flash attention (Dao et al. 2022, arXiv:2205.14135) for DeBERTa.

A tile of b queries and b keys meets 2 b - 1 distances, which stand side by side in the table of distances: the products
of its queries with that part of the table hold every score of a content with a distance, each row of them one place
further to the right. A rotation of row a by a places lines them up, and the gradients go back the other way: nothing is
gathered, and nothing grows as T x S.

Tiles lie with their keys along the rows, so that what belongs to a query, its maximum, sum and gradient of the softmax,
is a row vector: cheap to keep, to reduce to and to spread.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from jaxencoder.kernels.dropout import hashed_keep

_LANES = 128
_BLOCK = 512  # queries and keys of the largest tile
_MASKED = -1e30
_VMEM = 100 << 20
_FLOOR = -1e20  # of a maximum: a masked score is so far below that its exponential is 0, even where all are masked


def tiled(q, k, v, q_segments, k_segments, relative=None, *, dropout=0.0, seed=None, interpret=False):
    T, S = q.shape[1], k.shape[1]
    block = _block(T)
    keys, queries, bias = (None, None, None) if relative is None else relative

    def rows(x):
        """[B, T, N, H] -> [B, N, T', H]"""
        return jnp.swapaxes(jnp.pad(x, [(0, 0), (0, -x.shape[1] % block), (0, 0), (0, 0)]), 1, 2)

    def table(x, longer):
        """[R, N, ...] -> [N, ..., R']"""
        front = -longer % block + 1
        x = jnp.pad(x, [(front, T + -T % block + S + -S % block - front - x.shape[0])] + [(0, 0)] * (x.ndim - 1))
        return jnp.moveaxis(x, 0, -1)

    if keys is not None:
        keys = table(keys.astype(q.dtype), T)
    if queries is not None:
        queries = table(queries.astype(k.dtype)[::-1], S)
    if bias is not None:
        bias = table(bias.astype(jnp.float32)[::-1], S)[:, None]
    q_segments = jnp.pad(jnp.where(q_segments < 0, -2, q_segments), [(0, 0), (0, -T % block)], constant_values=-2)
    k_segments = jnp.pad(jnp.where(k_segments < 0, -1, k_segments), [(0, 0), (0, -S % block)], constant_values=-1)
    seed = jnp.zeros(3, jnp.int32) if seed is None else jax.lax.bitcast_convert_type(seed.astype(jnp.uint32), jnp.int32)
    out = _attend(rows(q), rows(k), rows(v), keys, queries, bias, q_segments, k_segments, seed, dropout, interpret)
    return jnp.swapaxes(out, 1, 2)[:, :T]


def _block(T):
    blocks = -(-T // _BLOCK)
    return -(-T // (blocks * _LANES)) * _LANES


class _Tile(NamedTuple):
    """What a kernel knows when it is built."""

    block: int
    dropout: float

    def scores(self, q, k, keys, queries, bias, q_segments, k_segments):
        """[keys, queries] float32"""
        scores = _dot(k, q, 1, 1)
        if queries is not None or bias is not None:
            parts = []
            for start in range(0, self.block, _LANES):
                there = self.distances(start)
                y = jnp.zeros((_LANES, self.block + _LANES), jnp.float32)
                if queries is not None:
                    y += _dot(k[start : start + _LANES], queries[:, there], 1, 0)
                if bias is not None:
                    y += bias[:, there]
                parts.append(_skew(y))
            scores += jnp.concatenate(parts)
        if keys is not None:
            parts = []
            for start in range(0, self.block, _LANES):
                parts.append(_skew(_dot(q[start : start + _LANES], keys[:, self.distances(start)], 1, 0)))
            scores += jnp.concatenate(parts).T
        return jnp.where(k_segments == q_segments, scores, _MASKED)

    def distances(self, start):
        """Where the tile's part of a table has the distances of the rows from `start`."""
        first = self.block - start - _LANES
        return slice(first, first + self.block + _LANES)

    def keep(self, seed, b, h, i, j):
        shape = (self.block, self.block)
        query = i * self.block + jax.lax.broadcasted_iota(jnp.int32, (1, self.block), 1)
        key = j * self.block + jax.lax.broadcasted_iota(jnp.int32, (self.block, 1), 0)
        return hashed_keep(seed[0], seed[1] + b, seed[2] + h, query, key, self.dropout)


def _skew(x):
    """[C, C + b] -> [C, b] where item (i, j) is x[i, C + j - i]."""
    C, W = x.shape
    return pltpu.roll(x, W - C, 1, stride=1, stride_axis=0)[:, : W - C]


def _unskew(x):
    """The transpose of `_skew`, its rows reversed: [C, b] -> [C, C + b], item (i, j) to (C - 1 - i, C + j - i).

    The rotation turns to the right only, and what `_skew` has moved to the right must go to the left.
    """
    C, b = x.shape
    return pltpu.roll(jnp.concatenate([_reverse(x), jnp.zeros((C, C), x.dtype)], axis=1), 1, 1, stride=1, stride_axis=0)


def _reverse(x):
    """Rows in reverse order, by registers of 8 rows: float32."""
    order = 7 - jax.lax.broadcasted_iota(jnp.int32, (8, x.shape[1]), 0)
    parts = [x[first : first + 8] for first in range(x.shape[0] - 8, -1, -8)]
    return jnp.concatenate([jnp.take_along_axis(part, order, axis=0) for part in parts])


def _dot(x, y, i, j):
    return jax.lax.dot_general(x, y, (((i,), (j,)), ((), ())), preferred_element_type=jnp.float32)


def _read(part):
    return None if part is None else jnp.concatenate([half[...] for half in part], axis=1)


def _forward_kernel(
    seen, seed, q, k, v, keys, queries, bias, q_segments, k_segments, out, lse, acc, top, total, *, tile, blocks
):
    h, b, i, j = (pl.program_id(axis) for axis in range(4))

    @pl.when(j == 0)
    def _():
        acc[...] = jnp.zeros_like(acc)
        top[...] = jnp.full_like(top, _FLOOR)
        total[...] = jnp.zeros_like(total)

    @pl.when(seen[(b * blocks[0] + i) * blocks[1] + j] != 0)
    def _():
        scores = tile.scores(
            q[...], k[...], _read(keys), _read(queries), _read(bias), q_segments[...], k_segments[...]
        )
        before = top[...]
        now = jnp.maximum(before, scores.max(0, keepdims=True))
        weights = jnp.exp(scores - now)
        old = jnp.exp(before - now)
        top[...] = now
        total[...] = total[...] * old + weights.sum(0, keepdims=True)
        if tile.dropout:
            weights = jnp.where(tile.keep(seed, b, h, i, j), weights, 0)
        acc[...] = acc[...] * old + _dot(v[...], weights.astype(v.dtype), 0, 0)

    @pl.when(j == blocks[1] - 1)
    def _():
        some = total[...] > 0
        sums = jnp.where(some, total[...], 1)
        out[...] = (acc[...] / (sums * (1 - tile.dropout))).T.astype(out.dtype)
        lse[...] = jnp.where(some, top[...] + jnp.log(sums), 0)


def _backward_kernel(
    seen,
    seed,
    q,
    k,
    v,
    keys,
    queries,
    bias,
    q_segments,
    k_segments,
    d_out,
    lse,
    delta,
    dq,
    dk,
    dv,
    d_keys,
    d_queries,
    d_bias,
    dq_acc,
    dk_acc,
    dv_acc,
    *,
    tile,
    blocks,
):
    h, b, j, i = (pl.program_id(axis) for axis in range(4))
    size = tile.block

    @pl.when((b == 0) & (j == 0) & (i == 0))
    def _():
        for part in (d_keys, d_queries, d_bias):
            if part is not None:
                part[...] = jnp.zeros_like(part)

    @pl.when((j == 0) & (i == 0))
    def _():
        dq_acc[...] = jnp.zeros_like(dq_acc)

    @pl.when(i == 0)
    def _():
        dk_acc[...] = jnp.zeros_like(dk_acc)
        dv_acc[...] = jnp.zeros_like(dv_acc)

    @pl.when(seen[(b * blocks[0] + i) * blocks[1] + j] != 0)
    def _():
        tables = _read(keys), _read(queries), _read(bias)
        scores = tile.scores(q[...], k[...], *tables, q_segments[...], k_segments[...])
        weights = jnp.exp(scores - lse[...])
        d_weights = _dot(v[...], d_out[...], 1, 1)
        used = weights
        if tile.dropout:
            keep = tile.keep(seed, b, h, i, j)
            used = jnp.where(keep, weights / (1 - tile.dropout), 0)
            d_weights = jnp.where(keep, d_weights / (1 - tile.dropout), 0)
        dv_acc[...] += _dot(used.astype(v.dtype), d_out[...], 1, 0)
        exact = weights * (d_weights - delta[...])
        d_scores = exact.astype(q.dtype)
        dk_acc[...] += _dot(d_scores, q[...], 1, 0)
        here = pl.ds(pl.multiple_of(i * size, size), size)
        dq_acc[here, :] += _dot(d_scores, k[...], 0, 0)
        if queries is not None or bias is not None:
            first = (blocks[1] + i - j - 1) * size
            for start in range(0, size, _LANES):
                there = tile.distances(start)
                into = pl.ds(pl.multiple_of(first + there.start, _LANES), size + _LANES)
                dy = _unskew(exact[start : start + _LANES])
                if bias is not None:
                    d_bias[:, into] += dy.sum(0, keepdims=True)
                if queries is not None:
                    dy = dy.astype(q.dtype)
                    dk_acc[start : start + _LANES, :] += _reverse(_dot(dy, tables[1][:, there], 1, 1))
                    rows = _reverse(k[start : start + _LANES, :].astype(jnp.float32)).astype(q.dtype)
                    d_queries[:, into] += _dot(rows, dy, 0, 0)
        if keys is not None:
            first = (blocks[0] + j - i - 1) * size
            turned = exact.T
            for start in range(0, size, _LANES):
                there = tile.distances(start)
                into = pl.ds(pl.multiple_of(first + there.start, _LANES), size + _LANES)
                dx = _unskew(turned[start : start + _LANES]).astype(q.dtype)
                here = pl.ds(pl.multiple_of(i * size + start, _LANES), _LANES)
                dq_acc[here, :] += _reverse(_dot(dx, tables[0][:, there], 1, 1))
                rows = _reverse(q[start : start + _LANES, :].astype(jnp.float32)).astype(q.dtype)
                d_keys[:, into] += _dot(rows, dx, 0, 0)

    @pl.when(i == blocks[0] - 1)
    def _():
        dk[...] = dk_acc[...].astype(dk.dtype)
        dv[...] = dv_acc[...].astype(dv.dtype)

    @pl.when((j == blocks[1] - 1) & (i == blocks[0] - 1))
    def _():
        dq[...] = dq_acc[...].astype(dq.dtype)


@partial(jax.custom_vjp, nondiff_argnums=(9, 10))
def _attend(q, k, v, keys, queries, bias, q_segments, k_segments, seed, dropout, interpret):
    return _forward(q, k, v, keys, queries, bias, q_segments, k_segments, seed, dropout, interpret)[0]


def _forward(q, k, v, keys, queries, bias, q_segments, k_segments, seed, dropout, interpret):
    B, N, T, H = q.shape
    S = k.shape[2]
    spec = _Specs(T, S, H, backward=False)
    out, lse = pl.pallas_call(
        partial(_forward_kernel, tile=_Tile(spec.block, dropout), blocks=spec.blocks),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=2,
            grid=(N, B, *spec.blocks),
            in_specs=spec.inputs(keys, queries, bias),
            out_specs=[spec.queries, spec.query_row],
            scratch_shapes=[
                pltpu.VMEM((H, spec.block), jnp.float32),
                pltpu.VMEM((1, spec.block), jnp.float32),
                pltpu.VMEM((1, spec.block), jnp.float32),
            ],
        ),
        out_shape=[jax.ShapeDtypeStruct(q.shape, v.dtype), jax.ShapeDtypeStruct((B, N, 1, T), jnp.float32)],
        compiler_params=pltpu.CompilerParams(vmem_limit_bytes=_VMEM),
        name="tiled_forward",
        interpret=interpret,
    )(*spec.arguments(q, k, v, keys, queries, bias, q_segments, k_segments, seed))
    return out, (q, k, v, keys, queries, bias, q_segments, k_segments, seed, out, lse)


def _backward(dropout, interpret, residuals, d_out):
    q, k, v, keys, queries, bias, q_segments, k_segments, seed, out, lse = residuals
    B, N, T, H = q.shape
    S = k.shape[2]
    spec = _Specs(T, S, H, backward=True)
    delta = jnp.einsum("BNTH,BNTH->BNT", out, d_out, preferred_element_type=jnp.float32)[:, :, None]
    tables = keys, queries, bias
    dq, dk, dv, *d_tables = pl.pallas_call(
        partial(_backward_kernel, tile=_Tile(spec.block, dropout), blocks=spec.blocks),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=2,
            grid=(N, B, *spec.blocks[::-1]),
            in_specs=[*spec.inputs(*tables), spec.queries, spec.query_row, spec.query_row],
            out_specs=[spec.row, spec.keys, spec.keys, *(None if x is None else spec.whole(x) for x in tables)],
            scratch_shapes=[
                pltpu.VMEM((T, H), jnp.float32),
                pltpu.VMEM((spec.block, H), jnp.float32),
                pltpu.VMEM((spec.block, H), jnp.float32),
            ],
        ),
        out_shape=[
            *(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (q, k, v)),
            *(None if x is None else jax.ShapeDtypeStruct(x.shape, jnp.float32) for x in tables),
        ],
        compiler_params=pltpu.CompilerParams(vmem_limit_bytes=_VMEM),
        name="tiled_backward",
        interpret=interpret,
    )(*spec.arguments(q, k, v, *tables, q_segments, k_segments, seed), d_out, lse, delta)
    d_tables = (None if x is None else dx.astype(x.dtype) for x, dx in zip(tables, d_tables))
    return dq, dk, dv, *d_tables, None, None, None


_attend.defvjp(_forward, _backward)


class _Specs:
    """Which part of each array a tile sees."""

    def __init__(self, T, S, H, backward):
        self.block = block = next(size for size in range(_BLOCK, 0, -_LANES) if T % size == 0 and S % size == 0)
        self.blocks = T // block, S // block
        self.backward = backward
        self.queries = self.spec((None, None, block, H), lambda h, b, i, j: (b, h, i, 0))
        self.keys = self.spec((None, None, block, H), lambda h, b, i, j: (b, h, j, 0))
        self.query_row = self.spec((None, None, 1, block), lambda h, b, i, j: (b, h, 0, i))
        self.row = self.spec((None, None, T, H), lambda h, b, i, j: (b, h, 0, 0))

    def spec(self, shape, place):
        def index_map(h, b, x, y, *prefetched):
            i, j = (y, x) if self.backward else (x, y)
            return place(h, b, i, j)

        return pl.BlockSpec(shape, index_map)

    def whole(self, x):
        return self.spec((None, *x.shape[1:]), lambda h, b, i, j: (h, 0, 0))

    def halves(self, x, first):
        if x is None:
            return None
        shape = (None, x.shape[1], self.block)
        return tuple(
            self.spec(shape, lambda h, b, i, j, half=half: (h, 0, first(i, j) + half)) for half in (0, 1)
        )

    def inputs(self, keys, queries, bias):
        X, Y = self.blocks
        return [
            self.queries,
            self.keys,
            self.keys,
            self.halves(keys, lambda i, j: X - 1 + j - i),
            self.halves(queries, lambda i, j: Y - 1 + i - j),
            self.halves(bias, lambda i, j: Y - 1 + i - j),
            self.spec((None, 1, self.block), lambda h, b, i, j: (b, 0, i)),
            self.spec((None, self.block, 1), lambda h, b, i, j: (b, j, 0)),
        ]

    def arguments(self, q, k, v, keys, queries, bias, q_segments, k_segments, seed):
        twice = (None if x is None else (x, x) for x in (keys, queries, bias))
        seen = self.seen(q_segments, k_segments)
        return seen, seed, q, k, v, *twice, q_segments[:, None, :], k_segments[:, :, None]

    def seen(self, q_segments, k_segments):
        """Whether a tile may have a query and a key of one document: int32 [B * X * Y]"""

        def ranges(x, blocks):
            x = x.reshape(x.shape[0], blocks, -1)
            return x.min(-1), x.max(-1)

        q_low, q_high = ranges(q_segments, self.blocks[0])
        k_low, k_high = ranges(k_segments, self.blocks[1])
        seen = (q_low[:, :, None] <= k_high[:, None]) & (k_low[:, None] <= q_high[:, :, None])
        return seen.astype(jnp.int32).reshape(-1)
