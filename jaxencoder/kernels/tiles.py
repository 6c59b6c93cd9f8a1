"""Parts of TPU kernels: the layout of their arrays, and diagonals of a tile aligned as columns by rotations.

Layout: tiles of whole registers, heads first, and segments of the padding. Rotations: the vector unit rotates row a of
a register by a times a stride in one instruction (`pltpu.roll`), to the right only; no gather is needed.
"""

import jax
import jax.numpy as jnp
from jax.experimental.pallas import tpu as pltpu

LANES = 128  # columns of a register


def tile_length(length: int, longest: int) -> int:
    """The smallest multiple of 128 tokens that needs as few tiles to cover a length as the longest tile."""
    tiles = -(-length // longest)
    return -(-length // (tiles * LANES)) * LANES


def heads_first(x: jax.Array, pad: int) -> jax.Array:
    """[B, T, N, H] -> [B, N, T + pad, H]"""
    return jnp.swapaxes(jnp.pad(x, [(0, 0), (0, pad), (0, 0), (0, 0)]), 1, 2)


def pad_segments(q_segments: jax.Array, k_segments: jax.Array, q_pad: int, k_pad: int) -> tuple[jax.Array, jax.Array]:
    """Segments of padded queries and keys."""
    # Padding and segment -1 become -2 for queries and -1 for keys: equal numbers would let them see each other.
    q_segments = jnp.pad(jnp.where(q_segments < 0, -2, q_segments), [(0, 0), (0, q_pad)], constant_values=-2)
    k_segments = jnp.pad(jnp.where(k_segments < 0, -1, k_segments), [(0, 0), (0, k_pad)], constant_values=-1)
    return q_segments, k_segments


def band(start, block):
    """Columns of a tile's tables that 128 rows from `start` on use; row a's first distance is column 128 - a."""
    return slice(block - LANES - start, 2 * block - start)


def skew(x):
    """[C, C + b] -> [C, b] where item (i, j) is x[i, C + j - i]."""
    C, W = x.shape
    return pltpu.roll(x, W - C, 1, stride=1, stride_axis=0)[:, : W - C]


def unskew(x):
    """The transpose of `skew`, rows reversed: [C, b] -> [C, C + b], item (i, j) to (C - 1 - i, C + j - i).

    Reversed, because rotations with a stride go to the right only.
    """
    C = len(x)
    x = jnp.concatenate([reverse(x), jnp.zeros((C, C), x.dtype)], axis=1)
    return pltpu.roll(x, 1, 1, stride=1, stride_axis=0)


def reverse(x):
    """Rows in reverse order: first the registers of 8 rows of 32 bits, then the rows within each."""
    order = 7 - jax.lax.broadcasted_iota(jnp.int32, (8, x.shape[1]), 0)
    registers = [x.astype(jnp.float32)[first : first + 8] for first in range(len(x) - 8, -1, -8)]
    return jnp.concatenate([jnp.take_along_axis(register, order, axis=0) for register in registers]).astype(x.dtype)
