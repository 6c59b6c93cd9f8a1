"""Projections, norms, embeddings and MLPs against the same written in numpy."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxencoder.model.layers import ACTIVATIONS, Embeddings, Linear, Mlp, Norm
from tests.model.examples import BERT, linen_params

X = jnp.asarray(np.random.default_rng(0).standard_normal((2, 5, 24)) * 3 + 1, jnp.float32)


@pytest.mark.parametrize(
    ("spec", "shape", "bias"),
    [("BTD,DF->BTF", (24, 7), (7,)), ("BTD,DNH->BTNH", (24, 3, 2), (3, 2)), ("BTNH,NHD->BTD", (4, 6, 7), (7,))],
)
def test_linear(spec: str, shape: tuple[int, ...], bias: tuple[int, ...]) -> None:
    x = X.reshape(2, 5, 4, 6) if spec.startswith("BTNH") else X
    params = linen_params(Linear(spec, shape, True, 0.02), x)
    assert params["kernel"].shape == shape and params["bias"].shape == bias
    expected = np.einsum(spec, x, params["kernel"]) + params["bias"]
    np.testing.assert_allclose(Linear(spec, shape, True, 0.02).apply({"params": params}, x), expected, atol=1e-4)
    assert "bias" not in linen_params(Linear(spec, shape, False, 0.02), x)
    rough = Linear(spec, shape, True, 0.02).apply({"params": params}, x.astype(jnp.bfloat16))
    assert rough.dtype == jnp.bfloat16
    np.testing.assert_allclose(rough.astype(jnp.float32), expected, atol=0.02 * np.abs(expected).max())


@pytest.mark.parametrize("kind", ["layer", "rms"])
@pytest.mark.parametrize("bias", [True, False])
def test_norm(kind: str, bias: bool) -> None:
    norm, x = Norm(dataclasses.replace(BERT, norm=kind, norm_epsilon=1e-5, norm_bias=bias)), np.asarray(X, np.float64)
    params = linen_params(norm, X)
    assert set(params) == ({"scale", "bias"} if bias else {"scale"})
    centred = x - x.mean(-1, keepdims=True) if kind == "layer" else x
    expected = centred / np.sqrt(np.square(centred).mean(-1, keepdims=True) + 1e-5) * params["scale"]
    expected += params.get("bias", 0)
    np.testing.assert_allclose(norm.apply({"params": params}, X), expected, atol=1e-5)
    # Far from 0 the mean of squares would lose everything; and bfloat16 inputs are normed in float32.
    if kind == "layer":
        np.testing.assert_allclose(norm.apply({"params": params}, X + 3000), expected, atol=2e-2)
    rough = X.astype(jnp.bfloat16)
    exact = norm.apply({"params": params}, rough.astype(jnp.float32))
    np.testing.assert_array_equal(norm.apply({"params": params}, rough), exact.astype(jnp.bfloat16))

    def derived(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        y = x - x.mean(-1, keepdims=True) if kind == "layer" else x
        y /= jnp.sqrt(jnp.square(y).mean(-1, keepdims=True) + 1e-5)
        return y * params["scale"] + params.get("bias", 0)

    params = {name: x + jnp.linspace(-1, 1, len(x)) for name, x in params.items()}
    dy = jax.random.normal(jax.random.key(1), X.shape)
    ours, reference = (jax.vjp(f, params, X)[1](dy) for f in (lambda p, x: norm.apply({"params": p}, x), derived))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=2e-5), ours, reference)
    assert jax.grad(lambda x: norm.apply({"params": params}, x).astype(jnp.float32).sum())(rough).dtype == jnp.bfloat16


def test_activations() -> None:
    x = np.linspace(-12, 12, 241)  # so far that both clips are in it
    cdf = np.array([0.5 * (1 + math.erf(v / math.sqrt(2))) for v in x])
    tanh = 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    expected = {"gelu": x * cdf, "gelu_tanh": x * tanh, "relu": np.maximum(x, 0), "silu": x / (1 + np.exp(-x))}
    expected |= {"tanh": np.tanh(x), "quick_gelu": x / (1 + np.exp(-1.702 * x)), "relu_squared": np.maximum(x, 0) ** 2}
    expected |= {"gelu_clipped": np.clip(x * cdf, -10, 10), "relu6": np.clip(x, 0, 6)}
    expected |= {"mish": x * np.tanh(np.log1p(np.exp(x)))}
    assert set(expected) == set(ACTIVATIONS)
    for name, y in expected.items():
        ours = ACTIVATIONS[name](jnp.asarray(x, jnp.float32))
        np.testing.assert_allclose(ours, y, rtol=1e-6, atol=1e-6, err_msg=name)


def test_a_norm_with_a_unit_offset_starts_as_one_without() -> None:
    norm = Norm(dataclasses.replace(BERT, norm="rms", norm_bias=False, norm_unit_offset=True))
    params = norm.init(jax.random.key(0), X)["params"]
    assert not params["scale"].any()
    w = jnp.linspace(-1, 1, X.shape[-1])
    plain = Norm(dataclasses.replace(BERT, norm="rms", norm_bias=False)).apply({"params": {"scale": 1 + w}}, X)
    np.testing.assert_allclose(norm.apply({"params": {"scale": w}}, X), plain, rtol=1e-6)


@pytest.mark.parametrize("gated", [False, True])
def test_mlp(gated: bool) -> None:
    mlp = Mlp(dataclasses.replace(BERT, gated_mlp=gated, activation="relu"))
    params = linen_params(mlp, X)
    project = lambda x, name: x @ np.asarray(params[name]["kernel"]) + params[name]["bias"]  # noqa: E731
    hidden = np.maximum(project(X, "gate"), 0) * project(X, "up") if gated else np.maximum(project(X, "up"), 0)
    np.testing.assert_allclose(mlp.apply({"params": params}, X), project(hidden, "down"), rtol=1e-4, atol=1e-3)


def test_gelu_and_its_derivative() -> None:
    x = np.linspace(-6, 6, 121)
    cdf = np.array([0.5 * math.erfc(-v / math.sqrt(2)) for v in x])
    derivative = cdf + x * np.exp(-x * x / 2) / math.sqrt(2 * math.pi)
    gelu = jax.vmap(jax.value_and_grad(ACTIVATIONS["gelu"]))  # values and slopes
    for ours, expected in zip(gelu(jnp.asarray(x, jnp.float32)), (x * cdf, derivative), strict=True):
        np.testing.assert_allclose(ours, expected, atol=1e-6)
    rough = jnp.asarray(x, jnp.bfloat16)
    for ours, expected in zip(gelu(rough), gelu(rough.astype(jnp.float32)), strict=True):
        assert ours.dtype == jnp.bfloat16 and expected.dtype == jnp.float32
        np.testing.assert_allclose(ours.astype(jnp.float32), expected, rtol=2**-8)  # half a unit in the last place


def test_embeddings() -> None:
    ids, positions = jnp.array([[5, 9, 5, 0]]), jnp.array([[0, 1, 0, 0]])
    module = Embeddings(dataclasses.replace(BERT, embedding_norm=False), jnp.float32)
    params = linen_params(module, ids, positions, None, False)
    run = lambda types: module.apply({"params": params}, ids, positions, types, False)  # noqa: E731
    tokens, places, types = (params[f"{name}_embedding"] for name in ("token", "position", "token_type"))
    np.testing.assert_allclose(run(None), tokens[ids] + places[positions] + types[0], atol=1e-6)
    np.testing.assert_allclose(run(ids % 2), tokens[ids] + places[positions] + types[ids % 2], atol=1e-6)
    scaled = Embeddings(dataclasses.replace(BERT, embedding_norm=False, scaled_embeddings=True), jnp.float32)
    expected = tokens[ids] * math.sqrt(24) + places[positions] + types[0]
    np.testing.assert_allclose(scaled.apply({"params": params}, ids, positions, None, False), expected, atol=1e-6)
    zeroing = Embeddings(dataclasses.replace(BERT, embedding_norm=False, zeroed_token=9), jnp.float32)
    apply = lambda segments: zeroing.apply({"params": params}, ids, positions, None, False, jnp.array(segments))  # noqa: E731
    factors = 0.88 * np.array([2, 0, 1, 1]), 0.88 * np.array([1.5, 0, 1.5, 1])  # a half and a third are zeroed
    for segments, factor in zip(([[1, 1, 2, 2]], [[1, 1, 1, 0]]), factors, strict=True):
        expected = tokens[ids] * factor[:, None] + places[positions] + types[0]
        np.testing.assert_allclose(apply(segments), expected, atol=1e-6)
    bare = dataclasses.replace(BERT, positions="rotary", token_types=0, embedding_norm=False)
    assert set(linen_params(Embeddings(bare, jnp.float32), ids, positions, None, False)) == {"token_embedding"}
    single = Embeddings(dataclasses.replace(BERT, token_types=1, embedding_norm=False), jnp.float32)
    one = {"params": params | {"token_type_embedding": types[:1]}}
    np.testing.assert_allclose(single.apply(one, ids, positions, ids % 2, False), run(None), atol=1e-6)
    narrow = Embeddings(dataclasses.replace(BERT, embedding_norm=False), jnp.bfloat16)
    assert narrow.apply({"params": params}, ids, positions, None, False).dtype == jnp.bfloat16
