"""Attention on TPUs where all keys that a tile of queries sees fit into one tile: layers with a window, short rows.

The softmax of a tile needs no running maximum, and one kernel computes all gradients. A tile is the same for all heads
of a block, which share its mask.

Tiles have their keys along the rows. Values per query (maximum and sum of its softmax) are then row vectors: fast to
reduce and to broadcast.

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
from jaxencoder.kernels.tiles import LANES, heads_first, pad_segments, tile_length

_QUERIES = 512  # of a tile in a layer without a window
_LOCAL_QUERIES = 128  # with a window, which leaves out most keys of a larger tile
_LONGEST_ROW = 1024  # keys of a tile in a layer without a window
_WIDEST = 256  # window
_HEADS = 12  # of a block, at most, and as many as fit
_VMEM_BYTES = 48 << 20  # of fast memory; chips have 64 MiB or more since v5e
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
    q, k, v, _, q_segments, k_segments, offset, _ = inputs
    T, S = q.shape[1], k.shape[1]
    is_elsewhere = (options.window or options.causal) and not (isinstance(offset, int) and offset == 0)
    if T != S or is_elsewhere or not fits(T, options.window):
        raise ValueError(
            f"Single-pass attention has no tiles for {T} queries from key {offset} on, {S} keys and window "
            f"{options.window}; use splash."
        )
    pad = -T % _block(T, options.window)
    q_segments, k_segments = pad_segments(q_segments, k_segments, pad, pad)
    q, k, v = (heads_first(x, pad) for x in (q, k, v))
    out: jax.Array = _attend(
        q, k, v, q_segments[:, None], k_segments[..., None], options.window, options.causal, interpret
    )
    return jnp.swapaxes(out, 1, 2)[:, :T]  # [B, N, T', H] -> [B, T, N, H]


def _block(T, window):
    """Queries of a tile, at least as many as a window has to one side."""
    return tile_length(T, max(_LOCAL_QUERIES, -(-window // LANES) * LANES) if window else _QUERIES)


@partial(jax.custom_vjp, nondiff_argnums=(5, 6, 7))
def _attend(q, k, v, q_segments, k_segments, window, causal, interpret):
    return _forward(q, k, v, q_segments, k_segments, window, causal, interpret)[0]


def _forward(q, k, v, q_segments, k_segments, window, causal, interpret):
    B, N, T, _ = q.shape
    grid = _Grid(q, window, causal)
    out, lse = pl.pallas_call(
        partial(_forward_kernel, grid=grid),
        grid=(*grid.outer, grid.tiles),
        in_specs=[grid.queries, grid.keys, grid.keys, grid.query_segments, grid.key_segments],
        out_specs=[grid.queries, grid.query_rows],
        out_shape=[jax.ShapeDtypeStruct(q.shape, q.dtype), jax.ShapeDtypeStruct((B, N, 1, T), jnp.float32)],
        compiler_params=grid.parameters("parallel"),
        name="single_pass_forward",
        interpret=interpret,
    )(q, grid.parts(k), grid.parts(v), q_segments, grid.parts(k_segments))
    out, lse = checkpoint_name((out, lse), ATTENDED)
    return out, (q, k, v, q_segments, k_segments, out, lse)


def _backward(window, causal, interpret, residuals, d_out):
    q, k, v, q_segments, k_segments, out, lse = residuals
    grid = _Grid(q, window, causal)
    # Sums over the keys of weight times its gradient (Dao et al. 2022, appendix B.2), [B, N, 1, T].
    means = jnp.einsum("BNTH,BNTH->BNT", out, d_out, preferred_element_type=jnp.float32)[:, :, None]
    queries = [grid.queries, grid.queries, grid.query_rows, grid.query_rows]
    gradients = pl.pallas_call(
        partial(_backward_kernel, grid=grid),
        grid=(*grid.outer, grid.tiles + grid.is_local),  # the last gradients of keys follow the last tile
        in_specs=[*queries, grid.keys, grid.keys, grid.query_segments, grid.key_segments],
        out_specs=[grid.queries, grid.key_gradients, grid.key_gradients],
        out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (q, k, v)],
        scratch_shapes=[grid.sums] * (4 if grid.is_local else 2),
        compiler_params=grid.parameters("arbitrary"),
        name="single_pass_backward",
        interpret=interpret,
    )(q, d_out, lse, means, grid.parts(k), grid.parts(v), q_segments, grid.parts(k_segments))
    return (*gradients, None, None)


_attend.defvjp(_forward, _backward)


# Kernels take each step for all heads before the next one: the compiler then overlaps the heads' products with their
# exponentials, which a chain of steps for one head after the other keeps it from.


def _forward_kernel(q, k, v, q_segments, k_segments, out, lse, *, grid):
    mask, heads = grid.mask(q_segments, k_segments, pl.program_id(2)), range(grid.heads)
    scores = [_dot(grid.read(k, head), q[head], 1, 1) + mask for head in heads]
    highest = [jnp.maximum(x.max(0, keepdims=True), _FLOOR) for x in scores]  # [1, queries]
    weights = [jnp.exp(x - top) for x, top in zip(scores, highest, strict=True)]
    totals = [x.sum(0, keepdims=True) for x in weights]
    sums = [_dot(grid.read(v, head), weights[head].astype(q.dtype), 0, 0) for head in heads]  # [H, queries]
    for head in heads:
        any_visible = totals[head] > 0
        total = jnp.where(any_visible, totals[head], 1)
        out[head] = (sums[head] / total).T.astype(out.dtype)
        lse[head] = jnp.where(any_visible, highest[head] + jnp.log(total), 0)  # log of the softmax's sum


def _backward_kernel(q, d_out, lse, means, k, v, q_segments, k_segments, dq, dk, dv, *sums, grid):
    i = pl.program_id(2)

    @pl.when(i == 0)
    def _():
        for x in sums:
            x[...] = jnp.zeros_like(x)

    @pl.when(i < grid.tiles)
    def _():
        mask, heads = grid.mask(q_segments, k_segments, i), range(grid.heads)
        keys = [grid.read(k, head) for head in heads]
        weights = [jnp.exp(_dot(keys[head], q[head], 1, 1) + mask - lse[head]) for head in heads]  # [keys, queries]
        d_weights = [_dot(grid.read(v, head), d_out[head], 1, 1) for head in heads]
        # The derivative of the softmax.
        d_scores = [(weights[head] * (d_weights[head] - means[head])).astype(q.dtype) for head in heads]
        for head in heads:
            grid.add(dv, sums[1::2], head, _dot(weights[head].astype(q.dtype), d_out[head], 1, 0))
        for head in heads:
            grid.add(dk, sums[::2], head, _dot(d_scores[head], q[head], 1, 0))
        for head in heads:
            dq[head] = _dot(d_scores[head], keys[head], 0, 0).astype(dq.dtype)

    @pl.when(i == grid.last)
    def _():
        dk[...] = sums[0][...].astype(dk.dtype)
        dv[...] = sums[1][...].astype(dv.dtype)


def _dot(x, y, i, j):
    """Product summed over axis i of x and axis j of y, float32."""
    return jax.lax.dot_general(x, y, (((i,), (j,)), ((), ())), preferred_element_type=jnp.float32)


def _terms(is_seen):
    return jnp.where(is_seen, 0.0, _MASKED)


class _Grid:
    """The tiles, and the part of each array that a tile uses."""

    def __init__(self, q, window, causal):
        (B, N, T, H), itemsize = q.shape, q.dtype.itemsize
        self.window, self.causal, self.is_local = window, causal, bool(window)
        self.block = b = _block(T, window)
        self.tiles, self.reach = T // b, -(-window // 16) * 16  # registers of 16 rows in bfloat16
        self.keys_of_tile = b + 2 * self.reach if window else T
        limit = min(_HEADS, max(_VMEM_BYTES // self._bytes_of_head(T, H, itemsize), 1))
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
        self.query_segments = pl.BlockSpec((None, 1, b), lambda b, h, i: (b, 0, jnp.minimum(i, last)))
        self.key_segments = neighbors(
            lambda size, place: pl.BlockSpec((None, size, 1), lambda b, h, i: (b, place(i), 0))
        )
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

    def parts(self, x):
        """An array of keys once for each block that a tile reads."""
        return [x] * (3 if self.is_local else 1)

    def read(self, parts, head):
        """Keys or values of a tile, [keys, H]."""
        if not self.is_local:
            return parts[0][head]
        before, here, after = (part[head] for part in parts)
        return jnp.concatenate([before[self.block - self.reach :], here, after[: self.reach]])

    def mask(self, q_segments, k_segments, i):
        """Terms of the scores: 0 where a query sees a key, [keys, queries] float32."""
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

    def add(self, out, sums, head, gradient):
        """Add the gradients [keys, H] of a tile's keys; those of the block before are complete and written."""
        if not self.is_local:
            sums[0][head] += gradient
            return
        at, next_ = sums  # of the block before the tile's place, and of the one at it, as far as earlier tiles reach
        b, reach = self.block, self.reach
        before, here, after = gradient[:reach], gradient[reach : reach + b], gradient[reach + b :]
        at[head, b - reach :] += before
        out[head] = at[head].astype(out.dtype)
        at[head] = here
        at[head, :reach] += next_[head, :reach]
        next_[head, :reach] = after
