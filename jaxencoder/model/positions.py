"""Rotary positions: pairs of a head's dimensions turn by an angle that grows with the position.

Su et al. 2021, RoFormer, arXiv:2104.09864; the pairs are (i, i + H/2), as in GPT-NeoX and ModernBERT.
"""

import jax
import jax.numpy as jnp


def rotary_table(positions: jax.Array, head_size: int, theta: float) -> tuple[jax.Array, jax.Array]:
    """Cosines and sines of every position.

    Args:
        positions: [B, T] int.
        head_size: H, even.
        theta: base of the geometric series of wavelengths, 2 pi ... 2 pi theta (tokens).

    Returns:
        (cos, sin), each [B, T, 1, H / 2] float32.
    """
    frequencies = theta ** (-jnp.arange(0, head_size, 2, dtype=jnp.float32) / head_size)
    angles = positions[..., None, None].astype(jnp.float32) * frequencies
    return jnp.cos(angles), jnp.sin(angles)


def rotate(x: jax.Array, table: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Turn queries or keys [B, T, N, H] by their positions' angles; computed in float32, returned in x's dtype."""
    cos, sin = table
    a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)
