"""The attention block: parameters, projections, and the layers that its settings affect."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from jaxencoder.model.attention import Attention
from jaxencoder.model.positions import rotary_table
from tests.model.examples import BERT, FLOAT32, linen_params

B, T, D, N, H = 2, 9, 24, 3, 8
X = jnp.asarray(np.random.default_rng(0).standard_normal((B, T, D)), jnp.float32)
IDS = jnp.asarray([[1] * 9, [1] * 4 + [2] * 3 + [0] * 2])


@pytest.mark.parametrize(("window", "rotary"), [(0, False), (2, True)])
def test_equals_numpy(window: int, rotary: bool) -> None:
    block = Attention(BERT, FLOAT32, window, False)
    positions = jnp.broadcast_to(jnp.arange(T), (B, T))
    table = rotary_table(positions, H, 10.0) if rotary else None
    params = linen_params(block, X, IDS, table)
    assert {k: v["kernel"].shape for k, v in params.items()} == {
        "query": (D, N, H), "key": (D, N, H), "value": (D, N, H), "output": (N, H, D),
    }  # fmt: skip
    q, k, v = (
        np.einsum("BTD,DNH->BTNH", X, params[n]["kernel"]) + params[n]["bias"] for n in ("query", "key", "value")
    )
    if rotary:
        angle = np.arange(T)[:, None, None] / 10 ** (np.arange(H // 2) / (H // 2))
        turn = lambda x: (x[..., : H // 2] + 1j * x[..., H // 2 :]) * np.exp(1j * angle)  # noqa: E731
        scores = np.einsum("BTNH,BSNH->BNTS", turn(q), turn(k).conj()).real
    else:
        scores = np.einsum("BTNH,BSNH->BNTS", q, k)
    distance = np.abs(np.arange(T)[:, None] - np.arange(T))
    sees = (IDS[:, None, :, None] == IDS[:, None, None, :]) & ((distance <= window) | (not window))
    weights = np.where(sees, np.exp(scores / np.sqrt(H)), 0)
    out = np.einsum("BNTS,BSNH->BTNH", weights / weights.sum(-1, keepdims=True), v)
    expected = np.einsum("BTNH,NHD->BTD", out, params["output"]["kernel"]) + params["output"]["bias"]
    np.testing.assert_allclose(block.apply({"params": params}, X, IDS, table), expected, atol=1e-4)


def test_global_layers_of_a_banded_model_are_dense() -> None:
    params = linen_params(Attention(BERT, FLOAT32, 0, False), X, IDS, None)
    banded = dataclasses.replace(FLOAT32, attention="banded")
    a, b = (Attention(BERT, c, 0, False).apply({"params": params}, X, IDS, None) for c in (FLOAT32, banded))
    np.testing.assert_array_equal(a, b)


def test_no_biases() -> None:
    params = linen_params(Attention(dataclasses.replace(BERT, attention_bias=False), FLOAT32, 0, False), X, IDS, None)
    assert all(set(module) == {"kernel"} for module in params.values())


@pytest.mark.parametrize("projection", ["separate", "shared"])
def test_distances_are_compared_with_keys_that_several_queries_share(projection: str) -> None:
    choices = {"disentangled": ("c2p", "p2c"), "position_buckets": 4, "relative_projection": projection}
    full = dataclasses.replace(BERT, num_heads=4, **choices)
    few = dataclasses.replace(full, num_kv_heads=2)  # a single one would broadcast
    arguments = (X, IDS, None, None, jnp.asarray(np.random.default_rng(1).standard_normal((8, D)), jnp.float32))
    params = linen_params(Attention(few, FLOAT32, 0, False), *arguments)
    repeated = {
        name: {part: np.repeat(x, 2, axis=-2) for part, x in module.items()} if name in ("key", "value") else module
        for name, module in params.items()
    }
    outputs, expected = (
        Attention(c, FLOAT32, 0, False).apply({"params": p}, *arguments) for c, p in ((few, params), (full, repeated))
    )
    np.testing.assert_allclose(outputs, expected, atol=1e-5)
