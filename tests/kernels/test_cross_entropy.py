"""Cross-entropy in chunks: equal to a plain log_softmax in values and gradients, without the plain one's memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxencoder.kernels.cross_entropy import cross_entropy

B, K, D, V = 3, 7, 5, 19


def inputs(dtype: str = "float32") -> tuple[jax.Array, ...]:
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)  # noqa: E731
    targets = jnp.asarray(rng.integers(0, V, (B, K)), jnp.int32)
    weights = jnp.asarray(rng.integers(0, 3, (B, K)) / 2, jnp.float32)
    return draw(B, K, D).astype(dtype), draw(V, D), draw(V), targets, weights


def plain(hidden, table, bias, targets, weights):
    logits = jnp.einsum("BKD,VD->BKV", hidden.astype(jnp.float32), table) + bias
    losses = -jnp.take_along_axis(jax.nn.log_softmax(logits), targets[..., None], -1)[..., 0]
    return (weights * losses).sum(), (weights * (logits.argmax(-1) == targets)).sum()


@pytest.mark.parametrize("chunk", [1, 3, 7, 10])
def test_equals_log_softmax(chunk: int) -> None:
    arrays, rest = inputs()[:3], inputs()[3:]
    expected, expected_gradients = jax.jit(jax.value_and_grad(lambda x: 3 * plain(*x, *rest)[0]))(arrays)
    value, gradients = jax.jit(jax.value_and_grad(lambda x: 3 * cross_entropy(*x, *rest, chunk)[0]))(arrays)
    assert float(value) == pytest.approx(float(expected), rel=1e-6)
    for name, ours, theirs in zip(("hidden", "table", "bias"), gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5, err_msg=name)
    total, predictions = jax.jit(cross_entropy, static_argnums=5)(*arrays, *rest, chunk)  # the path without gradients
    np.testing.assert_allclose((total, (rest[1] * predictions.correct).sum()), plain(*arrays, *rest), rtol=1e-6)
    np.testing.assert_allclose((rest[1] * predictions.losses).sum(), total, rtol=1e-6)
    assert predictions.samples is None


def test_tells_correct_predictions() -> None:
    hidden, table, bias, _, weights = inputs()
    logits = jnp.einsum("BKD,VD->BKV", hidden, table) + bias
    best = logits.argmax(-1).astype(jnp.int32)
    assert cross_entropy(hidden, table, bias, best, weights, 4)[1].correct.all()
    assert not cross_entropy(hidden, table, bias, (best + 1) % V, weights, 4)[1].correct.any()


@pytest.mark.parametrize("V", [2, 19, 1000])
def test_samples_follow_the_softmax(V: int) -> None:
    """A slot's distribution: chi-square over its draws by evenly spread numbers, and the ends of the interval."""
    rng, n = np.random.default_rng(0), 20_000
    logits = jnp.asarray(2 * rng.standard_normal(V), jnp.float32).at[V - 1].set(-200.0)  # a token that never comes
    uniforms = jnp.asarray(np.r_[0.0, np.nextafter(np.float32(1), np.float32(0)), rng.random(n)], jnp.float32)[None]
    K = uniforms.shape[1]
    arrays = (jnp.ones((1, K, 1)), logits[:, None], jnp.zeros(V), jnp.zeros((1, K), jnp.int32), jnp.ones((1, K)))
    _, predictions = jax.jit(cross_entropy, static_argnums=5)(*arrays, 4096, uniforms)
    samples = np.asarray(predictions.samples)[0]
    assert samples[0] == 0 and samples[1] == V - 2 and samples.max() < V - 1
    expected = n * np.asarray(jax.nn.softmax(logits))
    often = expected > 5
    counts = np.bincount(samples[2:], minlength=V)
    square = ((counts - expected)[often] ** 2 / expected[often]).sum()
    assert square < often.sum() + 5 * np.sqrt(2 * often.sum())


def test_slots_of_weight_zero_do_not_count() -> None:
    hidden, table, bias, targets, weights = inputs()
    other = jnp.where((weights == 0)[..., None], 100.0, hidden)
    gradient = jax.jit(jax.value_and_grad(lambda h, t: cross_entropy(h, t, bias, targets, weights, 2)[0], (0, 1)))
    (value, (d_hidden, d_table)), (again, (_, d_table_again)) = gradient(hidden, table), gradient(other, table)
    assert float(value) == float(again)
    np.testing.assert_array_equal(d_table, d_table_again)
    assert not np.any(np.asarray(d_hidden)[weights == 0])


def test_large_logits_stay_finite() -> None:
    hidden, table, bias, targets, weights = inputs()
    value, gradients = jax.value_and_grad(lambda h: cross_entropy(h, table, bias, targets, weights, 4)[0])(hidden * 1e4)
    assert np.isfinite(value) and np.isfinite(gradients).all()


def test_bfloat16() -> None:
    arrays, rest = inputs("bfloat16")[:3], inputs()[3:]
    expected = jax.grad(lambda x: plain(*x, *rest)[0])(arrays)
    gradients = jax.grad(lambda x: cross_entropy(*x, *rest, 3)[0])(arrays)
    for ours, theirs in zip(gradients, expected, strict=True):
        assert ours.dtype == theirs.dtype
        theirs = theirs.astype(jnp.float32)
        np.testing.assert_allclose(ours.astype(jnp.float32), theirs, atol=0.02 * float(jnp.abs(theirs).max()))


@pytest.mark.parametrize("differentiate", [False, True])
def test_logits_never_fill_memory(differentiate: bool) -> None:
    B, K, D, V, chunk = 4, 64, 8, 20_000, 2
    specs = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in [(B, K, D), (V, D), (V,), (B, K), (B, K)]]
    specs[3] = jax.ShapeDtypeStruct((B, K), jnp.int32)

    def temporaries(loss) -> int:
        function = jax.grad(loss, (0, 1, 2)) if differentiate else loss
        return jax.jit(function).lower(*specs).compile().memory_analysis().temp_size_in_bytes

    logits = 4 * B * K * V
    assert temporaries(lambda *x: cross_entropy(*x, chunk)[0]) < logits / 4
    assert temporaries(lambda *x: plain(*x)[0]) > logits * (0.9 if differentiate else 0.2)  # the bound says something
