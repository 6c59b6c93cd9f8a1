"""Attention with scores of distances on TPUs: flash attention (Dao et al. 2022, arXiv:2205.14135) for DeBERTa.

A tile of b queries and b keys meets 2 b - 1 distances, which stand side by side in the table of distances. The products
of its queries with that part of the table hold every score of a content with a distance; `rotations` lines them up with
the keys, and gradients go back the other way. Nothing is gathered, and nothing grows as T x S.

Tiles lie with their keys along the rows, so that what belongs to a query, the maximum, sum and gradient of its softmax,
is a row vector: small to keep, and quick to reduce to and to spread.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from jaxencoder.kernels.dense import ATTENDED
from jaxencoder.kernels.dropout import hashed_keep
from jaxencoder.kernels.relative import RelativeTerms
from jaxencoder.kernels.rotations import LANES, band, reverse, skew, unskew
from jaxencoder.kernels.splash import tile_length

_LONGEST = 512  # queries and keys of a tile
_TILE_BYTES = 8 << 20  # for the values of one tile
_VMEM_BYTES = 56 << 20  # of fast memory: chips from v5e on have 64 MiB or more
_MASKED = -1e30
_FLOOR = -1e20  # of a maximum, so that the exponential of a masked score is 0 even where all are masked


def fits(T: int, S: int, H: int, dtype: jnp.dtype) -> bool:
    """Whether the backward pass of `tiled` finds room on a TPU (v5e or later) for T queries and S keys of size H."""
    return _vmem(T, S, H, dtype) <= _VMEM_BYTES


def tiled(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    q_segments: jax.Array,
    k_segments: jax.Array,
    relative: RelativeTerms | None = None,
    *,
    dropout: float = 0.0,
    seed: jax.Array | None = None,
    offset: jax.typing.ArrayLike = 0,
    interpret: bool = False,
) -> jax.Array:
    """Bidirectional attention within documents with scores of distances.

    Args:
        q: [B, T, N, H] bfloat16 or float32, scaled already.
        k, v: [B, S, N, H] in the dtype of q.
        q_segments: [B, T] int32, the document of each query; padding is a document of its own, 0.
        k_segments: [B, S] int32 likewise; tokens of segment -1, queries or keys, are seen by nobody.
        relative: tables of T + S - 1 rows, or None; its queries are scaled already.
        dropout: probability that an attention weight is dropped, by `hashed_keep`.
        seed: uint32 [4] for dropout: the seed; and the row of the batch, the head and the query that come first here.
        offset: the key that stands where the first query does, for dropout.
        interpret: run on any device, slowly.

    Returns:
        [B, T, N, H] in the dtype of q; 0 for a query that sees nothing. Gradients flow to q, k, v and `relative`.

    Raises:
        ValueError: dropout without a seed, or more tokens than fit (see `fits`).
    """
    (_, T, _, H), S = q.shape, k.shape[1]
    if dropout and seed is None:
        raise ValueError(f"Attention dropout {dropout} needs a seed.")
    if not fits(T, S, H, q.dtype):
        raise ValueError(
            f"{T} queries and {S} keys of size {H} are too many for tiled attention; use chunked attention."
        )
    block = tile_length(T, _LONGEST)
    T_pad, S_pad = -T % block, -S % block

    def heads(x, pad):
        """[B, T, N, H] -> [B, N, T', H]"""
        return jnp.swapaxes(jnp.pad(x, [(0, 0), (0, pad), (0, 0), (0, 0)]), 1, 2)

    def table(x, front, back):
        """[R, N, H] -> [N, H, T' + S'], whose column T' (S' of a reversed table) is distance 0"""
        return jnp.moveaxis(jnp.pad(x, [(front + 1, back), (0, 0), (0, 0)]), 0, -1)

    keys, queries, bias = relative or (None, None, None)
    if keys is not None:
        keys = table(keys.astype(q.dtype), T_pad, S_pad)
    if queries is not None:  # seen from the keys, distances run the other way
        queries = table(queries.astype(q.dtype)[::-1], S_pad, T_pad)
    if bias is not None:
        bias = table(bias.astype(jnp.float32)[::-1, :, None], S_pad, T_pad)
    # Two numbers for what is nobody's: not even the others of its kind see it.
    q_segments = jnp.pad(jnp.where(q_segments < 0, -2, q_segments), [(0, 0), (0, T_pad)], constant_values=-2)
    k_segments = jnp.pad(jnp.where(k_segments < 0, -1, k_segments), [(0, 0), (0, S_pad)], constant_values=-1)
    if seed is None:
        seed = jnp.zeros(5, jnp.int32)
    else:
        seed = jax.lax.bitcast_convert_type(seed, jnp.int32)
        seed = jnp.append(seed, seed[3] - offset)
    tables = _Tables(keys, queries, bias)
    out = _attend(
        heads(q, T_pad), heads(k, S_pad), heads(v, S_pad), tables, q_segments, k_segments, seed, dropout, interpret
    )
    return jnp.swapaxes(out, 1, 2)[:, :T]


class _Tables(NamedTuple):
    """[N, H, R] each, [N, 1, R] the bias, where R = T + S: of `keys` column T + j - i, of the others S + i - j."""

    keys: jax.Array | None
    queries: jax.Array | None
    bias: jax.Array | None


@partial(jax.custom_vjp, nondiff_argnums=(7, 8))
def _attend(q, k, v, tables, q_segments, k_segments, seed, dropout, interpret):
    return _forward(q, k, v, tables, q_segments, k_segments, seed, dropout, interpret)[0]


def _forward(q, k, v, tables, q_segments, k_segments, seed, dropout, interpret):
    B, N, T, H = q.shape
    grid = _Grid(q, k, dropout)
    out, lse = pl.pallas_call(
        partial(_forward_kernel, grid=grid),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=2,
            grid=(N, B, *grid.blocks),
            in_specs=grid.inputs(tables),
            out_specs=[grid.queries, grid.of_queries],
            scratch_shapes=[pltpu.VMEM((rows, grid.block), jnp.float32) for rows in (H, 1, 1)],
        ),
        out_shape=[jax.ShapeDtypeStruct(q.shape, q.dtype), jax.ShapeDtypeStruct((B, N, 1, T), jnp.float32)],
        compiler_params=pltpu.CompilerParams(vmem_limit_bytes=_vmem(T, k.shape[2], H, q.dtype)),
        name="tiled_forward",
        interpret=interpret,
    )(*grid.arguments(q, k, v, tables, q_segments, k_segments, seed))
    out, lse = checkpoint_name((out, lse), ATTENDED)
    return out, (q, k, v, tables, q_segments, k_segments, seed, out, lse)


def _backward(dropout, interpret, residuals, d_out):
    q, k, v, tables, q_segments, k_segments, seed, out, lse = residuals
    B, N, T, H = q.shape
    grid = _Grid(q, k, dropout, keys_first=True)
    means = jnp.einsum("BNTH,BNTH->BNT", out, d_out, preferred_element_type=jnp.float32)[:, :, None]
    dq, dk, dv, d_tables = pl.pallas_call(
        partial(_backward_kernel, grid=grid),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=2,
            grid=(N, B, *grid.blocks[::-1]),
            in_specs=[*grid.inputs(tables), grid.queries, grid.of_queries, grid.of_queries],
            out_specs=[grid.row, grid.keys, grid.keys, jax.tree.map(grid.table, tables)],
            scratch_shapes=[pltpu.VMEM((rows, H), jnp.float32) for rows in (T, grid.block, grid.block)],
        ),
        out_shape=[
            *(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (q, k, v)),
            jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.float32), tables),
        ],
        compiler_params=pltpu.CompilerParams(vmem_limit_bytes=_vmem(T, k.shape[2], H, q.dtype)),
        name="tiled_backward",
        interpret=interpret,
    )(*grid.arguments(q, k, v, tables, q_segments, k_segments, seed), d_out, lse, means)
    return dq, dk, dv, jax.tree.map(lambda x, dx: dx.astype(x.dtype), tables, d_tables), None, None, None


_attend.defvjp(_forward, _backward)


def _forward_kernel(seen, seed, q, k, v, tables, q_segments, k_segments, out, lse, acc, top, total, *, grid):
    h, b, i, j = (pl.program_id(axis) for axis in range(4))

    @pl.when(j == 0)
    def _():
        acc[...] = jnp.zeros_like(acc)
        top[...] = jnp.full_like(top, _FLOOR)
        total[...] = jnp.zeros_like(total)

    @pl.when(grid.seen(seen, b, i, j))
    def _():
        scores = _scores(q[...], k[...], _read(tables), q_segments[...], k_segments[...])
        highest = jnp.maximum(top[...], scores.max(0, keepdims=True))
        weights = jnp.exp(scores - highest)
        shrink = jnp.exp(top[...] - highest)
        top[...] = highest
        total[...] = total[...] * shrink + weights.sum(0, keepdims=True)
        if grid.dropout:
            weights = jnp.where(grid.keep(seed, h, b, i, j), weights, 0)
        acc[...] = acc[...] * shrink + _dot(v[...], weights.astype(v.dtype), 0, 0)

    @pl.when(j == grid.blocks[1] - 1)
    def _():
        any_seen = total[...] > 0
        sums = jnp.where(any_seen, total[...], 1)
        out[...] = (acc[...] / (sums * (1 - grid.dropout))).T.astype(out.dtype)
        lse[...] = jnp.where(any_seen, top[...] + jnp.log(sums), 0)


def _backward_kernel(
    seen, seed, q, k, v, tables, q_segments, k_segments, d_out, lse, means, dq, dk, dv, d_tables, *sums, grid
):
    dq_sum, dk_sum, dv_sum = sums
    h, b, j, i = (pl.program_id(axis) for axis in range(4))

    @pl.when((b == 0) & (j == 0) & (i == 0))
    def _():
        for total in jax.tree.leaves(d_tables):
            total[...] = jnp.zeros_like(total)

    @pl.when((j == 0) & (i == 0))
    def _():
        dq_sum[...] = jnp.zeros_like(dq_sum)

    @pl.when(i == 0)
    def _():
        dk_sum[...] = jnp.zeros_like(dk_sum)
        dv_sum[...] = jnp.zeros_like(dv_sum)

    @pl.when(grid.seen(seen, b, i, j))
    def _():
        parts = _read(tables)
        scores = _scores(q[...], k[...], parts, q_segments[...], k_segments[...])
        weights = jnp.exp(scores - lse[...])
        d_weights = _dot(v[...], d_out[...], 1, 1)
        used = weights
        if grid.dropout:
            factors = jnp.where(grid.keep(seed, h, b, i, j), 1 / (1 - grid.dropout), 0)
            used, d_weights = weights * factors, d_weights * factors
        dv_sum[...] += _dot(used.astype(v.dtype), d_out[...], 1, 0)
        d_scores = weights * (d_weights - means[...])
        rounded = d_scores.astype(q.dtype)
        dk_sum[...] += _dot(rounded, q[...], 1, 0)
        dq_sum[grid.rows(i), :] += _dot(rounded, k[...], 0, 0)
        for start in range(0, grid.block, LANES):
            rows, part = pl.ds(start, LANES), band(start, grid.block)
            if parts.queries is not None or parts.bias is not None:
                into = grid.columns(grid.blocks[1] - 1 + i - j, part)
                back = unskew(d_scores[start : start + LANES])
                if parts.bias is not None:
                    d_tables.bias[:, into] += back.sum(0, keepdims=True)
                if parts.queries is not None:
                    back = back.astype(q.dtype)
                    dk_sum[rows, :] += reverse(_dot(back, parts.queries[:, part], 1, 1))
                    d_tables.queries[:, into] += _dot(reverse(k[rows, :]), back, 0, 0)
            if parts.keys is not None:
                into = grid.columns(grid.blocks[0] - 1 + j - i, part)
                back = unskew(d_scores[:, start : start + LANES].T).astype(q.dtype)
                dq_sum[grid.rows(i, start, LANES), :] += reverse(_dot(back, parts.keys[:, part], 1, 1))
                d_tables.keys[:, into] += _dot(reverse(q[rows, :]), back, 0, 0)

    @pl.when(i == grid.blocks[0] - 1)
    def _():
        dk[...] = dk_sum[...].astype(dk.dtype)
        dv[...] = dv_sum[...].astype(dv.dtype)

    @pl.when((j == grid.blocks[1] - 1) & (i == grid.blocks[0] - 1))
    def _():
        dq[...] = dq_sum[...].astype(dq.dtype)


def _scores(q, k, tables, q_segments, k_segments):
    """[b, H] queries and keys, [H, 2 b] tables, [1, b] and [b, 1] segments -> [keys, queries] float32."""
    scores = _dot(k, q, 1, 1)
    by_key, by_query = [], []
    for start in range(0, len(q), LANES):
        part = band(start, len(q))
        if tables.queries is not None or tables.bias is not None:
            shares = jnp.zeros((LANES, part.stop - part.start), jnp.float32)
            if tables.queries is not None:
                shares += _dot(k[start : start + LANES], tables.queries[:, part], 1, 0)
            if tables.bias is not None:
                shares += tables.bias[:, part]
            by_key.append(skew(shares))
        if tables.keys is not None:
            by_query.append(skew(_dot(q[start : start + LANES], tables.keys[:, part], 1, 0)).T)
    if by_key:
        scores += jnp.concatenate(by_key, axis=0)
    if by_query:
        scores += jnp.concatenate(by_query, axis=1)
    return jnp.where(k_segments == q_segments, scores, _MASKED)


def _dot(x, y, i, j):
    return jax.lax.dot_general(x, y, (((i,), (j,)), ((), ())), preferred_element_type=jnp.float32)


def _read(tables):
    """The halves of a tile's part of each table, put together."""
    return _Tables(
        *(None if halves is None else jnp.concatenate([x[...] for x in halves], axis=1) for halves in tables)
    )


class _Grid:
    """The tiles, and which part of each array belongs to one; heads are outermost, for their tables' gradients."""

    def __init__(self, q, k, dropout, keys_first=False):
        T, S, H = q.shape[2], k.shape[2], q.shape[3]
        self.block = block = tile_length(T, _LONGEST)
        self.blocks = T // block, S // block
        self.dropout = dropout
        self.keys_first = keys_first
        self.queries = self._spec((None, None, block, H), lambda h, b, i, j: (b, h, i, 0))
        self.keys = self._spec((None, None, block, H), lambda h, b, i, j: (b, h, j, 0))
        self.row = self._spec((None, None, T, H), lambda h, b, i, j: (b, h, 0, 0))
        self.of_queries = self._spec((None, None, 1, block), lambda h, b, i, j: (b, h, 0, i))

    def _spec(self, shape, place):
        def index_map(h, b, x, y, *prefetched):
            return place(h, b, *((y, x) if self.keys_first else (x, y)))

        return pl.BlockSpec(shape, index_map)

    def table(self, x):
        """All of a head's table."""
        return self._spec((None, *x.shape[1:]), lambda h, b, i, j: (h, 0, 0))

    def inputs(self, tables):
        """The specs of `arguments`."""

        def halves(x, first):
            if x is None:
                return None
            shape = (None, x.shape[1], self.block)
            return tuple(self._spec(shape, lambda h, b, i, j, n=n: (h, 0, first(i, j) + n)) for n in (0, 1))

        X, Y = self.blocks
        return [
            self.queries,
            self.keys,
            self.keys,
            _Tables(
                halves(tables.keys, lambda i, j: X - 1 + j - i),
                halves(tables.queries, lambda i, j: Y - 1 + i - j),
                halves(tables.bias, lambda i, j: Y - 1 + i - j),
            ),
            self._spec((None, 1, self.block), lambda h, b, i, j: (b, 0, i)),
            self._spec((None, self.block, 1), lambda h, b, i, j: (b, j, 0)),
        ]

    def arguments(self, q, k, v, tables, q_segments, k_segments, seed):
        q_blocks, k_blocks = (x.reshape(len(x), -1, self.block) for x in (q_segments, k_segments))
        q_low, q_high = q_blocks.min(-1)[:, :, None], q_blocks.max(-1)[:, :, None]
        k_low, k_high = k_blocks.min(-1)[:, None, :], k_blocks.max(-1)[:, None, :]
        seen = (q_low <= k_high) & (k_low <= q_high)
        twice = _Tables(*(None if x is None else (x, x) for x in tables))
        return seen.astype(jnp.int32).ravel(), seed, q, k, v, twice, q_segments[:, None], k_segments[..., None]

    def seen(self, seen, b, i, j):
        """Whether a query and a key of the tile may be of one document."""
        X, Y = self.blocks
        return seen[(b * X + i) * Y + j] != 0

    def keep(self, seed, h, b, i, j):
        """Which weights of the tile dropout keeps, [keys, queries]."""
        query = seed[3] + i * self.block + jax.lax.broadcasted_iota(jnp.int32, (1, self.block), 1)
        key = seed[4] + j * self.block + jax.lax.broadcasted_iota(jnp.int32, (self.block, 1), 0)
        return hashed_keep(seed[0], seed[1] + b, seed[2] + h, query, key, self.dropout)

    def rows(self, i, start=0, size=None):
        """Of all queries, those of a block."""
        return pl.ds(pl.multiple_of(i * self.block + start, LANES), size or self.block)

    def columns(self, n, band):
        """Of a whole table, the band of a tile whose part begins with block n."""
        return pl.ds(pl.multiple_of(n * self.block + band.start, LANES), band.stop - band.start)


def _vmem(T, S, H, dtype):
    """Bytes of fast memory that the backward pass takes, results twice: one is written while the next is computed."""
    block = tile_length(T, _LONGEST)
    T, S = (-(-length // block) * block for length in (T, S))
    queries = T * -(-H // LANES) * LANES * (4 + 2 * jnp.dtype(dtype).itemsize)
    tables = 2 * (T + S) * (2 * -(-H // 8) * 8 + 8) * 4
    return _TILE_BYTES + queries + tables
