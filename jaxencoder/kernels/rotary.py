"""Rotary positions: queries and keys turned by the angles of their positions (Su et al. 2021, arXiv:2104.09864)."""

import jax
import jax.numpy as jnp

from jaxencoder.kernels.platform import platform

Table = tuple[jax.Array, jax.Array]  # cosines and sines, each [B, T, 1, H / 2] float32


def rotate(x: jax.Array, table: Table) -> jax.Array:
    """Rotate queries or keys [B, T, N, H] by their positions' angles; computed in float32, returned in x's dtype."""
    cos, sin = table
    if platform() == "tpu" and x.dtype == jnp.bfloat16:
        return _rotate_by_product(x, *(jnp.concatenate([part, part], axis=-1) for part in table))
    a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)  # the pairs (i, i + H / 2), as in GPT-NeoX and ModernBERT
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)


def swap_halves(size: int, dtype: jnp.dtype) -> jax.Array:
    """The matrix [H, H] whose product with (a, b) is (-b, a), for halves a and b: exact, with one 1 in each column."""
    half = size // 2
    return jnp.eye(size, k=half, dtype=dtype) - jnp.eye(size, k=-half, dtype=dtype)


@jax.custom_vjp
def _rotate_by_product(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """`rotate` with cosines and sines of each item of H, [B, T, 1, H].

    A TPU has registers of 128 columns: to move the halves of a head within them takes longer than a product with a
    matrix that swaps them, and much longer than the rotation.
    """
    swapped = jnp.einsum("BTNH,HG->BTNG", x, swap_halves(x.shape[-1], x.dtype), preferred_element_type=jnp.float32)
    return (x.astype(jnp.float32) * cos + swapped * sin).astype(x.dtype)


def _rotate_back(table: Table, dy: jax.Array) -> tuple[jax.Array, None, None]:
    cos, sin = table
    return _rotate_by_product(dy, cos, -sin), None, None


_rotate_by_product.defvjp(lambda x, cos, sin: (_rotate_by_product(x, cos, sin), (cos, sin)), _rotate_back)
