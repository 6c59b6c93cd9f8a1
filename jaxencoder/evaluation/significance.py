"""Is one run better than another, or was it chance: tests on the same examples, and the spread over several seeds.

Which test for which metric: Dror et al. 2018, "The Hitchhiker's Guide to Testing Statistical Significance in Natural
Language Processing". Accuracy of two runs by the exact test of McNemar 1947, of several seeds by swapping the sides of
each example's mean; other metrics by the paired bootstrap, with the p-value of Berg-Kirkpatrick et al. 2012, "An
Empirical Investigation of Statistical Significance in NLP".
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import scipy.sparse
import scipy.stats

RESAMPLES = 9_999
_CELLS = 1 << 24  # numbers of resamples in memory at once
_LEVEL = 0.05

Metric = Callable[[np.ndarray], np.ndarray]


class Difference(NamedTuple):
    """A metric of two sides, each of one or more runs.

    a, b: the means over the runs of a side. a_std, b_std: the standard deviations over its runs; None of one run.
    low, high: of b - a the interval that holds 95% of the resamples. p: how probable so large a difference, either way,
    is by chance. test: which one.
    """

    metric: str
    a: float
    b: float
    a_std: float | None
    b_std: float | None
    low: float
    high: float
    p: float
    test: str

    @property
    def difference(self) -> float:
        """b - a."""
        return self.b - self.a


def compare_classes(
    labels: np.ndarray, a: np.ndarray, b: np.ndarray, classes: int, seed: int = 0, resamples: int = RESAMPLES
) -> list[Difference]:
    """The accuracy, macro-F1 and Matthews correlation of two sides.

    Args:
        labels: int [N], ids of the true classes.
        a, b: int [runs, N], what the runs of each side predict; as many or not.
        classes: C, how many there are.
        seed: of the resampling.
        resamples: how often it is done.
    """
    N = len(labels)
    # Examples that all runs treat alike are one cell: to draw examples is to draw how many of each cell there are.
    cells, counts = np.unique(np.vstack([labels[None], a, b]), axis=1, return_counts=True)
    columns = np.arange(cells.shape[1])
    place = [
        scipy.sparse.csr_array((np.ones(len(columns)), (columns, cells[0] * classes + run)), (len(columns), classes**2))
        for run in cells[1:]
    ]

    def values(weights: np.ndarray) -> np.ndarray:
        """Each metric of each run [metrics, runs, R] on examples whose cells have the weights [R, cells]."""
        confusions = (np.reshape(weights @ one, (-1, classes, classes)) for one in place)
        return np.stack([[metric(x) for metric in _OF_CLASSES.values()] for x in confusions], axis=1)

    random = np.random.default_rng(seed)
    size = max(1, _CELLS // max(classes**2, len(columns)))
    sizes = [min(size, resamples - done) for done in range(0, resamples, size)]
    drawn = [values(random.multinomial(N, counts / N, n).astype(np.float64)) for n in sizes]
    found = _differences(tuple(_OF_CLASSES), values(counts[None].astype(np.float64)), np.concatenate(drawn, -1), len(a))
    right_a, right_b = (side == labels for side in (a, b))
    if len(a) == len(b) == 1:
        exact = {"p": mcnemar(right_a[0], right_b[0]), "test": "McNemar's exact test"}
    else:
        exact = {"p": permutation(right_a.mean(0), right_b.mean(0), seed, resamples), "test": "permutation test"}
    return [found[0]._replace(**exact), *found[1:]]


def compare_values(
    labels: np.ndarray, a: np.ndarray, b: np.ndarray, seed: int = 0, resamples: int = RESAMPLES
) -> list[Difference]:
    """Spearman's and Pearson's correlation of two sides; as `compare_classes`, with values float [N] and [runs, N]."""
    runs, N = np.vstack([a, b]), len(labels)

    def values(examples: np.ndarray) -> np.ndarray:
        """[metrics, runs, R] on examples [R, N]."""
        true = labels[examples]
        ranks = scipy.stats.rankdata(true, axis=1)
        return np.array([
            [_correlation(scipy.stats.rankdata(run[examples], axis=1), ranks) for run in runs],
            [_correlation(run[examples], true) for run in runs],
        ])  # fmt: skip

    random = np.random.default_rng(seed)
    size = max(1, _CELLS // (8 * N))
    drawn = [values(random.integers(N, size=(min(size, resamples - done), N))) for done in range(0, resamples, size)]
    return _differences(("spearman", "pearson"), values(np.arange(N)[None]), np.concatenate(drawn, -1), len(a))


def mcnemar(a: np.ndarray, b: np.ndarray) -> float:
    """The p-value of McNemar's exact test, two-sided, of which examples two runs have right, bool [N] each."""
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    return float(scipy.stats.binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


def permutation(a: np.ndarray, b: np.ndarray, seed: int = 0, resamples: int = RESAMPLES) -> float:
    """The p-value, two-sided, of the difference of means of paired numbers, float [N] each, by swapping pairs."""
    if len(a) < 2:  # swapped or not, one pair differs by as much
        return 1.0
    found = scipy.stats.permutation_test(
        (a, b),
        lambda a, b, axis: np.mean(a, axis) - np.mean(b, axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=resamples,
        batch=max(1, _CELLS // (4 * len(a))),
        rng=np.random.default_rng(seed),
    )
    return float(found.pvalue)


def describe_difference(found: Difference, a: str, b: str) -> str:
    """One sentence."""
    name, points = found.metric.replace("_", " "), 100 * found.difference
    numbers = f"{points:+.2f} points, 95% interval {100 * found.low:+.2f} to {100 * found.high:+.2f}, p = {found.p:.3g}"
    if found.p >= _LEVEL:
        return f"That {b} and {a} differ in {name} may be chance ({numbers}, {found.test})."
    return f"{b} has a {'higher' if points > 0 else 'lower'} {name} than {a} ({numbers}, {found.test})."


def _differences(names: Sequence[str], exact: np.ndarray, drawn: np.ndarray, first: int) -> list[Difference]:
    """Of each metric, from its value [metrics, runs, 1] and those of the resamples [metrics, runs, R]."""
    found = []
    for name, runs, resampled in zip(names, exact[..., 0], drawn, strict=True):
        a, b = runs[:first], runs[first:]
        difference = b.mean() - a.mean()
        changes = resampled[first:].mean(0) - resampled[:first].mean(0)
        low, high = np.quantile(changes, [_LEVEL / 2, 1 - _LEVEL / 2])
        # Resamples scatter around the difference as chance would around none; of one example, or of such as are all
        # alike, they do not, and nothing is known of chance.
        extreme = (np.abs(changes - difference) >= abs(difference) - 1e-12).sum()
        p = float((extreme + 1) / (len(changes) + 1)) if np.ptp(changes) else 1.0
        deviations = (float(side.std(ddof=1)) if len(side) > 1 else None for side in (a, b))
        means = (float(a.mean()), float(b.mean()))
        found.append(Difference(name, *means, *deviations, float(low), float(high), p, "paired bootstrap"))
    return found


def _accuracy(confusion: np.ndarray) -> np.ndarray:
    return np.trace(confusion, axis1=1, axis2=2) / confusion.sum((1, 2))


def _macro_f1(confusion: np.ndarray) -> np.ndarray:
    """Over the classes that are true or predicted somewhere, as scikit-learn's."""
    both = confusion.sum(1) + confusion.sum(2)
    f1 = 2 * np.diagonal(confusion, axis1=1, axis2=2) / np.maximum(both, 1)
    return f1.sum(-1) / (both > 0).sum(-1)


def _matthews(confusion: np.ndarray) -> np.ndarray:
    """Of many classes: Gorodkin 2004; 0 where it is not defined, as scikit-learn's."""
    total, right = confusion.sum((1, 2)), np.trace(confusion, axis1=1, axis2=2)
    predicted, true = confusion.sum(1), confusion.sum(2)
    covariance = right * total - (predicted * true).sum(-1)
    variances = (total**2 - (predicted**2).sum(-1)) * (total**2 - (true**2).sum(-1))
    return np.where(variances > 0, covariance / np.sqrt(np.maximum(variances, 1)), 0.0)


_OF_CLASSES: dict[str, Metric] = {"accuracy": _accuracy, "macro_f1": _macro_f1, "matthews": _matthews}


def _correlation(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Pearson's, of each row of [R, N] and [R, N]: [R]; 0 where either is constant."""
    x, y = (z - z.mean(-1, keepdims=True) for z in (x, y))
    spread = np.sqrt((x**2).sum(-1) * (y**2).sum(-1))
    return np.where(spread > 0, (x * y).sum(-1) / np.where(spread > 0, spread, 1), 0.0)
