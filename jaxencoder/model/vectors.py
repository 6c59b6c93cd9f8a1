"""Lengths of vectors, with finite gradients at zero: absent texts of a batch have zero vectors."""

import jax
import jax.numpy as jnp


def length(vectors: jax.Array) -> jax.Array:
    """Euclidean lengths [...] of vectors [..., D]; the gradient at a zero vector is 0."""
    return root(jnp.square(vectors).sum(-1))


def root(squares: jax.Array) -> jax.Array:
    """Square roots, with the gradient 0 at 0 in place of infinity."""
    is_zero = squares == 0
    return jnp.where(is_zero, 0, jnp.sqrt(jnp.where(is_zero, 1, squares)))


def unit(vectors: jax.Array) -> jax.Array:
    """Vectors [..., D] scaled to length 1. A zero vector stays, and its gradient is 0.

    torch divides by 1e-12 there, so that its gradient has a length of about 1e12.
    """
    lengths = length(vectors)[..., None]
    is_zero = lengths == 0
    return jnp.where(is_zero, 0, vectors / jnp.where(is_zero, 1, lengths))
