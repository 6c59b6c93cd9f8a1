"""Operations with custom gradients that are fast on CPUs: projections, norms and GELU."""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from jaxencoder.kernels.platform import platform

PRODUCT = "product"  # name of a projection's output for remat policies, which do not see into a custom gradient


def project(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Sum over the axes of x [B, T, ...] after the first two, which are the kernel's first ones.

    Accumulates in float32. The result is float32 on a CPU and has the dtype of x elsewhere.
    """
    if platform() != "tpu":
        return checkpoint_name(_project(x, kernel), PRODUCT)
    # An axis of heads, of which each fills half of a register, would double the array in memory: there is none while
    # the product and its gradients are computed and kept.
    inputs, outputs = kernel.shape[: x.ndim - 2], kernel.shape[x.ndim - 2 :]
    x, kernel = x.reshape(*x.shape[:2], -1), kernel.reshape(math.prod(inputs), -1)
    return checkpoint_name(_project(x, kernel), PRODUCT).reshape(*x.shape[:2], *outputs)


@jax.custom_vjp
def _project(x: jax.Array, kernel: jax.Array) -> jax.Array:
    # XLA's CPU backend multiplies bfloat16 several times faster into float32 than into bfloat16. Elsewhere the
    # accumulation is float32 for any output dtype, and a narrow output saves bandwidth.
    dtype = jnp.float32 if platform() == "cpu" else x.dtype
    return jnp.tensordot(x, kernel, x.ndim - 2, preferred_element_type=dtype)


def _project_backward(residuals, dy):
    # XLA's CPU backend copies the left factor of the kernel's gradient into columns, together with the computation of
    # that factor. jax puts dy on the left: for ModernBERT, the derivative of the gated activation, read with strides of
    # a power of two, was 45% of a step. Here the narrower factor is on the left (BERT: 7% faster), and the barrier
    # keeps XLA from swapping the factors where the result needs a transpose.
    x, kernel = (factor.astype(dy.dtype) for factor in residuals)  # float32 on a CPU, as dy
    product = partial(jax.lax.dot_general, preferred_element_type=dy.dtype)
    inputs, outputs = x.ndim - 2, dy.ndim - 2  # numbers of the kernel's axes
    dx = product(dy, kernel, ((range(2, dy.ndim), range(inputs, kernel.ndim)), ((), ())))
    rows = (((0, 1), (0, 1)), ((), ()))  # sums over B and T
    if platform() != "cpu" or math.prod(x.shape[2:]) <= math.prod(dy.shape[2:]):
        dkernel = product(x, dy, rows)
    else:
        dkernel = jax.lax.optimization_barrier(product(dy, x, rows))
        dkernel = jnp.moveaxis(dkernel, range(outputs), range(-outputs, 0))
    return dx.astype(residuals[0].dtype), dkernel.astype(residuals[1].dtype)


_project.defvjp(lambda x, kernel: (_project(x, kernel), (x, kernel)), _project_backward)


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def normalize(x: jax.Array, scale: jax.Array, bias: jax.Array | None, epsilon: float, centered: bool) -> jax.Array:
    """Layer norm (Ba et al. 2016, arXiv:1607.06450) or, not centered, RMS norm (Zhang and Sennrich 2019,
    arXiv:1910.07467) of x [..., D] with scale and bias [D], computed in float32, in the dtype of x."""
    y, factor = _unscaled(x, epsilon, centered)
    y *= factor * scale
    return (y if bias is None else y + bias).astype(x.dtype)


def _unscaled(x: jax.Array, epsilon: float, centered: bool) -> tuple[jax.Array, jax.Array]:
    """x in float32, of mean 0 if centered, and the factor that gives it variance 1."""
    y = x.astype(jnp.float32)
    if centered:
        y -= y.mean(-1, keepdims=True)
    return y, jax.lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + epsilon)


def _normalize_backward(epsilon, centered, residuals, dy):
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


normalize.defvjp(
    lambda x, scale, bias, *static: (normalize(x, scale, bias, *static), (x, scale, bias)), _normalize_backward
)


@jax.custom_vjp
def gelu(x: jax.Array) -> jax.Array:
    """x times the normal distribution function at x, in float32 (Hendrycks and Gimpel 2016, arXiv:1606.08415)."""
    # jax.nn.gelu uses erfc, which is more exact for x < -3, where gelu(x) is almost 0, but makes an MLP and its
    # gradients twice as slow on a CPU.
    y = x.astype(jnp.float32)
    return (y * _normal_cdf(y)).astype(x.dtype)


def _gelu_backward(x, dy):
    # Behind the barrier erf is recomputed; otherwise XLA stores it in the forward pass, as large as x.
    y = jax.lax.optimization_barrier(x).astype(jnp.float32)
    density = jnp.exp(-0.5 * y * y) * (2 * math.pi) ** -0.5  # of the normal distribution
    return ((dy * (_normal_cdf(y) + y * density)).astype(x.dtype),)


def _normal_cdf(y: jax.Array) -> jax.Array:
    return 0.5 * (1 + jax.lax.erf(y * 2**-0.5))


gelu.defvjp(lambda x: (gelu(x), x), _gelu_backward)
