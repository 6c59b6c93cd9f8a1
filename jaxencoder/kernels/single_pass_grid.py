"""The heads, tiles and blocks of `single_pass`, and what its kernels do with a tile as a whole.

Heads are side by side: arrays are [B, T, N H]. A register has 128 columns, so that two heads of 64 are one group.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from jaxencoder.kernels.tiles import LANES, tile_length

_QUERIES = 512  # of a tile in a layer without a window
_LOCAL_QUERIES = 128  # with a window, which leaves out most keys of a larger tile
_VMEM_BYTES = 56 << 20  # of fast memory; chips have 64 MiB or more since v5e
_HEADS_BYTES = 44 << 20  # of it for what a block of heads needs, as far as it is counted
_MASKED = -1e30  # scores of masked keys


def block_of(T, window):
    """Queries of a tile, at least as many as a window has to one side."""
    return tile_length(T, max(_LOCAL_QUERIES, -(-window // LANES) * LANES) if window else _QUERIES)


class Heads(NamedTuple):
    """N heads of size H as groups that fill registers; heads and columns are added where these do not come out even."""

    number: int
    size: int

    @property
    def padded_size(self):
        return next(n for n in (8, 16, 32, 64, -(-self.size // LANES) * LANES) if n >= self.size)

    @property
    def of_group(self):
        """Heads of a group."""
        return max(LANES // self.padded_size, 1)

    @property
    def groups(self):
        return -(-self.number // self.of_group)

    @property
    def columns(self):
        """Columns of a group."""
        return self.padded_size * self.of_group

    def side_by_side(self, x, pad):
        """[B, T, N, H] -> [B, T', columns of all groups]"""
        more = self.groups * self.of_group - self.number, self.padded_size - self.size
        x = jnp.pad(x, [(0, 0), (0, pad), (0, more[0]), (0, more[1])]) if pad or any(more) else x
        return x.reshape(*x.shape[:2], self.groups * self.columns)

    def apart(self, x, T):
        """[B, T', columns] -> [B, T, N, H]"""
        x = x[:, :T].reshape(len(x), T, self.groups * self.of_group, self.padded_size)
        return x[:, :, : self.number, : self.size]

    def table(self, x, pad):
        """Cosines or sines [B, T, 1, H / 2] of each column of a group: [B, T', columns]."""
        x = jnp.concatenate([x, x], axis=-1)[:, :, 0]
        x = jnp.pad(x, [(0, 0), (0, pad), (0, self.padded_size - self.size)])
        return jnp.tile(x, self.of_group)

    def swap(self, dtype):
        """The matrix whose product with a group is (-b, a) for the halves a and b of each head: [columns, columns]."""
        half, one = self.size // 2, np.zeros((self.padded_size,) * 2, np.float32)
        one[:half, half : self.size], one[half : self.size, :half] = np.eye(half), -np.eye(half)
        return jnp.asarray(np.kron(np.eye(self.of_group, dtype=np.float32), one), dtype)


class Grid:
    """The tiles, and the part of each array that a tile uses."""

    def __init__(self, q, heads, window, causal, scale):
        (B, T, _), itemsize = q.shape, q.dtype.itemsize
        self.heads, self.window, self.causal, self.is_local, self.scale = heads, window, causal, bool(window), scale
        self.block = b = block_of(T, window)
        self.tiles, self.reach = T // b, -(-window // 16) * 16  # registers of 16 rows in bfloat16
        self.keys_of_tile = b + 2 * self.reach if window else T
        limit = max(_HEADS_BYTES // self._bytes_of_group(T, itemsize), 1)
        groups = next(n for n in range(min(heads.groups, limit), 0, -1) if heads.groups % n == 0)
        width, number = groups * heads.columns, groups * heads.of_group
        self.parts = [slice(n * heads.columns, (n + 1) * heads.columns) for n in range(groups)]
        self.outer = B, heads.groups // groups
        self.rows_shape = B, heads.groups * heads.of_group, 1, T
        last = self.tiles - 1
        self.last = last + self.is_local

        def spec(size, place):
            return pl.BlockSpec((None, size, width), lambda b, h, i: (b, place(i), h))

        def neighbors(make):
            """Blocks before, at and after the tile's place, or the whole row."""
            if not window:
                return [make(T, lambda i: 0)]
            return [make(b, lambda i, n=n: jnp.clip(i + n, 0, last)) for n in (-1, 0, 1)]

        self.queries = spec(b, lambda i: jnp.minimum(i, last))
        self.keys = neighbors(spec)
        self.query_rows = pl.BlockSpec((None, number, 1, b), lambda b, h, i: (b, h, 0, jnp.minimum(i, last)))
        query_segments = pl.BlockSpec((None, 1, b), lambda b, h, i: (b, 0, jnp.minimum(i, last)))
        self.segments = query_segments, neighbors(partial(_rows, columns=1))
        self._angles = neighbors(partial(_rows, columns=heads.columns))
        self._swap = pl.BlockSpec((heads.columns, heads.columns), lambda b, h, i: (0, 0))
        self.key_gradients = spec(b, lambda i: jnp.maximum(i - 1, 0)) if window else spec(T, lambda i: 0)
        self.sums = pltpu.VMEM((b if window else T, width), jnp.float32)

    def _bytes_of_group(self, T, itemsize):
        """Fast memory that the backward pass needs for a group of heads."""
        queries, keys = (self.block, self.block) if self.is_local else (self.block, T)
        columns = -(-self.heads.columns // LANES) * LANES
        # Queries, results and two gradients, keys and values and their gradients, twice: some are read or written while
        # others are computed with.
        blocks = 2 * itemsize * columns * (4 * queries + (8 if self.is_local else 4) * keys)
        sums = 4 * columns * (4 if self.is_local else 2) * keys
        # Weights and their gradients of each head.
        return blocks + sums + self.heads.of_group * (4 + itemsize) * self.keys_of_tile * self.block

    def name(self, direction):
        return f"single_pass_{'local' if self.is_local else 'global'}_{direction}"

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

    def read(self, blocks, part):
        """Keys or values of a group in a tile, [keys, columns]."""
        return self._joined([block[:, part] for block in blocks])

    def joined(self, blocks):
        """Cosines or sines of a tile's keys, [keys, columns]."""
        return self._joined([block[...] for block in blocks])

    def at_queries(self, blocks, i):
        """Cosines or sines of a tile's queries, [queries, columns]."""
        if self.is_local:
            return blocks[1][...]
        return blocks[0][pl.ds(pl.multiple_of(i * self.block, LANES), self.block), :]

    def _joined(self, blocks):
        if not self.is_local:
            return blocks[0]
        before, here, after = blocks
        return jnp.concatenate([before[self.block - self.reach :], here, after[: self.reach]])

    def of_heads(self, groups):
        """For each head the number of its group, and the group with zeros for the other heads."""
        return [(n, self.masked(x, head)) for n, x in enumerate(groups) for head in range(self.heads.of_group)]

    def masked(self, x, head):
        """A group [rows, columns] with zeros in the columns of other heads."""
        if self.heads.of_group == 1:
            return x
        column = jax.lax.broadcasted_iota(jnp.int32, (1, self.heads.columns), 1)
        return jnp.where(self._is_of(head % self.heads.of_group, column), x, jnp.zeros_like(x))

    def _is_of(self, head, column):
        """Whether a column belongs to a head of its group."""
        size = self.heads.padded_size
        return (column >= head * size) & (column < (head + 1) * size)

    def rows_of_head(self, x, head):
        """The rows of one head, where the columns of its group are rows: [columns, queries] -> [H, queries]."""
        size, first = self.heads.padded_size, head % self.heads.of_group
        return x[first * size : (first + 1) * size]

    def sums_of_heads(self, x):
        """Sums over the columns of each head of a group [queries, columns] float32, as rows [1, queries]."""
        shape = max(self.heads.of_group, 8), self.heads.columns
        row, column = (jax.lax.broadcasted_iota(jnp.int32, shape, axis) for axis in (0, 1))
        ones = jnp.where(self._is_of(row, column), 1.0, 0.0)
        contract = (((1,), (1,)), ((), ()))
        sums = jax.lax.dot_general(ones, x, contract, jax.lax.Precision.HIGHEST, preferred_element_type=jnp.float32)
        return [sums[n : n + 1] for n in range(self.heads.of_group)]

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

    def add(self, sums, part, gradient, out, finish):
        """Add the gradients [keys, columns] of a tile's keys; those of the block before are complete and written."""
        if not self.is_local:
            sums[0][:, part] += gradient
            return
        at, next_ = sums  # of the block before the tile's place, and of the one at it, as far as earlier tiles reach
        b, reach = self.block, self.reach
        before, here, after = gradient[:reach], gradient[reach : reach + b], gradient[reach + b :]
        at[b - reach :, part] += before
        out[:, part] = finish(at[:, part].astype(out.dtype))
        at[:, part] = here
        at[:reach, part] += next_[:reach, part]
        next_[:reach, part] = after


def _rows(size, place, columns):
    """Rows of an array [B, T, columns]."""
    return pl.BlockSpec((None, size, columns), lambda b, h, i: (b, place(i), 0))


def _terms(is_seen):
    return jnp.where(is_seen, 0.0, _MASKED)
