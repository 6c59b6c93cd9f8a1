"""Attention on TPUs where all keys that a tile of queries sees fit into one tile: layers with a window, short rows.

The softmax of a tile needs no running maximum, and one kernel computes all gradients. A tile is the same for all heads
of a block, which share its mask.

Tiles have their keys along the rows. Values per query (maximum and sum of its softmax) are then row vectors: fast to
reduce and to broadcast.

Inside this file heads are side by side, as projections leave them: q, k and v [B, T, N H]. A register has 128
columns: two heads of 64 are one group. Its product with queries in which the other head is zero has the scores of one
head alone. Thus arrays in memory have no padding, and are not transposed.

The scale and rotary positions are applied to the parts of queries and keys that a tile reads, and to their gradients
in the other direction: no array of them is stored.

With a window, a tile of queries reads the block of keys at its own place and parts of the two beside it. Gradients of
keys are complete one block later: the kernel carries them from tile to tile.
"""

from functools import partial, reduce

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import pallas as pl

from jaxencoder.kernels.inputs import ATTENDED, PLAIN, AttentionInputs, AttentionOptions
from jaxencoder.kernels.platform import before_tpu_v5
from jaxencoder.kernels.single_pass_grid import Grid, Heads, block_of
from jaxencoder.kernels.tiles import pad_segments

_LONGEST_ROW = 1024  # keys of a tile in a layer without a window
_WIDEST = 256  # window
# The lowest maximum, above the scores of masked keys: their exponentials are 0 even if all keys are masked.
_FLOOR = -1e20


def unfit(T: int, window: int) -> str:
    """What has no tiles with all keys: these chips, the window or rows of T tokens; empty if nothing."""
    if before_tpu_v5():
        return "these chips: it needs TPU v5 or newer"
    if window:
        return f"windows of {window}" if window > _WIDEST else ""
    return f"rows of {T} tokens" if T > _LONGEST_ROW else ""


def single_pass(inputs: AttentionInputs, options: AttentionOptions = PLAIN, *, interpret: bool = False) -> jax.Array:
    """Attention without terms by distance or dropout, of as many keys as queries; 0 for a query that sees nothing.

    Raises:
        ValueError: queries at another place than the keys, or rows without tiles (see `unfit`).
    """
    q, k, v, _, q_segments, k_segments, offset, _, rotary = inputs
    T, S = q.shape[1], k.shape[1]
    is_elsewhere = (options.window or options.causal) and not (isinstance(offset, int) and offset == 0)
    if T != S or is_elsewhere or unfit(T, options.window):
        raise ValueError(
            f"Single-pass attention has no tiles for {T} queries from key {offset} on, {S} keys and window "
            f"{options.window}; use splash."
        )
    N, H = q.shape[2:]
    pad = -T % block_of(T, options.window)
    heads = Heads(N, H)
    segments = pad_segments(q_segments, k_segments, pad, pad)
    segments = segments[0][:, None], segments[1][..., None]
    tables = rotary and (*(heads.table(x, pad) for x in rotary), heads.swap(q.dtype))
    q, k, v = (heads.side_by_side(x, pad) for x in (q, k, v))
    layer = heads, options.window, options.causal, options.scale or 1.0
    out: jax.Array = _attend(q, k, v, segments, tables, layer, interpret)
    return heads.apart(out, T)


@partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def _attend(q, k, v, segments, tables, layer, interpret):
    return _forward(q, k, v, segments, tables, layer, interpret)[0]


def _forward(q, k, v, segments, tables, layer, interpret):
    grid = Grid(q, *layer)
    out, lse = pl.pallas_call(
        partial(_forward_kernel, grid=grid),
        grid=(*grid.outer, grid.tiles),
        in_specs=[grid.queries, grid.keys, grid.keys, grid.segments, grid.tables(tables)],
        out_specs=[grid.queries, grid.query_rows],
        out_shape=[jax.ShapeDtypeStruct(q.shape, q.dtype), jax.ShapeDtypeStruct(grid.rows_shape, jnp.float32)],
        compiler_params=grid.parameters("parallel"),
        name=grid.name("forward"),
        interpret=interpret,
    )(q, *grid.key_arguments(k, v, segments, tables))
    out, lse = checkpoint_name((out, lse), ATTENDED)
    return out, (q, k, v, segments, tables, out, lse)


def _backward(layer, interpret, residuals, d_out):
    q, k, v, segments, tables, out, lse = residuals
    grid = Grid(q, *layer)
    gradients = pl.pallas_call(
        partial(_backward_kernel, grid=grid),
        grid=(*grid.outer, grid.tiles + grid.is_local),  # the last gradients of keys follow the last tile
        in_specs=[(*[grid.queries] * 3, grid.query_rows), grid.keys, grid.keys, grid.segments, grid.tables(tables)],
        out_specs=[grid.queries, grid.key_gradients, grid.key_gradients],
        out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (q, k, v)],
        scratch_shapes=[grid.sums] * (4 if grid.is_local else 2),
        compiler_params=grid.parameters("arbitrary"),
        name=grid.name("backward"),
        interpret=interpret,
    )((q, out, d_out, lse), *grid.key_arguments(k, v, segments, tables))
    return (*gradients, None, None)


_attend.defvjp(_forward, _backward)


# Kernels take each step for all heads before the next one: the compiler then overlaps the heads' products with their
# exponentials, which a chain of steps for one head after the other keeps it from.


def _forward_kernel(q, k, v, segments, tables, out, lse, *, grid):
    i = pl.program_id(2)
    mask, turn = grid.mask(segments, i), _Rotation(grid, tables, i)
    queries = grid.of_heads([turn.queries(q[:, part]) for part in grid.parts])
    keys = [turn.keys(grid.read(k, part)) for part in grid.parts]
    scores = [_dot(keys[group], x, 1, 1) + mask for group, x in queries]
    highest = [jnp.maximum(x.max(0, keepdims=True), _FLOOR) for x in scores]  # [1, queries]
    weights = [jnp.exp(x - top) for x, top in zip(scores, highest, strict=True)]
    totals = [x.sum(0, keepdims=True) for x in weights]
    values = [grid.read(v, part) for part in grid.parts]
    # [columns of a group, queries], of which the head's own are needed.
    sums = [_dot(values[group], x.astype(q.dtype), 0, 0) for (group, _), x in zip(queries, weights, strict=True)]
    for head, (total, top) in enumerate(zip(totals, highest, strict=True)):
        total_or_one = jnp.where(total > 0, total, 1)
        sums[head] = grid.rows_of_head(sums[head], head) / total_or_one
        lse[head] = jnp.where(total > 0, top + jnp.log(total_or_one), 0)  # log of the softmax's sum
    for group, part in enumerate(grid.parts):
        first = group * grid.heads.of_group
        out[:, part] = jnp.concatenate(sums[first : first + grid.heads.of_group]).T.astype(out.dtype)


def _backward_kernel(of_queries, k, v, segments, tables, *results, grid):
    (q, out, d_out, lse), (dq, dk, dv, *sums) = of_queries, results
    i = pl.program_id(2)
    turn = _Rotation(grid, tables, i)

    @pl.when(i == 0)
    def _():
        for x in sums:
            x[...] = jnp.zeros_like(x)

    @pl.when(i < grid.tiles)
    def _():
        mask = grid.mask(segments, i)
        queries = grid.of_heads([turn.queries(q[:, part]) for part in grid.parts])
        d_outs = grid.of_heads([d_out[:, part] for part in grid.parts])
        keys = [turn.keys(grid.read(k, part)) for part in grid.parts]
        values = [grid.read(v, part) for part in grid.parts]
        # Sums over the keys of weight times its gradient (Dao et al. 2022, appendix B.2), [1, queries] of each head.
        means = [
            row
            for part in grid.parts
            for row in grid.sums_of_heads(out[:, part].astype(jnp.float32) * d_out[:, part].astype(jnp.float32))
        ]
        # [keys, queries]
        weights = [jnp.exp(_dot(keys[group], x, 1, 1) + mask - lse[head]) for head, (group, x) in enumerate(queries)]
        d_weights = [_dot(values[group], x, 1, 1) for group, x in d_outs]
        # The derivative of the softmax.
        d_scores = [(w * (dw - mean)).astype(q.dtype) for w, dw, mean in zip(weights, d_weights, means, strict=True)]
        weights = [x.astype(q.dtype) for x in weights]
        for group, part in enumerate(grid.parts):
            first = group * grid.heads.of_group
            heads = range(first, first + grid.heads.of_group)
            # Columns of other heads are zeros: the sum has each head's at their place.
            grid.add(sums[1::2], part, _total(_dot(weights[n], d_outs[n][1], 1, 0) for n in heads), dv, lambda x: x)
            grid.add(sums[::2], part, _total(_dot(d_scores[n], queries[n][1], 1, 0) for n in heads), dk, turn.keys_back)
            d_queries = _total(grid.masked(_dot(d_scores[n], keys[group], 0, 0), n) for n in heads)
            dq[:, part] = turn.queries_back(d_queries.astype(dq.dtype))

    @pl.when(i == grid.last)
    def _():
        for part in grid.parts:
            dk[:, part] = turn.keys_back(sums[0][:, part].astype(dk.dtype))
            dv[:, part] = sums[1][:, part].astype(dv.dtype)


def _total(arrays):
    return reduce(jnp.add, arrays)


def _dot(x, y, i, j):
    """Product summed over axis i of x and axis j of y, float32."""
    return jax.lax.dot_general(x, y, (((i,), (j,)), ((), ())), preferred_element_type=jnp.float32)


class _Rotation:
    """The scale and rotary positions of a tile, whose cosines and sines all heads share; none without `tables`."""

    def __init__(self, grid, tables, i):
        self._grid, self._tables, self._i = grid, tables, i

    def queries(self, x, sign=1):
        """Queries, or with sign -1 their gradients, which are scaled too."""
        return self._turned(x, lambda parts: self._grid.at_queries(parts, self._i), sign, self._grid.scale)

    def queries_back(self, x):
        return self.queries(x, -1)

    def keys(self, x):
        return self._turned(x, self._grid.joined, 1)

    def keys_back(self, x):
        """For gradients that are complete: those of the block before the tile's place, or of the whole row."""
        return self._turned(x, lambda parts: parts[0][...], -1)

    def _turned(self, x, part, sign, scale=1.0):
        if self._tables is None:
            return x if scale == 1 else (x.astype(jnp.float32) * scale).astype(x.dtype)
        cos, sin, swap = self._tables
        # For float32 too the product is exact: it has one factor of 1.
        precision = jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else None
        swapped = jnp.dot(x, swap[...], precision=precision, preferred_element_type=jnp.float32)
        turned = x.astype(jnp.float32) * part(cos) + sign * swapped * part(sin)
        return (turned * scale).astype(x.dtype)
