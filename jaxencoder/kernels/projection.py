"""Products of activations and kernels, with gradients in the order that is fast on CPUs."""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from jaxencoder.kernels.platform import platform

PRODUCT = "product"  # name of a projection's output for remat policies, which do not see into a custom gradient


def project(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Sum over the axes that x [B, T, ...] and the kernel share: x's after the first two, the kernel's first ones.

    Accumulates in float32. The result is float32 on a CPU and has the dtype of x elsewhere.
    """
    return checkpoint_name(_project(x, kernel), PRODUCT)


@jax.custom_vjp
def _project(x: jax.Array, kernel: jax.Array) -> jax.Array:
    # XLA's CPU backend multiplies bfloat16 several times faster into float32 than into bfloat16. Elsewhere the
    # accumulation is float32 for any output dtype, and a narrow output saves bandwidth.
    dtype = jnp.float32 if platform() == "cpu" else x.dtype
    return jnp.tensordot(x, kernel, x.ndim - 2, preferred_element_type=dtype)


def _forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _project(x, kernel), (x, kernel)


def _backward(residuals: tuple[jax.Array, jax.Array], dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    # XLA's CPU backend copies the left factor of the kernel's gradient into columns, together with the computation of
    # that factor. jax puts dy on the left: for ModernBERT, the derivative of the gated activation, read with strides of
    # a power of two, was 45% of a step. Here the narrower factor is on the left (BERT: 7% faster), and the barrier
    # keeps XLA from swapping the factors where the result needs a transpose.
    x, kernel = (factor.astype(dy.dtype) for factor in residuals)  # float32 on a CPU, as dy
    product = partial(jax.lax.dot_general, preferred_element_type=dy.dtype)
    inputs, outputs = x.ndim - 2, dy.ndim - 2
    dx = product(dy, kernel, ((range(2, dy.ndim), range(inputs, kernel.ndim)), ((), ())))
    rows = (((0, 1), (0, 1)), ((), ()))  # sums over B and T
    if platform() != "cpu" or math.prod(x.shape[2:]) <= math.prod(dy.shape[2:]):
        dkernel = product(x, dy, rows)
    else:
        dkernel = jax.lax.optimization_barrier(product(dy, x, rows))
        dkernel = jnp.moveaxis(dkernel, range(outputs), range(-outputs, 0))
    return dx.astype(residuals[0].dtype), dkernel.astype(residuals[1].dtype)


_project.defvjp(_forward, _backward)
