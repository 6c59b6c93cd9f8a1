"""Orders of rows are permutations that look random, and mixtures have their weights."""

import numpy as np
import pytest

from jaxencoder.text.order import interleave, mixture_weights, permute


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 17, 64, 65, 1000])
def test_permutations(size):
    seen = []
    for seed, epoch in ((0, 0), (0, 1), (1, 0), (2**63, 10**6)):
        order = permute(np.arange(size), size, seed, np.full(size, epoch))
        assert sorted(order.tolist()) == list(range(size))
        seen.append(tuple(order.tolist()))
    if size > 16:
        assert len(set(seen)) == 4


def test_permutations_look_random():
    """Every row is equally likely at every position, and neighbors are separated."""
    size, epochs = 10, 4000
    positions, numbers = np.tile(np.arange(size), epochs), np.repeat(np.arange(epochs), size)
    orders = permute(positions, size, 5, numbers).reshape(epochs, size)
    table = np.stack([(orders == value).sum(0) for value in range(size)])
    # Chi-squared with 81 degrees of freedom is below 130 in 99.96 of 100 cases.
    assert ((table - epochs / size) ** 2 / (epochs / size)).sum() < 130
    big = permute(np.arange(10000), 10000, 5, np.zeros(10000, int))
    assert abs(np.corrcoef(big[:-1], big[1:])[0, 1]) < 0.05
    assert abs(np.corrcoef(np.arange(10000), big)[0, 1]) < 0.05


@pytest.mark.parametrize("weights", [[1.0], [0.5, 0.5], [0.9999999, 1e-7], [0.2, 0.3, 0.5], [0.0, 1.0], [1 / 3] * 3])
def test_interleaving(weights):
    weights = np.array(weights) / sum(weights)
    sources, ranks, counts = interleave(weights)
    assert len(sources) == counts.sum() <= 1 << 17
    assert ((counts > 0) == (weights > 0)).all()
    np.testing.assert_allclose(counts / counts.sum(), weights, atol=1e-4)
    for k in range(len(weights)):
        assert ranks[sources == k].tolist() == list(range(counts[k]))
        share = np.cumsum(sources == k) - np.arange(1, len(sources) + 1) * counts[k] / counts.sum()
        assert np.abs(share).max() < len(weights)


@pytest.mark.parametrize(
    ("sizes", "weights", "temperature", "expected"),
    [
        ([1, 3], (), 1.0, [0.25, 0.75]),
        ([1, 16], (), 2.0, [0.2, 0.8]),
        ([1, 16], (), float("inf"), [0.5, 0.5]),
        ([1, 1e300], (), 0.01, [0, 1]),
        ([10, 1, 5], (1, 3, 0), 1.0, [0.25, 0.75, 0]),
    ],
)
def test_mixture_weights(sizes, weights, temperature, expected) -> None:
    probabilities = mixture_weights(np.array(sizes), weights, temperature)
    np.testing.assert_allclose(probabilities, expected, rtol=1e-12, atol=1e-300)
    assert probabilities.dtype == np.float64


def test_mixture_weights_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="1 weights for 2 sources"):
        mixture_weights(np.array([1, 2]), (1,))
    with pytest.raises(ValueError, match="does not apply"):
        mixture_weights(np.array([1, 2]), (1, 2), 2.0)
