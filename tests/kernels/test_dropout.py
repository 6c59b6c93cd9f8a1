import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxencoder.kernels.dropout import dropout, hashed_keep


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("size", [64, 63])
def test_the_share_dropped_is_the_rate_and_the_mean_stays(rate, size):
    y = np.asarray(dropout(jnp.ones((64, 50, size)), rate, jax.random.key(0)))
    dropped = y == 0
    tolerance = 5 * (rate * (1 - rate) / y.size) ** 0.5 + 1e-5
    assert abs(dropped.mean() - rate) <= tolerance
    np.testing.assert_allclose(y[~dropped], 1 / (1 - rate), rtol=2e-4)
    assert np.abs(dropped.mean((0, 1)) - rate).max() <= 6 * (rate * (1 - rate) / 3200) ** 0.5  # in every column


def test_the_two_halves_of_a_word_are_independent():
    dropped = np.asarray(dropout(jnp.ones((512, 256)), 0.5, jax.random.key(1)) == 0)
    assert abs((dropped[:, ::2] & dropped[:, 1::2]).mean() - 0.25) < 0.01


def test_equal_keys_drop_the_same_and_others_do_not():
    a, b, c = (np.asarray(dropout(jnp.ones((8, 128)), 0.5, jax.random.key(seed))) for seed in (2, 2, 3))
    assert (a == b).all() and (a != c).any()


def test_gradient_flows_where_nothing_was_dropped():
    x = jnp.arange(1.0, 129.0)
    y, pull = jax.vjp(lambda x: dropout(x, 0.25, jax.random.key(4)), x)
    np.testing.assert_allclose(pull(jnp.ones_like(y))[0], y / x, rtol=1e-6)


def test_keeps_the_dtype_and_needs_a_key():
    x = jnp.ones((4, 4), jnp.bfloat16)
    assert dropout(x, 0.5, jax.random.key(0)).dtype == jnp.bfloat16
    assert dropout(x, 0.0, None) is x
    with pytest.raises(ValueError, match=r"0\.5 needs a key"):
        dropout(x, 0.5, None)


def _kept(rate=0.5, seed=3, batch=2, heads=3, T=256, S=320, first_query=0, first_key=0):
    axes = (np.arange(batch), np.arange(heads), first_query + np.arange(T), first_key + np.arange(S))
    return np.asarray(hashed_keep(jnp.uint32(seed), *np.ix_(*axes), rate))


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 0.9])
def test_the_hash_drops_the_rate_everywhere(rate):
    kept = _kept(rate)
    sigma = (rate * (1 - rate)) ** 0.5
    assert abs(kept.mean() - (1 - rate)) <= 4 * sigma / kept.size**0.5
    for axis in range(4):  # along every row, column, ... of weights
        rest = tuple(other for other in range(4) if other != axis)
        count = kept.size / kept.shape[axis]
        assert np.abs(kept.mean(rest) - (1 - rate)).max() <= 5 * sigma / count**0.5
    assert np.abs(kept.mean(-1) - (1 - rate)).max() <= 6 * sigma / kept.shape[-1] ** 0.5
    assert np.abs(kept.mean(-2) - (1 - rate)).max() <= 6 * sigma / kept.shape[-2] ** 0.5


@pytest.mark.parametrize("axis", range(4))
@pytest.mark.parametrize("distance", [1, 2, 16, 128])
def test_neighbors_in_the_hash_are_independent(axis, distance):
    shape = [4, 4, 32, 32]
    shape[axis] = 160
    kept = _kept(0.5, 3, *shape)
    signs = np.moveaxis(np.where(kept, 1.0, -1.0), axis, 0)
    correlation = (signs[distance:] * signs[:-distance]).mean()
    assert abs(correlation) <= 4 / signs[distance:].size ** 0.5


def test_no_row_of_the_hash_is_another_shifted():
    signs = np.where(_kept(batch=1, heads=1, T=256, S=256)[0, 0], 1.0, -1.0)
    spectrum = np.fft.rfft(signs - signs.mean(-1, keepdims=True), axis=-1)
    for i in range(0, 256, 16):
        shifted = np.fft.irfft(spectrum * spectrum[i].conj(), n=256, axis=-1) / 256
        assert np.abs(np.delete(shifted, i, axis=0)).max() < 0.45  # 7 sigma; 1 for a copy
    values = np.linalg.svd(signs, compute_uv=False)
    assert values[0] < 2.2 * 256**0.5  # a random matrix of signs has its greatest singular value near 2 sqrt(n)


def test_seeds_of_the_hash_are_independent():
    kept = [np.where(_kept(seed=seed, batch=1), 1.0, -1.0) for seed in (0, 1, 2, 3, 2**31, 2**32 - 1)]
    for i, a in enumerate(kept):
        for b in kept[:i]:
            assert abs((a * b).mean()) <= 4 / a.size**0.5


def test_a_block_of_the_hash_is_a_part_of_the_full_mask():
    full = _kept()
    np.testing.assert_array_equal(_kept(T=64, S=64, first_query=128, first_key=192), full[..., 128:192, 192:256])
    assert (_kept(0.0)).all()
