"""The order of rows as a pure function of seed and position: shuffled epochs, and mixtures of sources.

An epoch's order is a pseudo-random permutation that is computed, not stored: a Feistel network over the row numbers
with cycle walking (Black and Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002). So any batch is found at
once, whatever the size of the data, and the step is all the state that a run needs to save. (grain's shuffle does the
same for one index at a time: 80 ms for a batch of 4096.)
"""

from collections.abc import Sequence

import numpy as np

_ROUNDS = 8
_PERIOD = 1 << 16  # draws before a mixture's pattern repeats: the resolution of its weights


def mixture_weights(sizes: np.ndarray, weights: Sequence[float] = (), temperature: float = 1.0) -> np.ndarray:
    """The probabilities with which a mixture draws from its sources, float64 [sources] summing to 1.

    Args:
        sizes: rows of each source, at least 1.
        weights: one per source, as `DataConfig` checks them; empty takes size ** (1 / temperature).
        temperature: 1 draws in proportion to size, larger is flatter (XLM-R, arXiv:1911.02116: alpha = 1/temperature).
    """
    if not weights:
        scaled = (sizes / sizes.max()) ** (1 / temperature)  # divided by the largest first so that no power overflows
        return scaled / scaled.sum()
    if len(weights) != len(sizes):
        raise ValueError(f"{len(weights)} weights for {len(sizes)} sources; give one weight per source")
    if temperature != 1:
        raise ValueError(f"temperature {temperature} does not apply to weights {weights}; set only one of them")
    return np.array(weights, np.float64) / np.sum(weights)


def interleave(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A periodic pattern that draws from each source of positive weight as evenly as the weight allows.

    Weights [0.75, 0.25], which sum to 1, repeat the sources 0 0 1 0. Each is drawn at least once in a period.

    Returns:
        (sources, ranks, counts), all int64: the source of each draw of a period, how many draws of that source precede
        it, and each source's draws per period.
    """
    exact = weights * _PERIOD
    counts = np.where(weights > 0, np.maximum(np.floor(exact), 1), 0).astype(np.int64)
    counts[np.argsort(counts - exact, kind="stable")[: max(_PERIOD - counts.sum(), 0)]] += 1
    counts //= np.gcd.reduce(counts)
    sources = np.repeat(np.arange(len(counts)), counts)
    ranks = np.concatenate([np.arange(count) for count in counts])
    order = np.argsort((ranks + 0.5) / counts[sources], kind="stable")
    return sources[order], ranks[order], counts


def permute(positions: np.ndarray, size: int, seed: int, epochs: np.ndarray) -> np.ndarray:
    """The rows, int64 [n], at some positions of shuffled epochs: for each epoch a permutation of 0 .. size - 1.

    Args:
        positions: int64 [n], each below size.
        size: rows of an epoch.
        seed, epochs: choose the permutation; epochs is int64 [n].
    """
    half = max(1, (max(size - 1, 1).bit_length() + 1) // 2)
    mask = np.uint64((1 << half) - 1)
    keys = _mix(_mix(np.asarray(seed & (2**64 - 1), np.uint64)) + np.asarray(epochs).astype(np.uint64))
    out = np.asarray(positions).astype(np.uint64)
    walking = np.arange(len(out))
    while len(walking):
        left, right = out[walking] >> np.uint64(half), out[walking] & mask
        for number in range(_ROUNDS):
            noise = _mix(keys[walking] + right + (np.uint64(number + 1) << np.uint64(40)))
            left, right = right, left ^ (noise & mask)
        out[walking] = (left << np.uint64(half)) | right
        # The network permutes the next power of 4: numbers beyond the rows go through it again.
        walking = walking[out[walking] >= size]
    return out.astype(np.int64)


def _mix(x: np.ndarray) -> np.ndarray:
    """The finalizer of splitmix64 (Steele et al., OOPSLA 2014), uint64 to uint64."""
    with np.errstate(over="ignore"):
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))
