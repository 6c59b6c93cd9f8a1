"""Mixtures of experts: tokens grouped by expert equal all tokens through all experts, on one device and on eight."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxencoder.kernels import experts as module
from jaxencoder.kernels.experts import Kernels, blocks_of, every_expert, mixture, multiply_blocks
from jaxencoder.training.program import product_flops
from tests.devices import results_on_eight
from tests.model.examples import assert_trees_close

B, T, D, F, E = 2, 40, 6, 10, 5


def inputs(K: int, gated: bool = False, tokens: int = T) -> tuple[jax.Array, jax.Array, jax.Array, Kernels]:
    """Tokens, weights, experts and kernels; the last expert has no token."""
    keys = jax.random.split(jax.random.key(K), 6)
    weights, experts = jax.lax.top_k(jax.nn.softmax(jax.random.normal(keys[0], (B, tokens, E - 1))), K)
    shapes = {"up": (E, D, F), "gate": (E, D, F), "down": (E, F, D)}
    kernels = {name: jax.random.normal(key, shapes[name]) for name, key in zip(shapes, keys[1:], strict=False)}
    if not gated:
        del kernels["gate"]
    return jax.random.normal(keys[4], (B, tokens, D)), weights, experts, kernels


@pytest.mark.parametrize(("K", "gated", "size"), [(1, False, 4), (2, True, 8), (4, False, 16), (2, False, 64)])
def test_blocks_equal_every_expert(K: int, gated: bool, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CPU_BLOCK", size)
    x, weights, experts, kernels = inputs(K, gated)
    factors = jax.random.normal(jax.random.key(9), x.shape)

    def reference(x: jax.Array, weights: jax.Array, experts: jax.Array, kernels: Kernels, activate) -> jax.Array:
        flat = (x.reshape(-1, D), weights.reshape(-1, K), experts.reshape(-1, K))
        return every_expert(*flat, kernels, activate).reshape(x.shape)

    def gradients(compute) -> tuple:
        loss = lambda x, weights, kernels: (compute(x, weights, experts, kernels, jnp.tanh) * factors).sum()  # noqa: E731
        return jax.jit(jax.value_and_grad(loss, (0, 1, 2)))(x, weights, kernels)

    assert_trees_close(gradients(mixture), gradients(reference), 1e-5)


@pytest.mark.parametrize("experts", [[2, 0, 2, 2, 2, 0, 2], [1] * 7, [3, 2, 1, 0, 3, 2, 1]])
def test_every_assignment_has_a_place_in_a_block_of_its_expert(experts: list[int]) -> None:
    places, of_block = blocks_of(jnp.asarray(experts), 4, 3)
    assert len(set(places.tolist())) == len(experts) and of_block[places // 3].tolist() == experts


def test_a_block_is_multiplied_by_its_experts_kernel() -> None:
    x, kernels = jax.random.normal(jax.random.key(0), (3, 4, D)), jax.random.normal(jax.random.key(1), (E, D, F))
    expected = np.stack([x[i] @ kernels[expert] for i, expert in enumerate((4, 0, 4))])
    np.testing.assert_allclose(multiply_blocks(x, kernels, jnp.array([4, 0, 4])), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("tokens", "rows"), [(512, 1024 + 4 * 64), (20, 40 * E)])
def test_the_cost_grows_with_the_experts_of_a_token(tokens: int, rows: int) -> None:
    """2 of 5 experts for each of 2 times as many tokens, with at most a block of padding for each; a few use all."""
    traced = jax.make_jaxpr(partial(mixture, activate=jnp.tanh))(*inputs(2, tokens=tokens))
    products = product_flops(traced.jaxpr) / (4 * D * F)
    assert rows <= products <= 2.6 * B * tokens + E * 64 if tokens > 100 else products >= rows


def test_bfloat16_is_near_float32() -> None:
    x, weights, experts, kernels = inputs(2, tokens=200)
    exact = mixture(x, weights, experts, kernels, jnp.tanh)
    half = jax.tree.map(lambda a: a.astype(jnp.bfloat16), (x, kernels))
    rounded = mixture(half[0], weights, experts, half[1], jnp.tanh)
    assert rounded.dtype == jnp.bfloat16
    assert np.abs(rounded - exact).max() < 0.03 * np.abs(exact).max()


def test_eight_devices_equal_one() -> None:
    differences = results_on_eight("tests/kernels/eight_devices_experts.py")
    assert len(differences) == 3
    for case, values in differences.items():
        assert len(values) == 6 and max(values) < 1e-5, f"{case}: {values}"
