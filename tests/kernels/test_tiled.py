"""Tiled attention, interpreted: equal to dense attention in values and gradients, wherever tiles end."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxencoder.kernels import tiled as module
from jaxencoder.kernels.attention import attention
from jaxencoder.kernels.chunked import chunked
from jaxencoder.kernels.dense import dense
from jaxencoder.kernels.inputs import AttentionInputs, AttentionOptions
from jaxencoder.kernels.relative import RelativeTerms
from jaxencoder.kernels.tiled import fits, tiled
from tests.kernels.examples import TERMS

B, N = 2, 2
SEED = jnp.array([5, 3, 1, 70], jnp.uint32)


def drawn(T: int, S: int, H: int, terms: tuple[str, ...], dtype: str = "float32") -> tuple:
    """q, k, v and tables."""
    rng = np.random.default_rng(T)
    shapes = {"bias": (T + S - 1, N), "keys": (T + S - 1, N, H), "queries": (T + S - 1, N, H)}
    table = {name: rng.standard_normal(shapes[name]) * (1 if name == "bias" else H**-0.5) for name in terms}
    table = {name: jnp.asarray(x, "float32" if name == "bias" else dtype) for name, x in table.items()}
    q, k, v = (jnp.asarray(rng.standard_normal((B, length, N, H)), dtype) for length in (T, S, S))
    return q * H**-0.5, k, v, RelativeTerms(**table) if terms else None


def documents(T: int) -> jax.Array:
    """A row of three documents, and one with padding."""
    at = np.arange(T)
    return jnp.asarray(np.stack([1 + 3 * at // T, at < max(2 * T // 3, 1)]), jnp.int32)


def differentiated(f: Callable, cotangent: jax.Array, *arrays) -> tuple:
    """Values, and gradients by every array."""

    def run(arrays: tuple) -> tuple:
        out, pull = jax.vjp(f, *arrays)
        return out, pull(cotangent.astype(out.dtype))

    return jax.jit(run)(arrays)


def compare(results: tuple, expected: tuple, tolerance: float) -> None:
    for a, b in zip(jax.tree.leaves(results), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        a, b = (np.asarray(x, np.float32) for x in (a, b))
        np.testing.assert_allclose(a, b, atol=tolerance * max(1, np.abs(b).max()), rtol=0)


@pytest.mark.parametrize(
    ("T", "dtype", "terms", "tolerance"),
    [
        (100, "bfloat16", TERMS, 2e-2),
        (20, "float32", ("queries", "bias"), 1e-5),
        (1, "float32", ("keys",), 1e-5),
        (60, "float32", (), 1e-5),
    ],
)
def test_equals_dense(T: int, dtype: str, terms: tuple[str, ...], tolerance: float) -> None:
    arrays, ids = drawn(T, T, 16, terms, dtype), documents(T)
    cotangent = jnp.asarray(np.random.default_rng(1).standard_normal(arrays[0].shape), dtype)

    def inputs(*arrays) -> AttentionInputs:
        return AttentionInputs(*arrays, ids, ids)

    results = differentiated(lambda *x: tiled(inputs(*x), interpret=True), cotangent, *arrays)
    expected = differentiated(lambda *x: dense(inputs(*x)), cotangent, *arrays)
    compare(results, expected, tolerance)


def test_tiles_dropout_and_invisible_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LONGEST", 128)  # 2 x 3 tiles
    T, S, offset, blind = 150, 280, 60, [3, 140]
    arrays = drawn(T, S, 16, TERMS)
    k_ids = documents(S).at[:, :5].set(-1).at[:, -9:].set(-1)
    q_ids = documents(S)[:, offset : offset + T].at[:, blind].set(jnp.array([-1, 77]))
    cotangent = jnp.asarray(np.random.default_rng(1).standard_normal(arrays[0].shape), jnp.float32)
    options = AttentionOptions(dropout=0.2)

    def inputs(q_ids: jax.Array, *arrays) -> AttentionInputs:
        return AttentionInputs(*arrays, q_ids, k_ids, offset, SEED)

    results = differentiated(lambda *x: tiled(inputs(q_ids, *x), options, interpret=True), cotangent, *arrays)
    out, (dq, dk, dv, _) = results
    assert not np.asarray(out)[:, blind].any() and not np.asarray(dq)[:, blind].any()
    for gradient in (dk, dv):
        assert not np.asarray(gradient)[:, [0, 4, -9, -1]].any()
        assert np.asarray(gradient)[:, 5:-9].any((2, 3)).mean() > 0.6
    # Dense gives queries that see nothing the mean of all values: both leave them out.
    q_ids_, mask = q_ids.at[:, blind].set(1), jnp.ones((B, T, 1, 1)).at[:, blind].set(0)
    expected = differentiated(lambda *x: dense(inputs(q_ids_, *x), options) * mask, cotangent, *arrays)
    compare(results, expected, 1e-5)


def test_attention_calls_it() -> None:
    q, k, v, relative = drawn(40, 40, 8, ("bias",))
    ids, key = documents(40), jax.random.key(0)
    one, other = (
        attention(q, k, v, ids, relative=relative, key=key, options=AttentionOptions(dropout=0.3, backend=backend))
        for backend in ("tiled", "chunked")
    )
    np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("backend", [tiled, chunked])
def test_dropout_needs_a_seed(backend: Callable) -> None:
    q, k, v, _ = drawn(8, 8, 8, ())
    with pytest.raises(ValueError, match=r"0\.1 needs a seed"):
        backend(AttentionInputs(q, k, v, None, documents(8), documents(8)), AttentionOptions(dropout=0.1))


def test_fits() -> None:
    assert fits(8192, 8192, 64, jnp.bfloat16) and fits(8192, 8192, 64, jnp.float32)
    assert fits(2048, 16384, 64, jnp.bfloat16) and not fits(32768, 32768, 64, jnp.bfloat16)
