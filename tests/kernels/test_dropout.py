import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxencoder.kernels.dropout import dropout


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
    both = (dropped[:, ::2] & dropped[:, 1::2]).mean()
    assert abs(both - 0.25) < 0.01


def test_equal_keys_drop_the_same_and_others_do_not():
    x = jnp.ones((8, 128))
    a, b, c = (np.asarray(dropout(x, 0.5, jax.random.key(seed))) for seed in (2, 2, 3))
    assert (a == b).all()
    assert (a != c).any()


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
