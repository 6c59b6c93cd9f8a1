"""Attention with global tokens: both backends equal softmax written out in numpy, in values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxencoder.kernels.global_tokens import QKV, global_attention
from jaxencoder.kernels.inputs import AttentionOptions
from tests.kernels.examples import B, H, N, segments

G = 4


def attend(*arrays: jax.Array, key: jax.Array | None = None, **options) -> jax.Array:
    """Global attention of q, k, v, those of the global tokens, segment ids and slots."""
    local, full = QKV(*arrays[:3]), QKV(*arrays[3:6])
    return global_attention(local, full, *arrays[6:], options=AttentionOptions(**options), key=key)


run = jax.jit(attend, static_argnames=("window", "dropout", "backend"))


def global_slots(T: int) -> np.ndarray:
    """Four; two of the first document and one of the last; one of padding and one of a short document; none."""
    slots = [[0, T // 3, T // 2, T - 1], [1, -1, 0, T - 1], [-1, -1, T - 1, T // 2], [-1] * G]
    return np.array([row if len(set(row) - {-1}) == sum(s >= 0 for s in row) else [-1] * G for row in slots], np.int32)


def inputs(T: int, dtype: str = "float32") -> list[jax.Array]:
    rng = np.random.default_rng(0)
    lengths = (T, T, T, G, T, T)  # q, k, v, global_q, global_k, global_v
    return [jnp.asarray(2 * rng.standard_normal((B, length, N, H)), dtype) for length in lengths]


def reference(arrays: list, ids: np.ndarray, slots: np.ndarray, window: int) -> np.ndarray:
    q, k, v, gq, gk, gv = (np.asarray(x, np.float64) for x in arrays)
    T = q.shape[1]
    out = np.zeros(q.shape)
    for b, t in np.ndindex(B, T):
        g = slots[b].tolist().index(t) if t in slots[b] else None
        near = np.abs(np.arange(T) - t) <= window
        sees = (ids[b] == ids[b, t]) & (near | np.isin(np.arange(T), slots[b]) | (g is not None))
        query, keys, values = (q[b, t], k[b], v[b]) if g is None else (gq[b, g], gk[b], gv[b])
        scores = np.einsum("NH,SNH->NS", query, keys[sees]) / np.sqrt(H)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        out[b, t] = np.einsum("NS,SNH->NH", weights / weights.sum(-1, keepdims=True), values[sees])
    return out


@pytest.mark.parametrize(("T", "window"), [(1, 3), (5, 64), (130, 1), (257, 30)])
def test_equals_numpy(T: int, window: int) -> None:
    arrays, ids, slots = inputs(T), segments(T), global_slots(T)
    expected = reference(arrays, ids, slots, window)
    for backend in ("dense", "banded"):
        out = run(*arrays, ids, slots, window=window, backend=backend)
        np.testing.assert_allclose(out, expected, atol=2e-5, err_msg=backend)


def test_gradients_of_banded_equal_dense() -> None:
    T, window = 161, 8
    ids, slots = jnp.asarray(segments(T)), jnp.asarray(global_slots(T))
    weight = jnp.asarray(np.random.default_rng(9).standard_normal((B, T, N, H)), jnp.float32)
    is_token = (ids > 0)[..., None, None]

    def gradients(backend: str) -> list[jax.Array]:
        def loss(arrays: list[jax.Array]) -> jax.Array:
            return (attend(*arrays, ids, slots, window=window, backend=backend) * weight * is_token).sum()

        return jax.jit(jax.grad(loss))(inputs(T))

    for name, a, b in zip(("q", "k", "v", "gq", "gk", "gv"), gradients("dense"), gradients("banded"), strict=True):
        np.testing.assert_allclose(b, a, atol=2e-5, err_msg=name)
        assert np.any(a), name
        if a.shape[1] == T:
            assert not np.any(np.where(is_token, 0, b)), f"padding has a gradient of {name}"


def test_one_that_is_global_has_no_other_query() -> None:
    T = 40
    arrays, ids, slots = inputs(T), jnp.ones((B, T), jnp.int32), jnp.asarray(global_slots(T))
    gradient = jax.grad(lambda q: jnp.square(run(q, *arrays[1:], ids, slots, window=3, backend="dense")).sum())
    moved = np.any(np.asarray(gradient(arrays[0])), axis=(2, 3))
    assert np.flatnonzero(~moved[0]).tolist() == [0, T // 3, T // 2, T - 1] and moved[3].all()


@pytest.mark.parametrize("backend", ["dense", "banded"])
def test_a_document_does_not_see_another(backend: str) -> None:
    T = 200
    ids, slots = segments(T), jnp.asarray(global_slots(T))
    arrays = inputs(T)
    changed = [x if x.shape[1] == G else jnp.where((ids == 2)[..., None, None], -30 * x, x) for x in arrays]
    before, after = (np.asarray(run(*x, ids, slots, window=8, backend=backend)) for x in (arrays, changed))
    np.testing.assert_array_equal(after[ids != 2], before[ids != 2])
    assert np.abs(after - before)[ids == 2].max() > 1


@pytest.mark.parametrize("backend", ["dense", "banded"])
def test_dropout(backend: str) -> None:
    T, window, rate = 161, 8, 0.25
    q, k, v, gq, gk, gv = inputs(T)
    arrays = [q * 0, k, jnp.ones_like(v), gq * 0, gk, jnp.ones_like(gv)]
    ids, slots = jnp.ones((B, T), jnp.int32), jnp.tile(jnp.array([0, 80]), (B, 1))
    arrays[3] = arrays[3][:, :2]
    one, again, other = (
        np.asarray(run(*arrays, ids, slots, window=window, backend=backend, dropout=rate, key=jax.random.key(seed)))
        for seed in (0, 0, 1)
    )
    assert np.array_equal(one, again) and not np.array_equal(one, other)
    # Equal weights and values of one: an output is kept / (seen * (1 - rate)), 17 + 2 keys away from all borders.
    for tokens, seen in ((slice(20, 70), 19), ([0, 80], T)):
        kept = one[:, tokens] * seen * (1 - rate)
        np.testing.assert_allclose(kept, np.round(kept), atol=1e-3)
        assert kept.std() > 0.5 and one[:, tokens].mean() == pytest.approx(1, abs=0.05)


def test_bfloat16() -> None:
    T = 161
    arrays, ids, slots = inputs(T, "bfloat16"), segments(T), global_slots(T)
    out = run(*arrays, ids, slots, window=8, backend="banded")
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(out.astype(jnp.float32), reference(arrays, ids, slots, 8), atol=0.06)


def test_banded_never_holds_all_scores() -> None:
    T = 2048
    x, few = (jax.ShapeDtypeStruct((1, length, 1, 8), jnp.float32) for length in (T, 16))
    ids, slots = (jax.ShapeDtypeStruct((1, length), jnp.int32) for length in (T, 16))

    def temporaries(backend: str) -> int:
        def loss(*arrays: jax.Array) -> jax.Array:
            return attend(*arrays, window=64, backend=backend).sum()

        gradient = jax.jit(jax.grad(loss, tuple(range(6))))
        return gradient.lower(x, x, x, few, x, x, ids, slots).compile().memory_analysis().temp_size_in_bytes

    assert temporaries("banded") < 4 * T * T < temporaries("dense")  # scores [T, T] alone are 4 T T bytes
    assert temporaries("auto") == temporaries("banded")


def test_dropout_needs_a_key() -> None:
    x, slots = jnp.ones((1, 4, 1, 2)), jnp.zeros((1, 1), jnp.int32)
    with pytest.raises(ValueError, match=r"Attention dropout 0\.1 needs a key"):
        attend(x, x, x, x[:, :1], x, x, jnp.ones((1, 4), jnp.int32), slots, window=1, dropout=0.1)
