"""Splash attention, interpreted: equal to dense attention in values and gradients, with and without a window."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxencoder.kernels.attention import attention
from jaxencoder.kernels.dense import dense
from jaxencoder.kernels.inputs import AttentionInputs, AttentionOptions
from jaxencoder.kernels.splash import splash
from tests.kernels.test_tiled import compare, differentiated, documents, drawn


@pytest.mark.parametrize(
    ("T", "dtype", "tolerance", "causal"),
    [
        *((300, "float32", 1e-5, causal) for causal in (False, True)),
        *((300, "bfloat16", 2e-2, False), (1, "float32", 1e-5, False)),
    ],
)
@pytest.mark.parametrize("window", [0, 64])
def test_equals_dense(T: int, window: int, causal: bool, dtype: str, tolerance: float) -> None:
    arrays, ids, options = drawn(T, T, 24, (), dtype)[:3], documents(T), AttentionOptions(window, causal=causal)
    cotangent = jnp.asarray(np.random.default_rng(1).standard_normal(arrays[0].shape), dtype)
    results, expected = (
        differentiated(lambda *x, f=f: f(AttentionInputs(*x, None, ids, ids), options), cotangent, *arrays)
        for f in (partial(splash, interpret=True), dense)
    )
    compare(results, expected, tolerance)


def test_several_tiles_and_more_keys_than_queries() -> None:
    T, window = 600, 64
    arrays = drawn(T, T + 2 * window, 16, ())[:3]
    k_ids = documents(T + 2 * window).at[:, :window].set(-1)  # nothing before the first query
    q_ids = k_ids[:, window : window + T]
    cotangent = jnp.asarray(np.random.default_rng(1).standard_normal(arrays[0].shape), jnp.float32)
    options = AttentionOptions(window)

    def inputs(*arrays) -> AttentionInputs:
        return AttentionInputs(*arrays, None, q_ids, k_ids, window)

    results = differentiated(lambda *x: splash(inputs(*x), options, interpret=True), cotangent, *arrays)
    expected = differentiated(lambda *x: dense(inputs(*x), options), cotangent, *arrays)
    compare(results, expected, 1e-5)
    assert not np.asarray(results[1][1])[:, :window].any()


def test_a_query_that_sees_nothing_makes_no_nan() -> None:
    arrays, ids = drawn(40, 40, 16, ())[:3], documents(40)
    q_ids = ids.at[:, 3].set(-1).at[:, 4].set(77)
    results = differentiated(
        lambda *x: splash(AttentionInputs(*x, None, q_ids, ids), interpret=True), jnp.ones((2, 40, 2, 16)), *arrays
    )
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(results))


@pytest.mark.parametrize("window", [0, 8])
def test_attention_calls_it(window: int) -> None:
    q, k, v, _ = drawn(40, 40, 8, ())
    one, other = (
        attention(q, k, v, documents(40), options=AttentionOptions(window, backend=name))
        for name in ("splash", "dense")
    )
    np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("offset", [-1, 9])
def test_queries_outside_the_keys_are_refused(offset: int) -> None:
    q, k, v, _ = drawn(8, 16, 8, ())
    inputs = AttentionInputs(q, k, v, None, documents(8), documents(16), offset)
    with pytest.raises(ValueError, match=f"8 queries from key {offset} on must lie within the 16 keys"):
        splash(inputs, AttentionOptions(window=4), interpret=True)
