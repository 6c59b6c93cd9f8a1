"""Terms by distance: the skew, parts of a table, and scores of different numbers of queries and keys."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxencoder.kernels.relative import RelativeTerms, skew


@pytest.mark.parametrize(("T", "S"), [(1, 1), (3, 3), (2, 5), (5, 2), (1, 4), (4, 1)])
def test_skew_reads_each_distance_of_each_pair(T: int, S: int) -> None:
    x = np.arange(2.0 * T * (T + S)).reshape(2, T, T + S)
    expected = [[[x[b, i, T - 1 + j - i] for j in range(S)] for i in range(T)] for b in range(2)]
    y, pull = jax.vjp(skew, jnp.asarray(x))
    assert y.tolist() == np.array(expected).tolist()
    # The gradient of an item that is read goes back to where it was read, and nothing goes anywhere else.
    back = np.zeros_like(x)
    for b, i, j in np.ndindex(y.shape):
        back[b, i, T - 1 + j - i] += y[b, i, j]
    np.testing.assert_array_equal(pull(y)[0], back)


@pytest.mark.parametrize(("T", "S"), [(3, 3), (2, 5), (5, 2)])
def test_scores(T: int, S: int) -> None:
    rng = np.random.default_rng(0)
    q, k = rng.standard_normal((2, T, 3, 4)), rng.standard_normal((2, S, 3, 4))
    keys, queries, bias = (rng.standard_normal((T + S - 1, 3, 4)[:n]) for n in (3, 3, 2))
    rows = T - 1 + np.arange(S) - np.arange(T)[:, None]
    expected = np.einsum("BTNH,TSNH->BNTS", q, keys[rows]) + np.einsum("BSNH,TSNH->BNTS", k, queries[rows])
    expected += np.moveaxis(bias[rows], -1, 0)
    relative = RelativeTerms(*(jnp.asarray(x, jnp.float32) for x in (keys, queries, bias)))
    out = relative.scores(jnp.asarray(q, jnp.float32), jnp.asarray(k, jnp.float32))
    np.testing.assert_allclose(out, expected, atol=1e-5)


def test_rows_outside_are_zero() -> None:
    relative = RelativeTerms(bias=jnp.arange(1.0, 6.0)[:, None])
    part = lambda start, size: relative.rows(start, size).bias[:, 0].tolist()  # noqa: E731
    assert part(1, 3) == [2, 3, 4] and part(-2, 4) == [0, 0, 1, 2] and part(3, 4) == [4, 5, 0, 0]
    assert part(-1, 7) == [0, 1, 2, 3, 4, 5, 0] and part(7, 2) == [0, 0]
    assert relative.rows(jnp.asarray(2), 3).bias[:, 0].tolist() == [3, 4, 5]
    assert relative.keys is None and relative.rows(0, 1).queries is None
