"""Attention with terms by distance on TPUs: flash attention (Dao et al. 2022, arXiv:2205.14135) for DeBERTa.

A tile of b queries and b keys meets 2 b - 1 distances, which are adjacent in the table of distances. The products of
its queries with that part of the table contain every score of a content with a distance; `tiles.skew` aligns them
with the keys, and gradients go the inverse way. There is no gather, and nothing grows as T x S.

Tiles have their keys along the rows. Values per query (maximum, sum and gradient of its softmax) are then row vectors:
small to store, fast to reduce and to broadcast.

Inside this file arrays are heads first: q, k and v [B, N, T, H], the tables of `relative` [N, H, T + S], [N, 1, T + S]
for the bias. The distance of query i and key j is their column T + j - i for `keys`, S + i - j for the other two.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from jaxencoder.kernels.dropout import hashed_keep
from jaxencoder.kernels.inputs import ATTENDED, PLAIN, AttentionInputs, AttentionOptions
from jaxencoder.kernels.relative import RelativeTerms
from jaxencoder.kernels.tiles import LANES, band, heads_first, pad_segments, reverse, skew, tile_length, unskew

_LONGEST = 512  # queries and keys of a tile
_TILE_BYTES = 8 << 20  # for the values of one tile
_VMEM_BYTES = 56 << 20  # of fast memory; chips have 64 MiB or more since v5e
# Scores of masked keys, and the lowest maximum, above them: their exponentials are 0 even if all keys are masked.
_MASKED, _FLOOR = -1e30, -1e20


def fits(T: int, S: int, H: int, dtype: jnp.dtype) -> bool:
    """Whether `tiled` fits the memory of a TPU (v5e or later), for T queries and S keys of size H."""
    return _vmem(T, S, H, dtype) <= _VMEM_BYTES


def tiled(inputs: AttentionInputs, options: AttentionOptions = PLAIN, *, interpret: bool = False) -> jax.Array:
    """Attention with terms by distance, of rows that fit (see `fits`); 0 for a query that sees nothing."""
    q, k, v, relative, q_segments, k_segments, offset, seed, _ = inputs
    if options.dropout and seed is None:
        raise ValueError(f"Attention dropout {options.dropout} needs a seed.")
    T, S = q.shape[1], k.shape[1]
    block = tile_length(T, _LONGEST)
    T_pad, S_pad = -T % block, -S % block
    tables = _tables(relative or RelativeTerms(), q.dtype, T_pad, S_pad)
    q_segments, k_segments = pad_segments(q_segments, k_segments, T_pad, S_pad)
    seed = jax.lax.bitcast_convert_type(jnp.zeros(4, jnp.uint32) if seed is None else seed, jnp.int32)
    seed = jnp.append(seed, seed[3] - offset)  # the fifth number is the global index of key 0
    q, k, v = heads_first(q, T_pad), heads_first(k, S_pad), heads_first(v, S_pad)
    padded = AttentionInputs._make((q, k, v, tables, q_segments, k_segments, None, seed, None))
    out: jax.Array = _attend(padded, options.dropout, interpret)
    return jnp.swapaxes(out, 1, 2)[:, :T]  # [B, N, T', H] -> [B, T, N, H]


def _tables(relative, dtype, T_pad, S_pad):
    def table(x, dtype, step):
        """[R, N, H] or [R, N] -> [N, H or 1, T' + S'], whose column T' (S' if the step is -1) is distance 0."""
        if x is None:
            return None
        x = x[::step].astype(dtype).reshape(*x.shape[:2], -1)
        front, back = (T_pad, S_pad)[::step]
        return jnp.moveaxis(jnp.pad(x, [(front + 1, back), (0, 0), (0, 0)]), 0, -1)

    # Tiles have their keys along the rows. Seen from the keys, distances run in the other direction.
    keys, queries, bias = relative
    return RelativeTerms(table(keys, dtype, 1), table(queries, dtype, -1), table(bias, jnp.float32, -1))


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _attend(inputs, dropout, interpret):
    return _forward(inputs, dropout, interpret)[0]


def _forward(inputs, dropout, interpret):
    B, N, T, H = inputs.q.shape
    grid = _Grid(inputs, dropout)
    out, lse = pl.pallas_call(
        partial(_forward_kernel, grid=grid),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=2,
            grid=(N, B, *grid.blocks),
            in_specs=[grid.inputs(inputs.relative)],
            out_specs=[grid.queries, grid.query_rows],
            scratch_shapes=[pltpu.VMEM((rows, grid.block), jnp.float32) for rows in (H, 1, 1)],
        ),
        out_shape=[jax.ShapeDtypeStruct((B, N, T, H), inputs.q.dtype), jax.ShapeDtypeStruct((B, N, 1, T), jnp.float32)],
        compiler_params=pltpu.CompilerParams(vmem_limit_bytes=grid.vmem),
        name="tiled_forward",
        interpret=interpret,
    )(*grid.arguments(inputs))
    out, lse = checkpoint_name((out, lse), ATTENDED)
    return out, (inputs, out, lse)


def _backward(dropout, interpret, residuals, d_out):
    inputs, out, lse = residuals
    q, k, v, tables, *_ = inputs
    B, N, T, H = q.shape
    grid = _Grid(inputs, dropout, keys_first=True)
    # Sums over the keys of weight times its gradient (Dao et al. 2022, appendix B.2), [B, N, 1, T].
    means = jnp.einsum("BNTH,BNTH->BNT", out, d_out, preferred_element_type=jnp.float32)[:, :, None]
    dq, dk, dv, d_tables = pl.pallas_call(
        partial(_backward_kernel, grid=grid),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=2,
            grid=(N, B, *grid.blocks[::-1]),
            in_specs=[grid.inputs(tables), (grid.queries, grid.query_rows, grid.query_rows)],
            out_specs=[grid.row, grid.keys, grid.keys, jax.tree.map(grid.table, tables)],
            scratch_shapes=[pltpu.VMEM((rows, H), jnp.float32) for rows in (T, grid.block, grid.block)],
        ),
        out_shape=[
            *(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (q, k, v)),
            jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.float32), tables),
        ],
        compiler_params=pltpu.CompilerParams(vmem_limit_bytes=grid.vmem),
        name="tiled_backward",
        interpret=interpret,
    )(*grid.arguments(inputs), (d_out, lse, means))
    d_tables = jax.tree.map(lambda x, dx: dx.astype(x.dtype), tables, d_tables)
    return (AttentionInputs._make((dq, dk, dv, d_tables, None, None, None, None, None)),)


_attend.defvjp(_forward, _backward)


def _forward_kernel(visible, seed, inputs, out, lse, *sums, grid):
    acc, top, total = sums
    h, b, i, j = (pl.program_id(axis) for axis in range(4))

    @pl.when(j == 0)
    def _():
        acc[...] = jnp.zeros_like(acc)
        top[...] = jnp.full_like(top, _FLOOR)
        total[...] = jnp.zeros_like(total)

    @pl.when(grid.is_visible(visible, b, i, j))
    def _():
        scores = _scores(inputs, _read(inputs.relative))
        # Online softmax: the maximum so far rescales the sums of earlier tiles.
        highest = jnp.maximum(top[...], scores.max(0, keepdims=True))  # [1, queries]
        weights = jnp.exp(scores - highest)  # [keys, queries]
        shrink = jnp.exp(top[...] - highest)
        top[...] = highest
        total[...] = total[...] * shrink + weights.sum(0, keepdims=True)
        if grid.dropout:  # after the sum: dropout leaves the softmax's normalization as it is
            weights = jnp.where(grid.keep(seed, h, b, i, j), weights, 0)
        acc[...] = acc[...] * shrink + _dot(inputs.v[...], weights.astype(inputs.v.dtype), 0, 0)  # [H, queries]

    @pl.when(j == grid.blocks[1] - 1)
    def _():
        any_visible = total[...] > 0
        sums = jnp.where(any_visible, total[...], 1)
        out[...] = (acc[...] / (sums * (1 - grid.dropout))).T.astype(out.dtype)
        lse[...] = jnp.where(any_visible, top[...] + jnp.log(sums), 0)  # log of the softmax's sum


def _backward_kernel(visible, seed, inputs, residuals, *outputs, grid):
    q, k, v, tables = inputs[:4]
    d_out, lse, means = residuals
    dq, dk, dv, d_tables, dq_sum, dk_sum, dv_sum = outputs
    h, b, j, i = (pl.program_id(axis) for axis in range(4))

    @pl.when((b == 0) & (j == 0) & (i == 0))  # rows of the batch add to the same head's tables
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

    @pl.when(grid.is_visible(visible, b, i, j))
    def _():
        parts = _read(tables)
        weights = jnp.exp(_scores(inputs, parts) - lse[...])  # [keys, queries]
        d_weights = _dot(v[...], d_out[...], 1, 1)
        dropped = weights
        if grid.dropout:
            factors = jnp.where(grid.keep(seed, h, b, i, j), 1 / (1 - grid.dropout), 0)
            dropped, d_weights = weights * factors, d_weights * factors
        dv_sum[...] += _dot(dropped.astype(v.dtype), d_out[...], 1, 0)
        d_scores = weights * (d_weights - means[...])  # derivative of the softmax
        rounded = d_scores.astype(q.dtype)
        dk_sum[...] += _dot(rounded, q[...], 1, 0)
        dq_sum[grid.rows(i), :] += _dot(rounded, k[...], 0, 0)
        for start in range(0, grid.block, LANES):
            rows, part = pl.ds(start, LANES), band(start, grid.block)
            if parts.queries is not None or parts.bias is not None:
                columns = grid.columns(grid.blocks[1] - 1 + i - j, part)
                back = unskew(d_scores[start : start + LANES])  # by distance, rows reversed
                if parts.bias is not None:
                    d_tables.bias[:, columns] += back.sum(0, keepdims=True)
                if parts.queries is not None:
                    back = back.astype(q.dtype)
                    dk_sum[rows, :] += reverse(_dot(back, parts.queries[:, part], 1, 1))
                    d_tables.queries[:, columns] += _dot(reverse(k[rows, :]), back, 0, 0)
            if parts.keys is not None:
                columns = grid.columns(grid.blocks[0] - 1 + j - i, part)
                back = unskew(d_scores[:, start : start + LANES].T).astype(q.dtype)
                dq_sum[grid.rows(i, start, LANES), :] += reverse(_dot(back, parts.keys[:, part], 1, 1))
                d_tables.keys[:, columns] += _dot(reverse(q[rows, :]), back, 0, 0)

    @pl.when(i == grid.blocks[0] - 1)
    def _():
        dk[...] = dk_sum[...].astype(dk.dtype)
        dv[...] = dv_sum[...].astype(dv.dtype)

    @pl.when((j == grid.blocks[1] - 1) & (i == grid.blocks[0] - 1))
    def _():
        dq[...] = dq_sum[...].astype(dq.dtype)


def _scores(inputs, tables):
    """Masked scores of a tile, [keys, queries] float32, with [H, 2 b] tables of its distances."""
    q, k = inputs.q[...], inputs.k[...]  # [b, H]
    scores = _dot(k, q, 1, 1)  # [b, b]
    by_key, by_query = [], []
    for start in range(0, len(q), LANES):
        part = band(start, len(q))
        if tables.queries is not None or tables.bias is not None:
            terms = jnp.zeros((LANES, part.stop - part.start), jnp.float32)
            if tables.queries is not None:
                terms += _dot(k[start : start + LANES], tables.queries[:, part], 1, 0)
            if tables.bias is not None:
                terms += tables.bias[:, part]
            by_key.append(skew(terms))  # [128, b]
        if tables.keys is not None:
            by_query.append(skew(_dot(q[start : start + LANES], tables.keys[:, part], 1, 0)).T)  # [b, 128]
    if by_key:
        scores += jnp.concatenate(by_key, axis=0)
    if by_query:
        scores += jnp.concatenate(by_query, axis=1)
    # [b, 1] segments of keys against [1, b] of queries.
    return jnp.where(inputs.k_segments[...] == inputs.q_segments[...], scores, _MASKED)


def _dot(x, y, i, j):
    """Product summed over axis i of x and axis j of y, float32."""
    return jax.lax.dot_general(x, y, (((i,), (j,)), ((), ())), preferred_element_type=jnp.float32)


def _read(tables):
    """A tile's part of each table, [H, 2 b] from its halves."""
    return RelativeTerms._make(halves and jnp.concatenate([x[...] for x in halves], axis=1) for halves in tables)


class _Grid:
    """The tiles, and the part of each array that a tile uses; heads are outermost, for their tables' gradients."""

    def __init__(self, inputs, dropout, keys_first=False):
        (_, _, T, H), S = inputs.q.shape, inputs.k.shape[2]
        self.block = block = tile_length(T, _LONGEST)
        self.blocks, self.dropout, self.keys_first = (T // block, S // block), dropout, keys_first
        self.vmem = _vmem(T, S, H, inputs.q.dtype)
        self.queries = self._spec((None, None, block, H), lambda h, b, i, j: (b, h, i, 0))
        self.keys = self._spec((None, None, block, H), lambda h, b, i, j: (b, h, j, 0))
        self.row = self._spec((None, None, T, H), lambda h, b, i, j: (b, h, 0, 0))
        self.query_rows = self._spec((None, None, 1, block), lambda h, b, i, j: (b, h, 0, i))

    def _spec(self, shape, index):
        def index_map(h, b, x, y, *prefetched):
            return index(h, b, *((y, x) if self.keys_first else (x, y)))

        return pl.BlockSpec(shape, index_map)

    def table(self, x):  # of a head, in full
        return self._spec((None, *x.shape[1:]), lambda h, b, i, j: (h, 0, 0))

    def inputs(self, tables):
        """Specs of the last of the `arguments`."""

        def halves(x, first):
            """Two neighboring blocks, whose columns hold the distances of a tile."""
            if x is None:
                return None
            shape = (None, x.shape[1], self.block)
            return tuple(self._spec(shape, lambda h, b, i, j, n=n: (h, 0, first(i, j) + n)) for n in (0, 1))

        X, Y = self.blocks
        queries, bias = (halves(table, lambda i, j: Y - 1 + i - j) for table in (tables.queries, tables.bias))
        parts = RelativeTerms._make((halves(tables.keys, lambda i, j: X - 1 + j - i), queries, bias))
        q_segments = self._spec((None, 1, self.block), lambda h, b, i, j: (b, 0, i))
        k_segments = self._spec((None, self.block, 1), lambda h, b, i, j: (b, j, 0))
        return AttentionInputs._make(
            (self.queries, self.keys, self.keys, parts, q_segments, k_segments, None, None, None)
        )

    def arguments(self, inputs):
        """Arguments of a kernel: two scalar arrays (visible tiles and the seed), then the arrays to read tiles of."""
        q_blocks, k_blocks = (x.reshape(len(x), -1, self.block) for x in (inputs.q_segments, inputs.k_segments))
        q_low, q_high = q_blocks.min(-1)[:, :, None], q_blocks.max(-1)[:, :, None]  # [B, X, 1]
        k_low, k_high = k_blocks.min(-1)[:, None, :], k_blocks.max(-1)[:, None, :]  # [B, 1, Y]
        visible = (q_low <= k_high) & (k_low <= q_high)  # whether a query and a key can be of one document
        # A tile reads two neighboring blocks of a table: the table is passed twice.
        twice = RelativeTerms._make(None if x is None else (x, x) for x in inputs.relative)
        segments = inputs.q_segments[:, None], inputs.k_segments[..., None]
        arrays = AttentionInputs._make((*inputs[:3], twice, *segments, None, None, None))
        return visible.astype(jnp.int32).ravel(), inputs.seed, arrays

    def is_visible(self, visible, b, i, j):
        X, Y = self.blocks
        return visible[(b * X + i) * Y + j] != 0

    def keep(self, seed, h, b, i, j):
        """Mask of the tile's weights that dropout keeps, [keys, queries]."""
        query = seed[3] + i * self.block + jax.lax.broadcasted_iota(jnp.int32, (1, self.block), 1)
        key = seed[4] + j * self.block + jax.lax.broadcasted_iota(jnp.int32, (self.block, 1), 0)
        return hashed_keep(seed[0], seed[1] + b, seed[2] + h, query, key, self.dropout)

    def rows(self, i, start=0, size=None):
        """Block i of all queries, or `size` of its rows from `start` on."""
        return pl.ds(pl.multiple_of(i * self.block + start, LANES), size or self.block)

    def columns(self, n, band):
        """Slice of a full table: the band of a tile whose part begins with block n."""
        return pl.ds(pl.multiple_of(n * self.block + band.start, LANES), band.stop - band.start)


def _vmem(T, S, H, dtype):
    """Bytes of fast memory for the backward pass, results twice: one is written while the next is computed."""
    block = tile_length(T, _LONGEST)
    T, S = (-(-length // block) * block for length in (T, S))
    queries = T * -(-H // LANES) * LANES * (4 + 2 * jnp.dtype(dtype).itemsize)
    tables = 2 * (T + S) * (2 * -(-H // 8) * 8 + 8) * 4
    return _TILE_BYTES + queries + tables
