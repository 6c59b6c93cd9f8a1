"""The compiler for NVIDIA GPUs accepts every backend chosen for them, forward and backward."""

import importlib
import os
import sys
from functools import partial

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import SingleDeviceSharding

from benchmarks.accelerators import count_kernels, devices
from jaxencoder.kernels.attention import attention
from jaxencoder.kernels.experts import mixture
from jaxencoder.kernels.inputs import AttentionOptions
from jaxencoder.kernels.relative import RelativeTerms
from jaxencoder.sharding import MeshConfig, make_mesh

B, N, LONG = 2, 2, 8192


@pytest.fixture(scope="session")
def compiler() -> None:
    """Load it from a separate folder: if jax finds it by itself, every process warns that there is no GPU."""
    folder = os.environ.get("JAXENCODER_GPU_COMPILER")
    if not folder:
        pytest.skip("JAXENCODER_GPU_COMPILER names no folder with jax-cuda12-pjrt and jax-cuda12-plugin")
    sys.path.append(folder)
    importlib.import_module("jax_plugins.xla_cuda12").initialize()


@pytest.fixture(scope="module", params=["T4", "L4", "H100"])
def gpu(request: pytest.FixtureRequest, compiler: None) -> str:
    return request.param


def compiled(gpu: str, T: int, H: int, dtype: str, terms: bool = False, **options):
    """Values and gradients of attention, and their program."""
    chips = devices(gpu)
    chip = SingleDeviceSharding(chips[0])

    def shape(*sizes: int, dtype: str = dtype) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(sizes, dtype, sharding=chip)

    def run(q, k, v, relative, ids, seed):
        settings = {"key": jax.random.key(seed), "options": AttentionOptions(**options)}
        loss = lambda *x: attention(*x[:3], ids, relative=x[3], **settings).astype(jnp.float32).sum()  # noqa: E731
        return jax.value_and_grad(loss, range(4))(q, k, v, relative)

    table = shape(2 * T - 1, N, H)
    relative = RelativeTerms(table, table, shape(2 * T - 1, N, dtype="float32")) if terms else None
    x, ids, seed = shape(B, T, N, H), shape(B, T, dtype="int32"), shape(dtype="uint32")
    with jax.set_mesh(make_mesh(MeshConfig(), chips)):
        return jax.jit(run).lower(x, x, x, relative, ids, seed).compile()


def of_all_scores(program, T: int) -> float:
    """Temporaries as a share of a float32 array of all scores."""
    return program.memory_analysis().temp_size_in_bytes / (B * N * T**2 * 4)


@pytest.mark.parametrize(("T", "H", "dtype"), [(512, 64, "bfloat16"), (300, 24, "float32"), (LONG, 128, "float32")])
def test_global(gpu: str, T: int, H: int, dtype: str) -> None:
    program = compiled(gpu, T, H, dtype)
    called = {"mha_forward": 1, "mha_preprocess_backward": 1, "mha_backward": 1}
    assert count_kernels(program.as_text()) == ({} if gpu == "T4" else called)
    assert T < LONG or of_all_scores(program, T) < 1


def test_local(gpu: str) -> None:
    assert of_all_scores(compiled(gpu, LONG, 64, "bfloat16", window=64), LONG) < 1 / 4


@pytest.mark.parametrize("T", [512, LONG])
def test_distances_and_dropout(gpu: str, T: int) -> None:
    program = compiled(gpu, T, 64, "bfloat16", terms=True, dropout=0.1)
    assert not count_kernels(program.as_text())
    assert T < LONG or of_all_scores(program, T) < 1


@pytest.mark.parametrize("gpu", ["H100"], indirect=True)
def test_experts(gpu: str) -> None:
    """Loops over blocks read kernels where they are: no copy for each block, no product with every expert."""
    chips = devices(gpu)
    chip = SingleDeviceSharding(chips[0])
    tokens, D, F, E, K = 4096, 768, 3072, 8, 2

    def loss(x, weights, experts, kernels):
        return mixture(x, weights, experts, kernels, jnp.tanh).astype(jnp.float32).sum()

    shape = partial(jax.ShapeDtypeStruct, sharding=chip)
    kernels = {"up": shape((E, D, F), "bfloat16"), "down": shape((E, F, D), "bfloat16")}
    x, weights = shape((1, tokens, D), "bfloat16"), shape((1, tokens, K), "float32")
    with jax.set_mesh(make_mesh(MeshConfig(), chips)):
        step = jax.jit(jax.value_and_grad(loss, (0, 1, 3)))
        program = step.lower(x, weights, shape((1, tokens, K), "int32"), kernels).compile()
    every = E * tokens * F * 2  # bytes of the activations of every expert
    assert program.memory_analysis().temp_size_in_bytes < 2 * every
