"""Pooling of documents against loops in numpy, and the heads against their formulas."""

from dataclasses import replace
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxencoder.model.config import Pooling
from jaxencoder.model.flops import forward_flops
from jaxencoder.model.heads import Classifier, Head, HeadConfig, MlmHead, first_tokens, pool
from tests.model.examples import BERT, linen_params

SEGMENTS = np.array([[1, 1, 1, 2, 2, 3, 0], [1, 0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1, 1]])
HIDDEN = np.random.default_rng(0).standard_normal((3, 7, 24)).astype(np.float32) - 3  # all below 0: padding is not
E = 4


@pytest.mark.parametrize("skip", [None, 0, 2])
@pytest.mark.parametrize("method", get_args(Pooling))
def test_pool(method: str, skip: int | None) -> None:
    query = np.random.default_rng(1).standard_normal(24).astype(np.float32)
    hidden = np.where((SEGMENTS > 0)[..., None], HIDDEN, 1e3).astype(np.float32)  # padding would be seen
    expected = np.zeros((3, E, 24))
    pooled = np.zeros(SEGMENTS.shape, bool)
    for b, e in np.ndindex(3, E):
        (at,) = np.nonzero(SEGMENTS[b] == e + 1)
        places = np.arange(1, len(at) + 1)[skip or 0 :]
        x = hidden[b][at[skip or 0 :]]
        if len(x):
            pooled[b, {"cls": at[skip or 0], "lasttoken": at[-1]}.get(method, at[skip or 0 :])] = True
            weights = np.exp(x @ query - (x @ query).max())
            expected[b, e] = {
                "cls": x[0],
                "lasttoken": x[-1],
                "mean": x.mean(0),
                "mean_sqrt_len": x.sum(0) / len(x) ** 0.5,
                "weightedmean": places @ x / places.sum(),
                "max": x.max(0),
                "learned": (weights / weights.sum()) @ x,
            }[method]
    run = jax.jit(lambda h: pool(h, jnp.asarray(SEGMENTS), E, method, query, skip))
    np.testing.assert_allclose(run(hidden), expected, atol=1e-4)
    assert run(hidden.astype(jnp.bfloat16)).dtype == jnp.float32
    gradient = np.asarray(jax.grad(lambda h: jnp.square(run(h)).sum())(hidden))
    assert np.isfinite(gradient).all() and not gradient[~pooled].any() and gradient[pooled].any()


def test_first_tokens() -> None:
    assert first_tokens(jnp.asarray(SEGMENTS), E).tolist() == [[0, 3, 5, -1], [0, -1, -1, -1], [0, -1, -1, -1]]


def test_classifier_is_berts() -> None:
    head = Classifier(BERT, 3, "cls", 0.5)
    params = linen_params(head, HIDDEN, SEGMENTS, E, False)
    x = np.asarray(pool(HIDDEN, SEGMENTS, E, "cls"))
    x = np.tanh(x @ params["dense"]["kernel"] + params["dense"]["bias"])
    expected = x @ params["classifier"]["kernel"] + params["classifier"]["bias"]
    scores = head.apply({"params": params}, HIDDEN, SEGMENTS, E, False)
    assert scores.shape == (3, E, 3)
    np.testing.assert_allclose(scores, expected, atol=1e-4)
    dropped = head.apply({"params": params}, HIDDEN, SEGMENTS, E, True, rngs={"dropout": jax.random.key(0)})
    assert not np.allclose(dropped, scores)


def test_head_of_differences_from_the_first_token() -> None:
    """DeBERTa-v3's replaced-token head: projection(gelu(dense(norm(x + x[0]))))."""
    config = HeadConfig("tokens", 1, "gelu", norm=True, add_first_token=True)
    params = linen_params(Head(BERT, config), HIDDEN)
    x = HIDDEN + HIDDEN[:, :1]
    x = (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True) * params["norm"]["scale"] + params["norm"]["bias"]
    x = jax.nn.gelu(x @ params["dense"]["kernel"] + params["dense"]["bias"], approximate=False)
    expected = x @ params["output"]["kernel"] + params["output"]["bias"]
    np.testing.assert_allclose(Head(BERT, config).apply({"params": params}, HIDDEN), expected, atol=1e-3)


def test_mlm_head() -> None:
    params = linen_params(MlmHead(BERT), HIDDEN)
    x, bias = MlmHead(BERT).apply({"params": params}, HIDDEN)
    y = np.asarray(jax.nn.gelu(HIDDEN @ params["dense"]["kernel"] + params["dense"]["bias"], approximate=False))
    y = (y - y.mean(-1, keepdims=True)) / y.std(-1, keepdims=True) * params["norm"]["scale"] + params["norm"]["bias"]
    np.testing.assert_allclose(x, y, atol=1e-3)
    assert bias.shape == (BERT.vocab_size,)


def test_mlm_head_of_two_projections() -> None:
    config = replace(BERT, head_transform=False, head_mlp_size=10, head_activation="gelu_tanh", output_bias=False)
    params = linen_params(MlmHead(config), HIDDEN)
    x, _ = MlmHead(config).apply({"params": params}, HIDDEN)
    y = jax.nn.gelu(jax.nn.gelu(HIDDEN @ params["up"]["kernel"]) @ params["down"]["kernel"])
    np.testing.assert_allclose(x, y, atol=1e-5)
    assert params.keys() == {"up", "down"} and params["up"]["kernel"].shape == (24, 10)
    more = forward_flops(config, 8, predicted=1) - forward_flops(replace(config, head_mlp_size=0), 8, predicted=1)
    assert more == 2 * 2 * 24 * 10
    with pytest.raises(ValueError, match="head_mlp_size 10 needs model.head_transform false, got true"):
        replace(config, head_transform=True)
