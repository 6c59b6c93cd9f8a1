"""The kernel for NVIDIA GPUs: interpreted it equals softmax written out in numpy; compiled, it is in the program."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.core import ShapedArray
from jax.extend.core import Jaxpr, jaxprs_in_params
from jax.sharding import AbstractDevice, AbstractMesh

from jaxencoder.kernels.attention import attention
from jaxencoder.kernels.dense import dense
from jaxencoder.kernels.inputs import AttentionInputs, AttentionOptions
from jaxencoder.kernels.triton import runs, triton
from tests.kernels.examples import inputs, padded, reference, segments

CASES = [(1, "float32", 1e-5), (150, "float32", 1e-5), (150, "bfloat16", 2e-2)]


@pytest.mark.parametrize(
    ("rows", "causal", "T", "dtype", "tolerance"),
    [*((rows, False, *case) for rows in (segments, padded) for case in CASES), (segments, True, *CASES[1])],
)
def test_equals_numpy_in_values_and_dense_in_gradients(rows, causal, T: int, dtype: str, tolerance: float) -> None:
    q, k, v = (x[:2] / 2 for x in inputs(T, dtype))
    ids = rows(T)[[1, 2]]
    is_token = (ids > 0)[..., None, None]
    scale = q.shape[-1] ** -0.5

    def differentiated(f) -> tuple:
        def loss(q: jax.Array, k: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array]:
            out = f(q * scale, k, v).astype(jnp.float32)
            return (out * is_token * np.cos(np.arange(T))[:, None, None]).sum(), out

        (_, out), gradients = jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))(q, k, v)
        return out, gradients

    segments_, options = jnp.asarray(ids), AttentionOptions(causal=causal)

    def attention_inputs(*arrays: jax.Array) -> AttentionInputs:
        return AttentionInputs(*arrays, None, segments_, segments_)

    out, gradients = differentiated(lambda *x: triton(attention_inputs(*x), options, interpret=True))
    _, expected = differentiated(lambda *x: dense(attention_inputs(*x), options))
    exact = reference(q, k, v, ids, 0, causal=causal)
    np.testing.assert_allclose(np.where(is_token, out, 0), np.where(is_token, exact, 0), atol=tolerance)
    for a, b in zip(expected, gradients, strict=True):
        a, b = (np.asarray(x, np.float32) for x in (a, b))
        np.testing.assert_allclose(b, a, atol=tolerance * max(1, np.abs(a).max()))


def on(kind: str):
    """A machine that is not attached."""
    mesh = AbstractMesh((), (), abstract_device=AbstractDevice(kind, None, "gpu"))
    return jax.sharding.use_abstract_mesh(mesh)


def test_old_gpus_and_a_jax_without_it_get_another_backend(monkeypatch) -> None:
    x, ids = jax.ShapeDtypeStruct((2, 512, 2, 64), jnp.float32), jax.ShapeDtypeStruct((2, 512), jnp.int32)

    def kernels(kind: str) -> int:
        with on(kind):
            program = jax.jit(lambda *x: attention(*x)).trace(x, x, x, ids).lower(lowering_platforms=("cuda",))
        return program.as_text().count("@__gpu$xla.gpu.triton")

    assert kernels("NVIDIA H100") == 1 and kernels("Tesla T4") == 0
    assert runs()
    monkeypatch.setattr("jaxencoder.kernels.triton._MODULE", "jax.experimental.pallas.ops.gpu.gone")
    assert not runs()


def summed(q: jax.Array, k: jax.Array, v: jax.Array, ids: jax.Array) -> jax.Array:
    return triton(AttentionInputs(q, k, v, None, ids, ids)).astype(jnp.float32).sum()


def test_a_program_for_a_gpu_has_its_kernels() -> None:
    x, ids = jax.ShapeDtypeStruct((2, 512, 2, 64), jnp.bfloat16), jax.ShapeDtypeStruct((2, 512), jnp.int32)
    gradient = jax.jit(jax.grad(summed, (0, 1, 2)))
    with on("NVIDIA H100"):
        program = gradient.trace(x, x, x, ids).lower(lowering_platforms=("cuda",)).as_text()
    assert program.count("stablehlo.custom_call @__gpu$xla.gpu.triton") == 3  # forward, its sums, backward


@pytest.mark.parametrize(
    ("H", "dtype", "most"),
    [(4, "bfloat16", 64), (64, "bfloat16", 64), (128, "float32", 32), (200, "bfloat16", 32), (256, "float32", 16)],
)
def test_products_fit_tensor_cores_and_shared_memory(H: int, dtype: str, most: int) -> None:
    x, ids = jax.ShapeDtypeStruct((1, 130, 1, H), dtype), jax.ShapeDtypeStruct((1, 130), jnp.int32)
    gradient = jax.grad(summed, (0, 1, 2))
    operands = list(_operands(jax.make_jaxpr(gradient)(x, x, x, ids).jaxpr))
    assert len(operands) == 2 * (2 + 7)  # of the products forward and backward
    assert min(size for operand in operands for size in operand.shape) >= 16
    assert max(operand.size * operand.dtype.itemsize for operand in operands) <= 1 << 14
    assert max(min(operand.shape) for operand in operands) == most


def _operands(jaxpr: Jaxpr) -> Iterator[ShapedArray]:
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield from (operand.aval for operand in equation.invars)
        for inner in jaxprs_in_params(equation.params):
            yield from _operands(inner)
