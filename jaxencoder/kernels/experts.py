"""A mixture of experts: each token is computed by a few of many MLPs (Shazeer et al. 2017, arXiv:1701.06538).

Assignments of a token to an expert are grouped into blocks of equal size, each of one expert, so that no token is
dropped and the cost grows with the assignments instead of the experts (Gale et al. 2022, MegaBlocks, arXiv:2211.15841).
`jax.lax.ragged_dot` does that on TPUs only: elsewhere it multiplies every row by every expert.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from jaxencoder.kernels.gradients import PRODUCT
from jaxencoder.kernels.platform import platform
from jaxencoder.sharding import ROWS, P, splitting_axes

Kernels = Mapping[str, jax.Array]  # up and perhaps gate [E, D, F], down [E, F, D]; one MLP for each of E experts
Activation = Callable[[jax.Array], jax.Array]
_CPU_BLOCK, _BLOCK = 64, 512  # rows of a product: as few as keep the device busy, since blocks are padded


class Blocks(NamedTuple):
    """Places of A assignments in R blocks of rows."""

    places: jax.Array  # [A] int32, below R * size
    experts: jax.Array  # [R] int32, the expert of each block


def mixture_on_mesh(
    x: jax.Array, weights: jax.Array, experts: jax.Array, kernels: Kernels, activate: Activation
) -> jax.Array:
    """`mixture`, computed on each device of the mesh in use for its tokens and its part of F.

    Args:
        x: [B, T, D].
        weights: [B, T, K] float32, of each token's experts.
        experts: [B, T, K] int32, each token's experts.
        kernels: of the experts, in the dtype of x.
        activate: the activation function.

    Returns:
        [B, T, D] in the dtype of x.
    """
    mesh = jax.sharding.get_abstract_mesh()  # empty outside of jax.set_mesh
    if mesh.empty or mesh.size == 1:
        return mixture(x, weights, experts, kernels, activate)
    rows, context = splitting_axes(mesh, x.shape[0], ROWS), splitting_axes(mesh, x.shape[1], ("context",))
    inner = splitting_axes(mesh, kernels["down"].shape[1], ("tensor",))
    tokens = P(rows or None, context or None, None)
    splits = {name: P(None, inner or None) if name == "down" else P(None, None, inner or None) for name in kernels}

    def local(x: jax.Array, weights: jax.Array, experts: jax.Array, kernels: Kernels) -> jax.Array:
        y = mixture(x, weights, experts, kernels, activate)
        return jax.lax.psum(y, inner) if inner else y

    sharded = jax.shard_map(local, in_specs=(tokens, tokens, tokens, splits), out_specs=tokens, check_vma=False)
    return sharded(x, weights, experts, dict(kernels))


def mixture(x: jax.Array, weights: jax.Array, experts: jax.Array, kernels: Kernels, activate: Activation) -> jax.Array:
    """Sum of the outputs of each token's experts, times their weights; arguments as in `mixture_on_mesh`."""
    D, E, K, size = x.shape[-1], len(kernels["up"]), weights.shape[-1], _CPU_BLOCK if platform() == "cpu" else _BLOCK
    tokens, weights, experts = x.reshape(-1, D), weights.reshape(-1, K), experts.reshape(-1, K)
    # Blocks of few tokens would be mostly padding, and a program for any platform does not know how many it will get.
    if platform() == "any" or _number_of_blocks(experts.size, E, size) * size >= E * len(tokens):
        return every_expert(tokens, weights, experts, kernels, activate).reshape(x.shape)
    blocks = blocks_of(experts.reshape(-1), E, size)
    R = len(blocks.experts)
    assigned = jnp.full(R * size, experts.size).at[blocks.places].set(jnp.arange(experts.size), unique_indices=True)
    # A row without an assignment is out of bounds: its input is 0, and nothing reads its output.
    rows = jnp.repeat(tokens, K, axis=0).at[assigned].get(mode="fill", fill_value=0)
    multiply = partial(multiply_blocks, experts=blocks.experts)
    y = _mlp(rows.reshape(R, size, D), kernels, activate, lambda h, kernel: multiply(h, kernel).astype(x.dtype))
    y = y.reshape(-1, D).at[blocks.places].get(unique_indices=True).reshape(*weights.shape, D)
    return jnp.einsum("MKD,MK->MD", y, weights).astype(x.dtype).reshape(x.shape)


def every_expert(
    tokens: jax.Array, weights: jax.Array, experts: jax.Array, kernels: Kernels, activate: Activation
) -> jax.Array:
    """`mixture` of tokens [M, D] through the outputs of all experts: the reference, and faster for few tokens."""
    E = len(kernels["up"])
    y = _mlp(
        jnp.broadcast_to(tokens, (E, *tokens.shape)),
        kernels,
        activate,
        lambda h, kernel: jnp.einsum("EMI,EIO->EMO", h, kernel),
    )
    all_weights = jnp.einsum("MK,MKE->ME", weights, jax.nn.one_hot(experts, E))
    return jnp.einsum("EMD,ME->MD", y, all_weights).astype(tokens.dtype)


def _mlp(
    x: jax.Array, kernels: Kernels, activate: Activation, multiply: Callable[[jax.Array, jax.Array], jax.Array]
) -> jax.Array:
    h = multiply(x, kernels["up"])
    h = activate(multiply(x, kernels["gate"])) * h if "gate" in kernels else activate(h)
    return multiply(h, kernels["down"])


def blocks_of(experts: jax.Array, number: int, size: int) -> Blocks:
    """Blocks of `size` rows for assignments to `number` experts, [A] int32; in order of expert, then of assignment."""
    counts = jnp.cumsum(experts[:, None] == jnp.arange(number), axis=0)  # [A, E], of each expert up to an assignment
    needed = -(-counts[-1] // size)  # [E], blocks of each expert
    ends = jnp.cumsum(needed)
    rank = jnp.take_along_axis(counts, experts[:, None], axis=1)[:, 0] - 1
    block = jnp.arange(_number_of_blocks(len(experts), number, size))
    return Blocks(
        (ends - needed)[experts] * size + rank, jnp.searchsorted(ends, block, side="right").clip(0, number - 1)
    )


def _number_of_blocks(assignments: int, experts: int, size: int) -> int:
    """The most that can be needed, when each expert's last block holds a single assignment."""
    return (assignments + experts * (size - 1)) // size


def multiply_blocks(x: jax.Array, kernels: jax.Array, experts: jax.Array) -> jax.Array:
    """Product of each block [R, size, I] with its expert's kernel, of [E, I, O]: [R, size, O], float32 on a CPU."""
    return checkpoint_name(_multiply_blocks(x, kernels, experts), PRODUCT)


@jax.custom_vjp
def _multiply_blocks(x: jax.Array, kernels: jax.Array, experts: jax.Array) -> jax.Array:
    product = partial(jnp.dot, preferred_element_type=jnp.float32 if platform() == "cpu" else x.dtype)
    # A loop reads each kernel where it is; a batched product would first copy one for each block.
    return jax.lax.map(lambda block: product(block[0], kernels[block[1]]), (x, experts))


def _multiply_blocks_backward(residuals, dy):
    # The gradient that jax derives of a kernel read in a loop adds all experts' kernels once for each block.
    x, kernels, experts = residuals
    product = partial(jnp.dot, preferred_element_type=jnp.float32)

    def step(dkernels, block):
        x, dy, expert = block
        dx = product(dy, kernels[expert].T.astype(dy.dtype)).astype(x.dtype)
        return dkernels.at[expert].add(product(x.T.astype(dy.dtype), dy)), dx

    dkernels, dx = jax.lax.scan(step, jnp.zeros(kernels.shape, jnp.float32), (x, dy, experts))
    return dx, dkernels.astype(kernels.dtype), None


_multiply_blocks.defvjp(lambda *inputs: (_multiply_blocks(*inputs), inputs), _multiply_blocks_backward)
