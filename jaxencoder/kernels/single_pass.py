"""Attention on TPUs where all keys that a tile of queries sees fit into one tile: layers with a window, short rows.

The softmax of a tile needs no running maximum, and one kernel computes all gradients. A tile is the same for all heads
of a block, which share its mask.

Tiles have their keys along the rows. Values per query (maximum and sum of its softmax) are then row vectors: fast to
reduce and to broadcast.

Rotary positions are applied to the parts of queries and keys that a tile reads, and to their gradients in the other
direction: rotated arrays are nowhere stored.

With a window, a tile of queries reads the block of keys at its own place and parts of the two beside it. Gradients of
keys are complete one block later: the kernel carries them from tile to tile.

Inside this file arrays are heads first: q, k and v [B, N, T, H].
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from jaxencoder.kernels.inputs import ATTENDED, PLAIN, AttentionInputs, AttentionOptions
from jaxencoder.kernels.rotary import swap_halves
from jaxencoder.kernels.tiles import LANES, heads_first, pad_segments, tile_length

_QUERIES = 512  # of a tile in a layer without a window
_LOCAL_QUERIES = 128  # with a window, which leaves out most keys of a larger tile
_LONGEST_ROW = 1024  # keys of a tile in a layer without a window
_WIDEST = 256  # window
_HEADS = 12  # of a block, at most, and as many as fit
_VMEM_BYTES = 56 << 20  # of fast memory; chips have 64 MiB or more since v5e
_HEADS_BYTES = 44 << 20  # of it for what a block of heads needs, as far as it is counted
# Scores of masked keys, and the lowest maximum, above them: their exponentials are 0 even if all keys are masked.
_MASKED, _FLOOR = -1e30, -1e20


def fits(T: int, window: int) -> bool:
    """Whether rows of T tokens and a window have tiles with all keys."""
    return window <= _WIDEST if window else T <= _LONGEST_ROW


def single_pass(inputs: AttentionInputs, options: AttentionOptions = PLAIN, *, interpret: bool = False) -> jax.Array:
    """Attention without terms by distance or dropout, of as many keys as queries; 0 for a query that sees nothing.

    Raises:
        ValueError: queries at another place than the keys, or rows that do not fit (see `fits`).
    """
    q, k, v, _, q_segments, k_segments, offset, _, rotary = inputs
    T, S = q.shape[1], k.shape[1]
    is_elsewhere = (options.window or options.causal) and not (isinstance(offset, int) and offset == 0)
    if T != S or is_elsewhere or not fits(T, options.window):
        raise ValueError(
            f"Single-pass attention has no tiles for {T} queries from key {offset} on, {S} keys and window "
            f"{options.window}; use splash."
        )
    pad = -T % _block(T, options.window)
    q_segments, k_segments = pad_segments(q_segments, k_segments, pad, pad)
    tables = rotary and (*(_table(x, pad) for x in rotary), swap_halves(q.shape[-1], q.dtype))
    q, k, v = (heads_first(x, pad) for x in (q, k, v))
    segments = q_segments[:, None], k_segments[..., None]
    out: jax.Array = _attend(q, k, v, segments, tables, options.window, options.causal, interpret)
    return jnp.swapaxes(out, 1, 2)[:, :T]  # [B, N, T', H] -> [B, T, N, H]


def _table(x, pad):
    """Cosines or sines [B, T, 1, H / 2] of each item of H: [B, T', H]."""
    return jnp.pad(jnp.concatenate([x, x], axis=-1)[:, :, 0], [(0, 0), (0, pad), (0, 0)])


def _block(T, window):
    """Queries of a tile, at least as many as a window has to one side."""
    return tile_length(T, max(_LOCAL_QUERIES, -(-window // LANES) * LANES) if window else _QUERIES)


@partial(jax.custom_vjp, nondiff_argnums=(5, 6, 7))
def _attend(q, k, v, segments, tables, window, causal, interpret):
    return _forward(q, k, v, segments, tables, window, causal, interpret)[0]


def _forward(q, k, v, segments, tables, window, causal, interpret):
    B, N, T, _ = q.shape
    grid = _Grid(q, window, causal)
    out, lse = pl.pallas_call(
        partial(_forward_kernel, grid=grid),
        grid=(*grid.outer, grid.tiles),
        in_specs=[grid.queries, grid.keys, grid.keys, grid.segments, grid.tables(tables)],
        out_specs=[grid.queries, grid.query_rows],
        out_shape=[jax.ShapeDtypeStruct(q.shape, q.dtype), jax.ShapeDtypeStruct((B, N, 1, T), jnp.float32)],
        compiler_params=grid.parameters("parallel"),
        name="single_pass_forward",
        interpret=interpret,
    )(q, *grid.key_arguments(k, v, segments, tables))
    out, lse = checkpoint_name((out, lse), ATTENDED)
    return out, (q, k, v, segments, tables, out, lse)


def _backward(window, causal, interpret, residuals, d_out):
    q, k, v, segments, tables, out, lse = residuals
    grid = _Grid(q, window, causal)
    # Sums over the keys of weight times its gradient (Dao et al. 2022, appendix B.2), [B, N, 1, T].
    means = jnp.einsum("BNTH,BNTH->BNT", out, d_out, preferred_element_type=jnp.float32)[:, :, None]
    queries = [grid.queries, grid.queries, grid.query_rows, grid.query_rows]
    gradients = pl.pallas_call(
        partial(_backward_kernel, grid=grid),
        grid=(*grid.outer, grid.tiles + grid.is_local),  # the last gradients of keys follow the last tile
        in_specs=[*queries, grid.keys, grid.keys, grid.segments, grid.tables(tables)],
        out_specs=[grid.queries, grid.key_gradients, grid.key_gradients],
        out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (q, k, v)],
        scratch_shapes=[grid.sums] * (4 if grid.is_local else 2),
        compiler_params=grid.parameters("arbitrary"),
        name="single_pass_backward",
        interpret=interpret,
    )(q, d_out, lse, means, *grid.key_arguments(k, v, segments, tables))
    return (*gradients, None, None)


_attend.defvjp(_forward, _backward)


# Kernels take each step for all heads before the next one: the compiler then overlaps the heads' products with their
# exponentials, which a chain of steps for one head after the other keeps it from.


def _forward_kernel(q, k, v, segments, tables, out, lse, *, grid):
    i, heads = pl.program_id(2), range(grid.heads)
    mask, turn = grid.mask(segments, i), _Rotation(grid, tables, i)
    scores = [_dot(turn.keys(grid.read(k, head)), turn.queries(q[head]), 1, 1) + mask for head in heads]
    highest = [jnp.maximum(x.max(0, keepdims=True), _FLOOR) for x in scores]  # [1, queries]
    weights = [jnp.exp(x - top) for x, top in zip(scores, highest, strict=True)]
    totals = [x.sum(0, keepdims=True) for x in weights]
    sums = [_dot(grid.read(v, head), weights[head].astype(q.dtype), 0, 0) for head in heads]  # [H, queries]
    for head in heads:
        any_visible = totals[head] > 0
        total = jnp.where(any_visible, totals[head], 1)
        out[head] = (sums[head] / total).T.astype(out.dtype)
        lse[head] = jnp.where(any_visible, highest[head] + jnp.log(total), 0)  # log of the softmax's sum


def _backward_kernel(q, d_out, lse, means, k, v, segments, tables, dq, dk, dv, *sums, grid):
    i = pl.program_id(2)
    turn = _Rotation(grid, tables, i)

    @pl.when(i == 0)
    def _():
        for x in sums:
            x[...] = jnp.zeros_like(x)

    @pl.when(i < grid.tiles)
    def _():
        mask, heads = grid.mask(segments, i), range(grid.heads)
        queries = [turn.queries(q[head]) for head in heads]
        keys = [turn.keys(grid.read(k, head)) for head in heads]
        weights = [jnp.exp(_dot(keys[head], queries[head], 1, 1) + mask - lse[head]) for head in heads]
        d_weights = [_dot(grid.read(v, head), d_out[head], 1, 1) for head in heads]  # [keys, queries]
        # The derivative of the softmax.
        d_scores = [(weights[head] * (d_weights[head] - means[head])).astype(q.dtype) for head in heads]
        for head in heads:
            grid.add(sums[1::2], head, _dot(weights[head].astype(q.dtype), d_out[head], 1, 0), dv, lambda x: x)
        for head in heads:
            grid.add(sums[::2], head, _dot(d_scores[head], queries[head], 1, 0), dk, turn.keys_back)
        for head in heads:
            dq[head] = turn.queries_back(_dot(d_scores[head], keys[head], 0, 0).astype(dq.dtype))

    @pl.when(i == grid.last)
    def _():
        for head in range(grid.heads):
            dk[head] = turn.keys_back(sums[0][head].astype(dk.dtype))
            dv[head] = sums[1][head].astype(dv.dtype)


def _dot(x, y, i, j):
    """Product summed over axis i of x and axis j of y, float32."""
    return jax.lax.dot_general(x, y, (((i,), (j,)), ((), ())), preferred_element_type=jnp.float32)


def _terms(is_seen):
    return jnp.where(is_seen, 0.0, _MASKED)


class _Rotation:
    """Rotary positions of a tile, whose cosines and sines all heads share; the identity without `tables`."""

    def __init__(self, grid, tables, i):
        self._grid, self._tables, self._i = grid, tables, i

    def queries(self, x, sign=1):
        return self._turned(x, lambda parts: self._grid.at_queries(parts, self._i), sign)

    def queries_back(self, x):
        return self.queries(x, -1)

    def keys(self, x):
        return self._turned(x, self._grid.joined, 1)

    def keys_back(self, x):
        """Of gradients that are complete: of the block before the tile's place, or of the whole row."""
        return self._turned(x, lambda parts: parts[0][...], -1)

    def _turned(self, x, part, sign):
        if self._tables is None:
            return x
        cos, sin, swap = self._tables
        # For float32 too the product is exact: it has one factor of 1.
        precision = jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else None
        swapped = jnp.dot(x, swap[...], precision=precision, preferred_element_type=jnp.float32)
        return (x.astype(jnp.float32) * part(cos) + sign * swapped * part(sin)).astype(x.dtype)


class _Grid:
    """The tiles, and the part of each array that a tile uses."""

    def __init__(self, q, window, causal):
        (B, N, T, H), itemsize = q.shape, q.dtype.itemsize
        self.window, self.causal, self.is_local = window, causal, bool(window)
        self.block = b = _block(T, window)
        self.tiles, self.reach = T // b, -(-window // 16) * 16  # registers of 16 rows in bfloat16
        self.keys_of_tile = b + 2 * self.reach if window else T
        limit = min(_HEADS, max(_HEADS_BYTES // self._bytes_of_head(T, H, itemsize), 1))
        self.heads = next(n for n in range(limit, 0, -1) if N % n == 0)
        self.outer = B, N // self.heads
        self.last = self.tiles - 1 + self.is_local
        last = self.tiles - 1

        def spec(size, place):
            return pl.BlockSpec((None, self.heads, size, H), lambda b, h, i: (b, h, place(i), 0))

        def neighbors(make):
            """Blocks before, at and after the tile's place, or the whole row."""
            return (
                [make(b, lambda i, n=n: jnp.clip(i + n, 0, last)) for n in (-1, 0, 1)]
                if window
                else [make(T, lambda i: 0)]
            )

        self.queries = spec(b, lambda i: jnp.minimum(i, last))
        self.keys = neighbors(spec)
        self.query_rows = pl.BlockSpec((None, self.heads, 1, b), lambda b, h, i: (b, h, 0, jnp.minimum(i, last)))
        query_segments = pl.BlockSpec((None, 1, b), lambda b, h, i: (b, 0, jnp.minimum(i, last)))
        self.segments = query_segments, neighbors(partial(_rows, columns=1))
        self._angles, self._swap = neighbors(partial(_rows, columns=H)), pl.BlockSpec((H, H), lambda b, h, i: (0, 0))
        self.key_gradients = spec(b, lambda i: jnp.maximum(i - 1, 0)) if window else spec(T, lambda i: 0)
        self.sums = pltpu.VMEM((self.heads, b if window else T, H), jnp.float32)

    def _bytes_of_head(self, T, H, itemsize):
        """Fast memory that the backward pass needs for a head."""
        queries, keys = (self.block, self.block) if self.is_local else (self.block, T)
        lanes = -(-H // LANES) * LANES
        # Queries and two gradients, keys and values and their gradients, twice: one is read while another is computed.
        blocks = 2 * itemsize * lanes * (3 * queries + (8 if self.is_local else 4) * keys)
        sums = 4 * lanes * (4 if self.is_local else 2) * keys
        return blocks + sums + (4 + itemsize) * self.keys_of_tile * self.block  # weights, and their gradients

    def parameters(self, order):
        """`order`: of the tiles of a row, whether they are independent (parallel)."""
        order = ("parallel", "parallel", order)
        return pltpu.CompilerParams(dimension_semantics=order, vmem_limit_bytes=_VMEM_BYTES)

    def tables(self, tables):
        """Specs of cosines, sines and the matrix that swaps halves; None without rotary positions."""
        return tables and (self._angles, self._angles, self._swap)

    def key_arguments(self, k, v, segments, tables):
        """Arguments of a kernel from the keys on: what a tile reads in several blocks, once for each of them."""

        def parts(x):
            return [x] * (3 if self.is_local else 1)

        q_segments, k_segments = segments
        angles = tables and (parts(tables[0]), parts(tables[1]), tables[2])
        return parts(k), parts(v), (q_segments, parts(k_segments)), angles

    def read(self, parts, head):
        """Keys or values of a tile, [keys, H]."""
        return self._joined([part[head] for part in parts])

    def joined(self, parts):
        """Cosines or sines of a tile's keys, [keys, H]."""
        return self._joined([part[...] for part in parts])

    def at_queries(self, parts, i):
        """Cosines or sines of a tile's queries, [queries, H]."""
        if self.is_local:
            return parts[1][...]
        return parts[0][pl.ds(pl.multiple_of(i * self.block, LANES), self.block), :]

    def _joined(self, parts):
        if not self.is_local:
            return parts[0]
        before, here, after = parts
        return jnp.concatenate([before[self.block - self.reach :], here, after[: self.reach]])

    def mask(self, segments, i):
        """Terms of the scores: 0 where a query sees a key, [keys, queries] float32."""
        q_segments, k_segments = segments
        if not self.is_local:
            is_seen = k_segments[0][...] == q_segments[...]
            return _terms(is_seen & (self._distances(i * self.block) <= 0) if self.causal else is_seen)
        before, here, after = (part[...] for part in k_segments)
        # At the ends of the row the neighbors are blocks that were read already.
        before = jnp.where(i > 0, before[self.block - self.reach :], -1)
        after = jnp.where(i < self.tiles - 1, after[: self.reach], -1)
        distances = self._distances(self.reach)
        is_near = (distances >= -self.window) & (distances <= (0 if self.causal else self.window))
        return _terms((jnp.concatenate([before, here, after]) == q_segments[...]) & is_near)

    def _distances(self, start):
        """Places of keys less those of queries, of which the first is at key `start`: [keys, queries]."""
        shape = self.keys_of_tile, self.block
        rows, columns = (jax.lax.broadcasted_iota(jnp.int32, shape, axis) for axis in (0, 1))
        return rows - columns - start

    def add(self, sums, head, gradient, out, finish):
        """Add the gradients [keys, H] of a tile's keys; those of the block before are complete and written."""
        if not self.is_local:
            sums[0][head] += gradient
            return
        at, next_ = sums  # of the block before the tile's place, and of the one at it, as far as earlier tiles reach
        b, reach = self.block, self.reach
        before, here, after = gradient[:reach], gradient[reach : reach + b], gradient[reach + b :]
        at[head, b - reach :] += before
        out[head] = finish(at[head].astype(out.dtype))
        at[head] = here
        at[head, :reach] += next_[head, :reach]
        next_[head, :reach] = after


def _rows(size, place, columns):
    """Rows of an array [B, T, columns]."""
    return pl.BlockSpec((None, size, columns), lambda b, h, i: (b, place(i), 0))
