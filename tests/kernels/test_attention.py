"""Attention: every backend equals softmax written out in numpy, in values and gradients, for any length and window."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxencoder.kernels.attention import Relative, attention, chosen_backend

B, N, H = 4, 2, 4


def segments(T: int) -> np.ndarray:
    """One document; two or more with borders off any block; many short ones before padding; mostly padding."""
    at = np.arange(T)
    rows = [at * 0 + 1, 1 + at // 50, np.where(at < 2 * T // 3, 1 + at // 7, 0), at < max(T // 3, 1)]
    return np.stack(rows).astype(np.int32)


run = jax.jit(attention, static_argnames=("window", "dropout", "backend", "late"))


def inputs(T: int, dtype: str = "float32", seed: int = 0) -> list[jax.Array]:
    rng = np.random.default_rng(seed)
    return [jnp.asarray(2 * rng.standard_normal((B, T, N, H)), dtype) for _ in range(3)]


def reference(q: np.ndarray, k: np.ndarray, v: np.ndarray, ids: np.ndarray, window: int) -> np.ndarray:
    T = q.shape[1]
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    scores = np.einsum("BTNH,BSNH->BNTS", q, k) / np.sqrt(H)
    sees = ids[:, None, :, None] == ids[:, None, None, :]
    if window:
        sees = sees & (np.abs(np.arange(T)[:, None] - np.arange(T)) <= window)
    weights = np.where(sees, np.exp(scores - scores.max(-1, keepdims=True)), 0)
    return np.einsum("BNTS,BSNH->BTNH", weights / weights.sum(-1, keepdims=True), v)


@pytest.mark.parametrize(("T", "window"), [(1, 3), (5, 64), (130, 1), (161, 8), (257, 64), (300, 130), (50, 0), (1, 0)])
def test_equals_numpy(T: int, window: int) -> None:
    q, k, v = inputs(T)
    ids = segments(T)
    expected = reference(q, k, v, ids, window)
    for backend in ("dense", "banded", "auto") if window else ("dense", "auto"):
        out = run(q, k, v, jnp.asarray(ids), window=window, backend=backend)
        np.testing.assert_allclose(out, expected, atol=2e-5, err_msg=backend)


@pytest.mark.parametrize(("T", "window"), [(1, 0), (50, 0), (130, 8)])
def test_division_after_the_product(T: int, window: int) -> None:
    q, k, v = inputs(T)
    q = q * jnp.array([1, 1, 30, -30])[:, None, None, None]  # scores of rows 2 and 3 far from 0
    ids = segments(T)
    out = run(q, k, v, jnp.asarray(ids), window=window, backend="dense", late=True)
    np.testing.assert_allclose(out, reference(q, k, v, ids, window), atol=2e-5)
    bias = np.random.default_rng(1).standard_normal((N, T, T)).astype(np.float32)
    if not window:
        both = [run(q, k, v, jnp.asarray(ids), bias=bias, late=late) for late in (False, True)]
        np.testing.assert_allclose(*both, atol=2e-5)


@pytest.mark.parametrize(("T", "window"), [(1, 3), (5, 64), (161, 8), (257, 64), (300, 130)])
def test_gradients_of_banded_equal_dense(T: int, window: int) -> None:
    ids = jnp.asarray(segments(T))
    there = (ids > 0)[..., None, None]
    weight = jnp.asarray(np.random.default_rng(9).standard_normal((B, T, N, H)), jnp.float32)

    @partial(jax.jit, static_argnums=1)
    def gradients(qkv: list[jax.Array], backend: str) -> list[jax.Array]:
        return jax.grad(lambda x: (attention(*x, ids, window=window, backend=backend) * weight * there).sum())(qkv)

    dense, banded = gradients(inputs(T), "dense"), gradients(inputs(T), "banded")
    for name, a, b in zip("qkv", dense, banded, strict=True):
        np.testing.assert_allclose(b, a, atol=2e-5, err_msg=name)
        assert not np.any(np.where(there, 0, b)), f"padding has a gradient of {name}"
    assert np.any(dense[2])


@pytest.mark.parametrize("terms", [("keys",), ("queries",), ("keys", "queries")])
@pytest.mark.parametrize("T", [1, 5, 50])
def test_distances(T: int, terms: tuple[str, ...]) -> None:
    q, k, v = inputs(T)
    rng = np.random.default_rng(1)
    tables = {name: jnp.asarray(rng.standard_normal((2 * T - 1, N, H)), jnp.float32) for name in terms}
    ids = segments(T)
    rows = T - 1 + np.arange(T) - np.arange(T)[:, None]  # of key j for query i
    scores = np.einsum("BTNH,BSNH->BNTS", q, k)
    if "keys" in tables:
        scores += np.einsum("BTNH,TSNH->BNTS", q, np.asarray(tables["keys"])[rows])
    if "queries" in tables:
        scores += np.einsum("TSNH,BSNH->BNTS", np.asarray(tables["queries"])[rows], k)
    scores = np.where(ids[:, None, :, None] == ids[:, None, None, :], scores / np.sqrt(H * (1 + len(terms))), -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    expected = np.einsum("BNTS,BSNH->BTNH", weights / weights.sum(-1, keepdims=True), v)
    relative = Relative(tables.get("keys"), tables.get("queries"))
    np.testing.assert_allclose(run(q, k, v, jnp.asarray(ids), relative=relative), expected, atol=2e-5)


@pytest.mark.parametrize("backend", ["dense", "banded"])
def test_bfloat16(backend: str) -> None:
    q, k, v = inputs(161, "bfloat16")
    ids = segments(161)
    out = run(q, k, v, jnp.asarray(ids), window=8, backend=backend)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(out.astype(jnp.float32), reference(q, k, v, ids, 8), atol=0.06)


@pytest.mark.parametrize(("backend", "window"), [("dense", 0), ("dense", 8), ("banded", 8), ("banded", 64)])
def test_a_document_does_not_see_another(backend: str, window: int) -> None:
    T = 200
    ids = jnp.asarray(segments(T))
    qkv = inputs(T)
    changed = [jnp.where((ids == 2)[..., None, None], -30 * x, x) for x in qkv]
    before, after = (np.asarray(run(*x, ids, window=window, backend=backend)) for x in (qkv, changed))
    np.testing.assert_array_equal(after[ids != 2], before[ids != 2])
    assert np.abs(after - before)[ids == 2].max() > 1


@pytest.mark.parametrize("backend", ["dense", "banded"])
def test_far_keys_are_not_seen(backend: str) -> None:
    T, window, at = 200, 16, 100
    q, k, v = inputs(T)
    ids = jnp.ones((B, T), jnp.int32)
    before, after = (np.asarray(run(q, k, x, ids, window=window, backend=backend)) for x in (v, v.at[:, at].add(100.0)))
    moved = np.any(before != after, axis=(0, 2, 3))
    assert np.flatnonzero(moved).tolist() == list(range(at - window, at + window + 1))


@pytest.mark.parametrize(("backend", "window"), [("dense", 0), ("banded", 8)])
def test_dropout(backend: str, window: int) -> None:
    T, rate = 161, 0.25
    q, k, _ = inputs(T)
    v = jnp.ones((B, T, N, H))
    ids = jnp.ones((B, T), jnp.int32)

    one, again, other = (
        np.asarray(run(q * 0, k, v, ids, window=window, backend=backend, dropout=rate, key=jax.random.key(seed)))
        for seed in (0, 0, 1)
    )
    assert np.array_equal(one, again) and not np.array_equal(one, other)
    assert not np.array_equal(one[0], one[1]) and not np.array_equal(one[:, :, 0], one[:, :, 1])
    # Equal weights and values of one: an output is kept / (seen * (1 - rate)), a mean of 1 over the queries.
    seen = T if not window else 17
    error = np.sqrt(rate / (1 - rate) / (seen * B * T * N))
    assert one[..., 0].mean() == pytest.approx(1, abs=5 * error)
    kept = one[:, 20:140] * seen * (1 - rate)
    np.testing.assert_allclose(kept, np.round(kept), atol=1e-3)


def test_banded_never_holds_all_scores() -> None:
    T, window = 2048, 64
    x = jax.ShapeDtypeStruct((1, T, 1, 8), jnp.float32)
    ids = jax.ShapeDtypeStruct((1, T), jnp.int32)

    def temporaries(backend: str) -> int:
        def loss(q: jax.Array, k: jax.Array, v: jax.Array, ids: jax.Array) -> jax.Array:
            return attention(q, k, v, ids, window=window, backend=backend).sum()

        return jax.jit(jax.grad(loss, (0, 1, 2))).lower(x, x, x, ids).compile().memory_analysis().temp_size_in_bytes

    assert temporaries("banded") < 4 * T * T < temporaries("dense")  # scores [T, T] alone are 4 T T bytes
    assert temporaries("auto") == temporaries("banded")


def test_errors() -> None:
    x = jnp.ones((1, 4, 1, 2))
    ids = jnp.ones((1, 4), jnp.int32)
    with pytest.raises(ValueError, match="needs a window; use backend='dense'"):
        attention(x, x, x, ids, backend="banded")
    for pairs in ({"bias": jnp.ones((1, 4, 4))}, {"relative": Relative(jnp.ones((7, 1, 2)), None)}):
        with pytest.raises(ValueError, match="cannot be combined with the attention window 3"):
            attention(x, x, x, ids, window=3, **pairs)
    with pytest.raises(ValueError, match="Attention dropout 0.1 needs a key"):
        attention(x, x, x, ids, dropout=0.1)


@pytest.mark.parametrize(
    ("backend", "window", "T", "chosen"),
    [
        ("auto", 64, 256, "dense"),
        ("auto", 64, 257, "banded"),
        ("auto", 0, 8192, "dense"),
        ("banded", 64, 16, "banded"),
        ("banded", 0, 8192, "dense"),
        ("dense", 64, 8192, "dense"),
    ],
)
def test_chosen_backend(backend: str, window: int, T: int, chosen: str) -> None:
    assert chosen_backend(backend, window, T) == chosen
