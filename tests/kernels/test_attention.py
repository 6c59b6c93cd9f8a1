"""Attention: every backend equals softmax written out in numpy, in values and gradients, for any length and window."""

import itertools
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxencoder.kernels.attention import attention
from jaxencoder.kernels.dropout import hashed_keep
from jaxencoder.kernels.inputs import ATTENDED, AttentionOptions, Segments
from jaxencoder.kernels.relative import RelativeTerms
from tests.kernels.examples import TERMS, B, H, N, inputs, padded, reference, segments, tables


@partial(jax.jit, static_argnames=("options",))
def _run(*arrays: jax.Array, options: AttentionOptions, **rest) -> jax.Array:
    return attention(*arrays, options=options, **rest)


def run(
    *arrays: jax.Array,
    relative: RelativeTerms | None = None,
    key: jax.Array | None = None,
    **options,
) -> jax.Array:
    return _run(*arrays, relative=relative, key=key, options=AttentionOptions(**options))


LAYERS = [("dense", 0), ("dense", 8), ("banded", 8), ("banded", 64), ("chunked", 0)]
ROWS = {"packed": segments, "padded": padded}


@pytest.mark.parametrize(("T", "window"), [(1, 3), (5, 64), (130, 1), (161, 8), (257, 64), (300, 130), (50, 0), (1, 0)])
def test_equals_numpy(T: int, window: int) -> None:
    q, k, v = inputs(T)
    ids = segments(T)
    expected = reference(q, k, v, ids, window)
    for backend in ("dense", "banded", "auto") if window else ("dense", "chunked", "auto"):
        out = run(q, k, v, jnp.asarray(ids), window=window, backend=backend)
        np.testing.assert_allclose(out, expected, atol=2e-5, err_msg=backend)


@pytest.mark.parametrize(("T", "window"), [(1, 3), (161, 8), (300, 130), (300, 0)])
def test_causal_equals_numpy(T: int, window: int) -> None:
    q, k, v = inputs(T)
    ids, relative = segments(T), tables(T)
    expected = reference(q, k, v, ids, window, relative, causal=True)
    for backend in ("dense", "banded", "auto") if window else ("dense", "chunked", "auto"):
        out = run(q, k, v, jnp.asarray(ids), relative=relative, window=window, backend=backend, causal=True)
        np.testing.assert_allclose(out, expected, atol=2e-5, err_msg=backend)


@pytest.mark.parametrize(("backend", "window"), LAYERS)
def test_hidden_keys(backend: str, window: int) -> None:
    """Tokens that none attends to attend to the others of their document, and could be anything."""
    (q, k, v), ids = inputs(161), segments(161)
    is_hidden = np.random.default_rng(0).random(ids.shape) < 0.3
    keys = jnp.asarray(np.where(is_hidden, -1, ids))
    expected = run(q, k, v, Segments(jnp.asarray(ids), keys), window=window, backend="dense")
    k, v = (jnp.where(is_hidden[..., None, None], 100.0, x) for x in (k, v))
    out = run(q, k, v, Segments(jnp.asarray(ids), keys), window=window, backend=backend)
    sees_one = ((ids[:, :, None] == np.asarray(keys)[:, None]) & _near(161, window)).any(-1)
    np.testing.assert_allclose(np.asarray(out)[sees_one], np.asarray(expected)[sees_one], atol=2e-5)


def _near(T: int, window: int) -> np.ndarray:
    distance = np.abs(np.arange(T) - np.arange(T)[:, None])
    return distance <= (window or T)


def test_scale() -> None:
    (q, k, v), ids = inputs(40), segments(40)
    out = run(q, k, v, jnp.asarray(ids), scale=0.3)
    np.testing.assert_allclose(out, reference(q * 0.3 * H**0.5, k, v, ids, 0), atol=2e-5)


@pytest.mark.parametrize(
    ("rows", "terms", "causal"),
    [
        *itertools.product(ROWS, [(), TERMS], [False]),
        *(("packed", (term,), False) for term in TERMS),
        ("packed", TERMS, True),
    ],
)
@pytest.mark.parametrize("window", [0, 64])
def test_backends_equal_dense(window: int, causal: bool, rows: str, terms: tuple[str, ...]) -> None:
    """Values to 1e-5 and gradients, float32: without a window chunked, with one banded."""
    T, backend = 161, "banded" if window else "chunked"
    ids = ROWS[rows](T)
    is_token = (ids > 0)[..., None, None]
    weight = np.random.default_rng(9).standard_normal((B, T, N, H)).astype(np.float32) * is_token

    @partial(jax.jit, static_argnums=1)
    def differentiated(arrays: tuple, backend: str) -> tuple:
        def loss(arrays: tuple) -> tuple[jax.Array, jax.Array]:
            *qkv, relative = arrays
            options = AttentionOptions(window, backend=backend, causal=causal)
            out = attention(*qkv, jnp.asarray(ids), relative=relative, options=options)
            return (out * weight).sum(), out

        (_, out), gradients = jax.value_and_grad(loss, has_aux=True)(arrays)
        return out, gradients

    arrays = (*inputs(T), tables(T, terms))
    (expected, expected_gradients), (out, gradients) = (differentiated(arrays, name) for name in ("dense", backend))
    exact = reference(*arrays[:3], ids, window, arrays[3], causal=causal)
    np.testing.assert_allclose(np.where(is_token, out, 0), np.where(is_token, exact, 0), atol=1e-5)
    np.testing.assert_allclose(np.where(is_token, expected, 0), np.where(is_token, exact, 0), atol=1e-5)
    for a, b in zip(jax.tree.leaves(expected_gradients), jax.tree.leaves(gradients), strict=True):
        assert np.any(a)
        np.testing.assert_allclose(b, a, atol=1e-5 * max(1, np.abs(a).max()))
    assert not any(np.any(np.where(is_token, 0, gradient)) for gradient in gradients[:3]), "padding has a gradient"


@pytest.mark.parametrize(("backend", "window"), LAYERS)
def test_bfloat16(backend: str, window: int) -> None:
    T, ids = 161, segments(161)
    q, k, v = (x / 2 for x in inputs(T, "bfloat16"))
    relative = tables(T, dtype="bfloat16")
    out = run(q, k, v, jnp.asarray(ids), relative=relative, window=window, backend=backend)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(out.astype(jnp.float32), reference(q, k, v, ids, window, relative), atol=2e-2)


@pytest.mark.parametrize(("T", "window"), [(1, 0), (50, 0), (130, 8)])
def test_division_after_the_product(T: int, window: int) -> None:
    q, k, v = inputs(T)
    q = q * jnp.array([1, 1, 30, -30])[:, None, None, None]  # scores of rows 2 and 3 far from 0
    ids, relative = segments(T), tables(T)
    out = run(q, k, v, jnp.asarray(ids), relative=relative, window=window, backend="dense", defer_normalization=True)
    np.testing.assert_allclose(out, reference(q, k, v, ids, window, relative), atol=2e-5)


@pytest.mark.parametrize(("backend", "window"), LAYERS)
def test_a_document_does_not_see_another(backend: str, window: int) -> None:
    ids, qkv = jnp.asarray(segments(200)), inputs(200)
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


@pytest.mark.parametrize(("backend", "window"), LAYERS)
def test_dropout_drops_the_same_weights_in_every_backend(backend: str, window: int) -> None:
    T, rate, key = 161, 0.25, jax.random.key(3)
    q, k, v = inputs(T)
    ids, relative = segments(T), tables(T)
    out = run(q, k, v, ids, relative=relative, window=window, backend=backend, dropout=rate, key=key)
    seed = jax.random.bits(key, (), jnp.uint32)
    places = np.ix_(*(np.arange(size, dtype=np.uint32) for size in (B, N, T, T)))
    kept = np.asarray(hashed_keep(seed, *places, rate)) / (1 - rate)
    np.testing.assert_allclose(out, reference(q, k, v, ids, window, relative, kept), atol=1e-5)
    other = run(q, k, v, ids, relative=relative, window=window, backend=backend, dropout=rate, key=jax.random.key(4))
    assert not np.allclose(out, other, atol=0.1)


@pytest.mark.parametrize(
    ("backend", "window", "terms"), [("banded", 64, ()), ("chunked", 0, ()), ("chunked", 0, TERMS)]
)
def test_all_scores_are_never_held(backend: str, window: int, terms: tuple[str, ...]) -> None:
    def temporaries(backend: str, T: int) -> int:
        x, ids = jax.ShapeDtypeStruct((1, T, 1, 8), jnp.float32), jax.ShapeDtypeStruct((1, T), jnp.int32)
        shapes = {name: (2 * T - 1, 1) if name == "bias" else (2 * T - 1, 1, 8) for name in terms}
        relative = RelativeTerms(**{name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()})

        def loss(arrays: tuple, ids: jax.Array) -> jax.Array:
            options = AttentionOptions(window, backend=backend)
            return attention(*arrays[:3], ids, relative=arrays[3], options=options).sum()

        gradient = jax.jit(jax.grad(loss))
        return gradient.lower((x, x, x, relative), ids).compile().memory_analysis().temp_size_in_bytes

    T = 8192
    memory = temporaries(backend, T)
    assert memory < 4 * T * T < temporaries("dense", T)  # scores [T, T] alone are 4 T T bytes
    assert memory < 2.2 * temporaries(backend, T // 2)
    assert memory == temporaries("auto", T)


def test_no_mask_of_all_pairs_is_held_in_a_scan_over_layers() -> None:
    T, options = 8192, AttentionOptions(dropout=0.1, backend="chunked")
    x, ids = jax.ShapeDtypeStruct((1, T, 1, 8), jnp.float32), jax.ShapeDtypeStruct((1, T), jnp.int32)

    def loss(x: jax.Array, ids: jax.Array, keys: jax.Array) -> jax.Array:
        layer = lambda x, key: (attention(x, x, x, ids, key=key, options=options), None)  # noqa: E731
        return jax.lax.scan(layer, x, keys)[0].sum()

    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 2))
    memory = jax.jit(jax.grad(loss)).lower(x, ids, keys).compile().memory_analysis()
    assert memory.temp_size_in_bytes < T * T  # of a mask, a byte each


def test_a_policy_keeps_what_blocks_leave() -> None:
    x, ids = jnp.ones((1, 512, 1, 8)), jnp.ones((1, 512), jnp.int32)
    options = AttentionOptions(backend="chunked")
    attend = lambda x: attention(x, x, x, ids, options=options)  # noqa: E731

    def maxima(policy: Callable[..., bool] | None) -> int:
        loss = lambda x: jax.checkpoint(attend, policy=policy)(2 * x).sum()  # noqa: E731
        return str(jax.make_jaxpr(jax.grad(loss))(x)).count("reduce_max")

    assert maxima(None) == 2  # of the forward pass, and of its repetition in the backward pass
    assert maxima(jax.checkpoint_policies.save_only_these_names(ATTENDED)) == 1


def test_errors() -> None:
    x, ids = jnp.ones((1, 4, 1, 2)), jnp.ones((1, 4), jnp.int32)
    with pytest.raises(ValueError, match="Rows of 4 tokens have 7 distances, but a table has 8 rows"):
        attention(x, x, x, ids, relative=RelativeTerms(bias=jnp.ones((8, 1))))
    with pytest.raises(ValueError, match=r"Attention dropout 0\.1 needs a key"):
        attention(x, x, x, ids, options=AttentionOptions(dropout=0.1))
    with pytest.raises(ValueError, match="The attention backend is 'flash'; use auto, dense, banded"):
        attention(x, x, x, ids, options=AttentionOptions(backend="flash"))
