"""Single-pass attention, interpreted: equal to dense attention in values and gradients, wherever tiles end."""

from dataclasses import replace
from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest

from jaxencoder.kernels.attention import attention
from jaxencoder.kernels.dense import dense
from jaxencoder.kernels.inputs import AttentionInputs, AttentionOptions
from jaxencoder.kernels.rotary import rotate
from jaxencoder.kernels.single_pass import single_pass, unfit
from jaxencoder.model.positions import rotary_table
from tests.kernels.test_tiled import compare, differentiated, documents, drawn


@pytest.mark.parametrize(
    ("T", "window", "causal", "dtype", "tolerance"),
    [
        *((T, window, causal, "float32", 1e-5) for T, window in ((300, 64), (600, 0)) for causal in (False, True)),
        (700, 50, False, "float32", 1e-5),  # no multiple of a register
        (500, 200, False, "float32", 1e-5),
        (128, 64, False, "float32", 1e-5),  # a single tile
        *((1, window, False, "float32", 1e-5) for window in (0, 8)),
        *((300, window, False, "bfloat16", 2e-2) for window in (0, 64)),
    ],
)
def test_equals_dense(T: int, window: int, causal: bool, dtype: str, tolerance: float) -> None:
    arrays, ids, options = drawn(T, T, 24, (), dtype)[:3], documents(T), AttentionOptions(window, causal=causal)
    cotangent = jnp.asarray(np.random.default_rng(1).standard_normal(arrays[0].shape), dtype)
    results, expected = (
        differentiated(lambda *x, f=f: f(AttentionInputs(*x, None, ids, ids), options), cotangent, *arrays)
        for f in (partial(single_pass, interpret=True), dense)
    )
    compare(results, expected, tolerance)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("T", "window", "causal"), [(300, 64, False), (300, 64, True), (600, 0, False), (700, 50, False)]
)
def test_rotary_positions(T: int, window: int, causal: bool, dtype: str) -> None:
    """Those of documents, which begin anew within a row; and the scale of the scores."""
    arrays, ids, options = drawn(T, T, 24, (), dtype)[:3], documents(T), AttentionOptions(window, causal=causal)
    positions = jnp.arange(2 * T).reshape(2, T) % 111
    angles = rotary_table(positions, 24, 100.0)
    cotangent = jnp.asarray(np.random.default_rng(1).standard_normal(arrays[0].shape), dtype)

    def rotated(q, k, v):
        return dense(AttentionInputs(rotate(q, angles), rotate(k, angles), v, None, ids, ids), options)

    def within(q, k, v):
        inputs = AttentionInputs(4 * q, k, v, None, ids, ids, rotary=angles)
        return single_pass(inputs, replace(options, scale=0.25), interpret=True)

    results, expected = (differentiated(f, cotangent, *arrays) for f in (within, rotated))
    compare(results, expected, 1e-5 if dtype == "float32" else 2e-2)


@pytest.mark.parametrize("window", [0, 64])
def test_invisible_tokens(window: int) -> None:
    """Queries that see nothing give 0 and pass no gradient, and neither do keys that are seen by no one."""
    T, blind = 300, [3, 140]
    arrays, k_ids = drawn(T, T, 16, ())[:3], documents(T).at[:, 50:55].set(-1)
    q_ids = documents(T).at[:, jnp.array(blind)].set(jnp.array([-1, 77]))
    cotangent = jnp.asarray(np.random.default_rng(1).standard_normal(arrays[0].shape), jnp.float32)
    options = AttentionOptions(window)
    results = differentiated(
        lambda *x: single_pass(AttentionInputs(*x, None, q_ids, k_ids), options, interpret=True), cotangent, *arrays
    )
    out, (dq, dk, dv) = results
    assert not np.asarray(out)[:, blind].any() and not np.asarray(dq)[:, blind].any()
    assert not np.asarray(dk)[:, 50:55].any() and not np.asarray(dv)[:, 50:55].any()
    q_ids_, mask = q_ids.at[:, jnp.array(blind)].set(1), jnp.ones((2, T, 1, 1)).at[:, jnp.array(blind)].set(0)
    expected = differentiated(
        lambda *x: dense(AttentionInputs(*x, None, q_ids_, k_ids), options) * mask, cotangent, *arrays
    )
    compare(results, expected, 1e-5)


@pytest.mark.parametrize("window", [0, 16])
@pytest.mark.parametrize(("N", "H"), [(4, 64), (3, 64), (6, 32), (2, 128), (1, 256), (5, 24), (14, 8)])
def test_groups_of_heads(N: int, H: int, window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Heads that fill registers, and heads that do not, in one block and in several."""
    ids, rng, options = documents(200), np.random.default_rng(0), AttentionOptions(window)
    q, k, v = (jnp.asarray(rng.standard_normal((2, 200, N, H)) * H**-0.25, jnp.float32) for _ in range(3))
    angles = rotary_table(jnp.arange(400).reshape(2, 200), H, 100.0)

    def rotated(q, k, v):
        return dense(AttentionInputs(rotate(q, angles), rotate(k, angles), v, None, ids, ids), options)

    def within(*x):
        return single_pass(AttentionInputs(*x, None, ids, ids, rotary=angles), options, interpret=True)

    expected = differentiated(rotated, q, q, k, v)
    compare(differentiated(within, q, q, k, v), expected, 1e-5)
    monkeypatch.setattr("jaxencoder.kernels.single_pass_grid._HEADS_BYTES", 1)  # one group in a block
    compare(differentiated(within, q, q, k, v), expected, 1e-5)


@pytest.mark.parametrize("is_rotary", [False, True])
@pytest.mark.parametrize("window", [0, 8])
def test_attention_calls_it(window: int, is_rotary: bool) -> None:
    q, k, v, _ = drawn(40, 40, 8, ())
    angles = rotary_table(jnp.arange(80).reshape(2, 40), 8, 100.0) if is_rotary else None
    one, other = (
        attention(q, k, v, documents(40), options=AttentionOptions(window, backend=name), rotary=angles)
        for name in ("single_pass", "dense")
    )
    np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize(("S", "offset", "window"), [(16, 0, 4), (8, 1, 4), (8, 0, 400)])
def test_what_has_no_tiles_is_refused(S: int, offset: int, window: int) -> None:
    q, k, v, _ = drawn(8, S, 8, ())
    inputs = AttentionInputs(q, k, v, None, documents(8), documents(S), offset)
    with pytest.raises(ValueError, match=f"no tiles for 8 queries from key {offset} on, {S} keys and window {window}"):
        single_pass(inputs, AttentionOptions(window=window), interpret=True)


def test_what_has_no_tiles() -> None:
    assert unfit(1024, 0) == unfit(1 << 20, 256) == ""
    assert unfit(1025, 0) == "rows of 1025 tokens" and unfit(512, 257) == "windows of 257"
