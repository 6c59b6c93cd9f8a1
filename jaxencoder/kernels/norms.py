"""Layer norm (Ba et al. 2016, arXiv:1607.06450) and RMS norm (Zhang and Sennrich 2019, arXiv:1910.07467)."""

from functools import partial

import jax
import jax.numpy as jnp


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def normalize(x: jax.Array, scale: jax.Array, bias: jax.Array | None, epsilon: float, centered: bool) -> jax.Array:
    """Norm over the last axis, computed in float32: [..., D] -> [..., D] in the dtype of x.

    Args:
        x: [..., D].
        scale, bias: [D]; None for no bias.
        epsilon: added to the variance.
        centered: subtract the mean (layer norm) or not (RMS norm).
    """
    y, factor = _unscaled(x, epsilon, centered)
    y *= factor * scale
    return (y if bias is None else y + bias).astype(x.dtype)


def _unscaled(x: jax.Array, epsilon: float, centered: bool) -> tuple[jax.Array, jax.Array]:
    """x in float32, of mean 0 if centered, and the factor that gives it variance 1."""
    y = x.astype(jnp.float32)
    if centered:
        y -= y.mean(-1, keepdims=True)
    return y, jax.lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + epsilon)


def _backward(
    epsilon: float, centered: bool, residuals: tuple[jax.Array, jax.Array, jax.Array | None], dy: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    # Closed form from x alone. The gradient that jax derives keeps float32 values as large as x, and XLA's CPU backend
    # turns it into a library call that takes 4 to 10 times as long.
    x, scale, bias = residuals
    y, factor = _unscaled(x, epsilon, centered)
    y *= factor
    dy = dy.astype(jnp.float32)
    rows = tuple(range(dy.ndim - 1))  # all axes but D
    d = dy * scale  # gradient of the normalized values
    dx = d - y * (d * y).mean(-1, keepdims=True)
    if centered:
        dx -= d.mean(-1, keepdims=True)
    dx = (dx * factor).astype(x.dtype)
    return dx, (dy * y).sum(rows).astype(scale.dtype), None if bias is None else dy.sum(rows).astype(bias.dtype)


normalize.defvjp(lambda x, scale, bias, *static: (normalize(x, scale, bias, *static), (x, scale, bias)), _backward)
