"""Products counted in every kind of loop and branch, and bytes of compiled programs that never run."""

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import pallas as pl
from jax.sharding import AbstractMesh, PartitionSpec

from jaxencoder.training.program import product_flops, program

A, B, C = 8, 16, 16
ONE = 2.0 * A * B * C
X, W = jax.ShapeDtypeStruct((A, B), jnp.float32), jax.ShapeDtypeStruct((5, B, C), jnp.float32)


def flops(function, *arguments) -> float:
    return product_flops(jax.make_jaxpr(function)(*arguments).jaxpr)


def scanned(x, w):
    return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w)[0].sum()


@pytest.mark.parametrize(
    ("function", "products"),
    [
        (lambda x, w: x @ w[0], 1),
        (lambda x, w: jnp.einsum("ab,lbc->alc", x, w), 5),
        (scanned, 5),
        (jax.grad(scanned, (0, 1)), 15),
        (jax.grad(jax.checkpoint(scanned), (0, 1)), 20),
        (lambda x, w: jax.lax.scan(lambda c, _: (c + scanned(x, w), None), 0.0, None, 3), 15),
        (lambda x, w: jax.lax.cond(x[0, 0] > 0, lambda: x @ w[0], lambda: x @ w[0] @ w[1]), 2),
        (lambda x, w: jax.lax.while_loop(lambda y: y[0, 0] > 0, lambda y: y @ w[0], x), 1),
        (lambda x, w: jax.jit(scanned)(x, w) + jnp.exp(x).sum(), 5),
    ],
)
def test_products(function, products: int) -> None:
    assert flops(function, X, W) == products * ONE


def test_products_on_every_device() -> None:
    """Sharded products count once, replicated ones once per device."""
    mesh = AbstractMesh((4,), ("rows",), axis_types=(jax.sharding.AxisType.Auto,))
    rows, replicated = PartitionSpec("rows"), PartitionSpec()

    def multiply(places: PartitionSpec):
        return jax.shard_map(jnp.matmul, mesh=mesh, in_specs=(places, replicated), out_specs=places)

    w = jax.ShapeDtypeStruct((B, C), jnp.float32)
    assert flops(multiply(rows), X, w) == ONE
    assert flops(multiply(replicated), X, w) == 4 * ONE


def test_products_of_a_kernel() -> None:
    """Once per point of the grid, unless the kernel has a cost estimate."""

    def multiply(x, w, **settings):
        def kernel(x, w, out):
            out[...] = x[...] @ w[...]

        places = [pl.BlockSpec((A // 4, B), lambda i: (i, 0)), pl.BlockSpec((B, C), lambda i: (0, 0))]
        shape, out = jax.ShapeDtypeStruct((A, C), jnp.float32), pl.BlockSpec((A // 4, C), lambda i: (i, 0))
        return pl.pallas_call(kernel, shape, grid=(4,), in_specs=places, out_specs=out, **settings)(x, w)

    w = jax.ShapeDtypeStruct((B, C), jnp.float32)
    assert flops(multiply, X, w) == ONE
    estimate = pl.CostEstimate(flops=7, bytes_accessed=0, transcendentals=0)
    assert flops(lambda x, w: multiply(x, w, cost_estimate=estimate), X, w) == 7


@pytest.mark.parametrize("groups", [1, 4])
def test_convolution_as_xla_counts_it(groups: int) -> None:
    x, kernel = jax.ShapeDtypeStruct((2, 8, 30), jnp.float32), jax.ShapeDtypeStruct((12, 8 // groups, 5), jnp.float32)

    def convolve(x, kernel):
        return jax.lax.conv_general_dilated(x, kernel, (1,), "VALID", feature_group_count=groups)

    by_xla = jax.jit(convolve).lower(x, kernel).compile().cost_analysis()["flops"]
    assert flops(convolve, x, kernel) == by_xla == 2 * 2 * 12 * 26 * (8 // groups) * 5


def test_a_compiled_program() -> None:
    made = program(jax.jit(lambda x, w: (jnp.sin(x @ w[0]) @ w[1]).sum(0)), X, W)
    assert made.flops == 2 * ONE
    assert (made.arguments, made.outputs) == (4 * (A * B + 5 * B * C), 4 * C)
    assert made.temporaries >= 4 * A * C


def test_scores_in_a_loop_are_seen() -> None:
    """Temporaries that a fused call of XLA's CPU backend hides from its memory analysis."""
    T, N, H = 1024, 4, 64

    def attend(x, _):
        scores = jnp.einsum("TNH,SNH->NTS", x, x)
        scores += jnp.where(x[:, None, 0, 0] > x[:, 0, 0], 0.0, -1e30)
        weights = jnp.exp(scores - scores.max(-1, keepdims=True))
        return jnp.swapaxes(jnp.einsum("NTS,SNH->NTH", weights, x) / weights.sum(-1, keepdims=True), 0, 1), None

    made = program(jax.jit(lambda x: jax.lax.scan(attend, x, None, 5)[0]), jax.ShapeDtypeStruct((T, N, H), jnp.float32))
    assert made.flops == 5 * 2 * 2.0 * N * T * T * H
    assert made.temporaries > 4 * N * T * T


def test_a_program_larger_than_any_machine() -> None:
    """2 PiB: it still compiles."""
    x = jax.ShapeDtypeStruct((2**24, 2**24), jnp.float32)
    assert program(jax.jit(lambda x: x @ x), x).outputs == 2**50
