"""Diagonals of a tile aligned as columns, and the inverse, inside TPU kernels: each row is rotated one step further.

The vector unit of a TPU rotates row a of a register by a times a stride in one instruction (`pltpu.roll`), to the right
only; no gather is needed.
"""

import jax
import jax.numpy as jnp
from jax.experimental.pallas import tpu as pltpu

from jaxencoder.kernels.tiles import LANES


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
