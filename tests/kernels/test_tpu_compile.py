"""The TPU compiler accepts the kernels, forward and backward: it refuses much that interpretation allows."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding

from jaxencoder.kernels.experts import mixture
from jaxencoder.kernels.inputs import ATTENDED, AttentionInputs, AttentionOptions
from jaxencoder.kernels.relative import RelativeTerms
from jaxencoder.kernels.single_pass import single_pass
from jaxencoder.kernels.splash import splash
from jaxencoder.kernels.tiled import tiled

pytest.importorskip("libtpu", reason="needs the compiler of TPUs: pip install 'jax[tpu]'")
B, N = 2, 2


@pytest.fixture(scope="module", params=["v5e:2x2", "v6e:2x2"])
def chip(request: pytest.FixtureRequest) -> SingleDeviceSharding:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TPU_SKIP_MDS_QUERY", "1")  # there is no TPU to ask
        patch.setenv("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # compilers do not compete for a chip
        topology = topologies.get_topology_desc(platform="tpu", topology_name=request.param)
    return SingleDeviceSharding(topology.devices[0])


def program(attend, chip: SingleDeviceSharding, T: int, H: int, dtype: str, terms: bool, window: int = 0) -> str:
    """The compiled text of values and gradients."""

    def shape(*sizes: int, dtype: str = dtype) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(sizes, dtype, sharding=chip)

    options = AttentionOptions(window, dropout=0.1 if terms else 0.0)

    def run(q, k, v, relative, ids, seed):
        def loss(q, k, v, relative):
            inputs = AttentionInputs(q, k, v, relative, ids, ids, 0, seed if terms else None)
            return attend(inputs, options).astype(jnp.float32).sum()

        return jax.value_and_grad(loss, range(3 + terms))(q, k, v, relative)

    relative = RelativeTerms(shape(2 * T - 1, N, H), shape(2 * T - 1, N, H), shape(2 * T - 1, N, dtype="float32"))
    x, ids = shape(B, T, N, H), shape(B, T, dtype="int32")
    args = (x, x, x, relative if terms else None, ids, shape(4, dtype="uint32"))
    return jax.jit(run).lower(*args).compile().as_text()


@pytest.mark.parametrize(("T", "H", "dtype"), [(512, 64, "bfloat16"), (300, 24, "float32"), (8192, 64, "float32")])
def test_tiled(chip: SingleDeviceSharding, T: int, H: int, dtype: str) -> None:
    text = program(tiled, chip, T, H, dtype, terms=True)
    assert text.count('custom_call_target="tpu_custom_call"') == 2
    assert "tiled_forward" in text and "tiled_backward" in text


@pytest.mark.parametrize(
    ("T", "H", "dtype", "window"), [(512, 64, "bfloat16", 0), (300, 24, "float32", 64), (8192, 64, "bfloat16", 64)]
)
def test_splash(chip: SingleDeviceSharding, T: int, H: int, dtype: str, window: int) -> None:
    text = program(splash, chip, T, H, dtype, terms=False, window=window)
    # One backward kernel for a single tile of keys, else two.
    assert text.count('custom_call_target="tpu_custom_call"') == 3 - (T == 512)
    assert "splash_mha_fwd" in text and "splash_mha_dkv" in text


@pytest.mark.parametrize(
    ("T", "H", "dtype", "window"),
    [(512, 64, "bfloat16", 0), (1024, 128, "float32", 0), (300, 24, "float32", 50), (8192, 64, "bfloat16", 64)],
)
def test_single_pass(chip: SingleDeviceSharding, T: int, H: int, dtype: str, window: int) -> None:
    text = program(single_pass, chip, T, H, dtype, terms=False, window=window)
    assert text.count('custom_call_target="tpu_custom_call"') == 2
    name = f"single_pass_{'local' if window else 'global'}"
    assert f"{name}_forward" in text and f"{name}_backward" in text


@pytest.mark.parametrize("chip", ["v5e:2x2"], indirect=True)
def test_heads_of_single_pass_fit(chip: SingleDeviceSharding) -> None:
    """Not all of BERT's 12 in one block, with the longest row and rotary positions."""
    T, H, shape = 1024, 64, partial(jax.ShapeDtypeStruct, sharding=chip)

    def run(q, k, v, ids, rotary):
        inputs = AttentionInputs(q, k, v, None, ids, ids, rotary=rotary)
        return single_pass(inputs, AttentionOptions(scale=0.125)).astype(jnp.float32).sum()

    x, angles = shape((1, T, 12, H), "bfloat16"), shape((1, T, 1, H // 2), "float32")
    arguments = x, x, x, shape((1, T), "int32"), (angles, angles)
    text = jax.jit(jax.value_and_grad(run, range(3))).lower(*arguments).compile().as_text()
    assert text.count('custom_call_target="tpu_custom_call"') == 2


@pytest.mark.parametrize(
    ("attend", "terms"), [(tiled, True), (splash, False), (single_pass, False)], ids=["tiled", "splash", "single_pass"]
)
def test_a_policy_keeps_what_the_forward_kernel_leaves(chip: SingleDeviceSharding, attend, terms: bool) -> None:
    policy = jax.checkpoint_policies.save_only_these_names(ATTENDED)
    again = lambda inputs, options: jax.checkpoint(partial(attend, options=options), policy=policy)(inputs)  # noqa: E731
    text = program(again, chip, 512, 64, "bfloat16", terms)
    assert text.count('custom_call_target="tpu_custom_call"') == 2  # forward and backward, once each


@pytest.mark.parametrize("chip", ["v5e:2x2"], indirect=True)
def test_experts(chip: SingleDeviceSharding) -> None:
    """Temporaries stay below two times the activations of every expert."""
    tokens, D, F, E, K = 4096, 768, 3072, 8, 2

    def loss(x, weights, experts, kernels):
        return mixture(x, weights, experts, kernels, jnp.tanh).astype(jnp.float32).sum()

    shape = partial(jax.ShapeDtypeStruct, sharding=chip)
    kernels = {"up": shape((E, D, F), "bfloat16"), "down": shape((E, F, D), "bfloat16")}
    x, weights = shape((1, tokens, D), "bfloat16"), shape((1, tokens, K), "float32")
    step = jax.jit(jax.value_and_grad(loss, (0, 1, 3)))
    compiled = step.lower(x, weights, shape((1, tokens, K), "int32"), kernels).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 2 * E * tokens * F * 2
