"""Layout of TPU kernels' arrays: tiles of whole registers, heads first, and segments of the padding."""

import jax
import jax.numpy as jnp

LANES = 128  # columns of a register


def tile_length(length: int, longest: int) -> int:
    """The smallest multiple of 128 tokens that needs as few tiles to cover a length as the longest tile."""
    tiles = -(-length // longest)
    return -(-length // (tiles * LANES)) * LANES


def heads_first(x: jax.Array, pad: int) -> jax.Array:
    """[B, T, N, H] -> [B, N, T + pad, H]"""
    return jnp.swapaxes(jnp.pad(x, [(0, 0), (0, pad), (0, 0), (0, 0)]), 1, 2)


def pad_segments(q_segments: jax.Array, k_segments: jax.Array, q_pad: int, k_pad: int) -> tuple[jax.Array, jax.Array]:
    """Segments of padded queries and keys. Padding and segment -1 become -2 for queries and -1 for keys: equal numbers
    would let them see each other."""
    q_segments = jnp.pad(jnp.where(q_segments < 0, -2, q_segments), [(0, 0), (0, q_pad)], constant_values=-2)
    k_segments = jnp.pad(jnp.where(k_segments < 0, -1, k_segments), [(0, 0), (0, k_pad)], constant_values=-1)
    return q_segments, k_segments
