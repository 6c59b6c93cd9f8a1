"""Comparison of two sides, each of one or more runs or files of predictions, on the same examples.

The choice of tests follows Dror et al. 2018, "The Hitchhiker's Guide to Testing Statistical Significance in Natural
Language Processing": for accuracy the exact test of McNemar 1947, or with several seeds a permutation test on the means
per example; for other metrics the paired bootstrap, with the p-value of Berg-Kirkpatrick et al. 2012, "An Empirical
Investigation of Statistical Significance in NLP".
"""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.sparse
import scipy.stats

from jaxencoder.checkpoints.run import Step
from jaxencoder.evaluation.evaluate import open_run
from jaxencoder.evaluation.report import PREDICTIONS_FILE, prediction_records
from jaxencoder.evaluation.tables import format_mean, text_table
from jaxencoder.tasks.classification.predict import predictions
from jaxencoder.text.sources.formats import json_lines
from jaxencoder.text.sources.records import Record

RESAMPLES = 9_999  # with the measured difference 10,000, so that p-values are multiples of 0.0001
_MAX_CELLS = 1 << 24  # numbers in memory at once, over all resamples of a chunk
_LEVEL = 0.05  # significance level; the intervals cover 1 - _LEVEL


class Difference(NamedTuple):
    """A metric of two sides, each of one or more runs."""

    metric: str
    a: float  # means over the runs of a side
    b: float
    a_std: float | None  # standard deviations over the runs of a side; None for one run
    b_std: float | None
    low: float  # 95% interval of b - a over the resamples
    high: float
    p: float  # two-sided p-value of `test`
    test: str

    @property
    def difference(self) -> float:
        return self.b - self.a


class Comparison(NamedTuple):
    """The number of examples, and the difference of each metric, the main one first."""

    examples: int
    differences: list[Difference]


def compare(
    a: Sequence[str | Path],
    b: Sequence[str | Path],
    data: str | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
    step: Step | None = None,
) -> Comparison:
    """Test whether two sides differ by more than chance.

    Args:
        a, b: the folders of runs, of one or several seeds, or their predictions.jsonl files as `evaluate` writes them.
        data: source on which the runs predict; None: their validation data, which must be the same.
        seed, resamples: of the tests.
        step: checkpoint of the runs; None: as for `kept_step`, which `run_sweep` and `run_glue` measure.

    Returns:
        For classes accuracy, macro_f1 and matthews; for values spearman and pearson. See `Difference`.

    Raises:
        ValueError: the examples differ, some runs predict classes and some values, or the seed is negative.
    """
    if seed < 0:
        raise ValueError(f"seed is {seed}; give 0 or a positive whole number")
    names = [str(name) for name in (*a, *b)]
    all_runs = [_read_predictions(Path(name), data, step) for name in names]
    _check_same_examples(names, all_runs)
    columns = [[x["truth"] for x in all_runs[0]], *([x["prediction"] for x in run] for run in all_runs)]
    if any(isinstance(x, list) for column in columns for x in column):
        raise ValueError("these predict lists of classes; compare runs that predict one class or a value for a record")
    is_class = {isinstance(x, str) for column in columns for x in column}
    if len(is_class) > 1:
        raise ValueError("some of these predict classes, and some values; compare those of one kind")
    if is_class == {True}:
        ids = {name: i for i, name in enumerate(sorted({x for column in columns for x in column}))}
        labels, *runs = np.array([[ids[x] for x in column] for column in columns], np.int64)
        test = partial(compare_classes, classes=len(ids))
    else:
        labels, *runs = np.array(columns, np.float64)
        test = compare_values
        if not np.isfinite(runs).all():
            raise ValueError("some predictions are not finite, so they cannot be compared; is a model damaged?")
    sides = (np.array(side) for side in (runs[: len(a)], runs[len(a) :]))
    return Comparison(len(labels), test(labels, *sides, seed=seed, resamples=resamples))


def format_comparison(comparison: Comparison) -> str:
    """A text table with a row for each metric, times 100, and deviations over the runs of a side."""
    rows: list[Sequence[str]] = [("metric", "A", "B", "B - A", "95% interval", "p", "test")]
    for x in comparison.differences:
        sides = (format_mean({"mean": mean, "sd": sd}, 100, 2) for mean, sd in ((x.a, x.a_std), (x.b, x.b_std)))
        interval = f"{100 * x.low:+.2f} to {100 * x.high:+.2f}"
        rows.append((x.metric, *sides, f"{100 * x.difference:+.2f}", interval, f"{x.p:.4f}", x.test))
    return text_table(rows, str.ljust)


def describe_difference(x: Difference, a: str, b: str) -> str:
    """One sentence on whether sides named a and b differ by more than chance."""
    name, points = x.metric.replace("_", " "), 100 * x.difference
    numbers = f"{points:+.2f} points, 95% interval {100 * x.low:+.2f} to {100 * x.high:+.2f}, p = {x.p:.3g}, {x.test}"
    if x.p >= _LEVEL:
        return f"The difference in {name} between {b} and {a} may be chance ({numbers})."
    return f"{b} has a {'higher' if points > 0 else 'lower'} {name} than {a} ({numbers})."


def _read_predictions(path: Path, data: str | None, step: Step | None) -> list[Record]:
    """Records as of `prediction_records`."""
    if path.suffix != ".jsonl":
        return prediction_records(predictions(open_run(path, step), data))
    if data is not None:
        raise ValueError(f"{path} holds predictions for its own data; leave --data out, or name a run")
    records = []
    with path.open("rb") as stream:
        for where, record in json_lines(str(path), stream):
            values = record.get("truth"), record.get("prediction")
            if "record" not in record or not all(isinstance(value, str | list | int | float) for value in values):
                raise ValueError(f"{where}: not a line of a {PREDICTIONS_FILE}, as evaluate writes it")
            records.append(record)
    if not records:
        raise ValueError(f"{path} is empty: it holds no predictions")
    return records


def _check_same_examples(names: Sequence[str], all_runs: Sequence[Sequence[Record]]) -> None:
    first, *rest = (
        [(json.dumps(x["record"], sort_keys=True, default=str), x["truth"]) for x in run] for run in all_runs
    )
    for name, examples in zip(names[1:], rest, strict=True):
        if len(examples) != len(first):
            counts = f"{names[0]} predicts {len(first)} examples and {name} {len(examples)}"
            raise ValueError(f"{counts}; they must be the same ones: name them with --data")
        for number, (example_a, example_b) in enumerate(zip(first, examples, strict=True), 1):
            if example_a != example_b:
                where = f"example {number} of {names[0]} is not that of {name}"
                raise ValueError(f"{where}; they must be the same ones, in the same order")


def compare_classes(
    labels: np.ndarray, a: np.ndarray, b: np.ndarray, classes: int, seed: int = 0, resamples: int = RESAMPLES
) -> list[Difference]:
    """The accuracy, macro-F1 and Matthews correlation of two sides.

    The p-value of accuracy is that of McNemar's exact test for one run per side, else of the permutation test; those of
    macro-F1 and Matthews correlation are of the paired bootstrap.

    Args:
        labels: int [N], ids of the true classes.
        a, b: int [runs, N], predicted classes of each side; their numbers of runs may differ.
        classes: their number, C.
        seed, resamples: of the bootstrap and the permutation test.
    """
    N = len(labels)
    # Examples with the same label and predictions share a cell; drawing examples is drawing the counts of cells.
    cells, counts = np.unique(np.vstack([labels[None], a, b]), axis=1, return_counts=True)
    columns = np.arange(cells.shape[1])
    to_confusion = [  # of each run, [cells, C * C]
        scipy.sparse.csr_array((np.ones(len(columns)), (columns, cells[0] * classes + run)), (len(columns), classes**2))
        for run in cells[1:]
    ]

    def values(weights: np.ndarray) -> np.ndarray:
        """Metrics [metrics, runs, R] for the counts of cells [R, cells]."""
        confusions = (np.reshape(weights @ matrix, (-1, classes, classes)) for matrix in to_confusion)
        return np.stack([_class_metrics(x) for x in confusions], axis=1)

    rng = np.random.default_rng(seed)
    sizes = _chunk_sizes(resamples, max(classes**2, len(columns)))
    resampled = [values(rng.multinomial(N, counts / N, size).astype(np.float64)) for size in sizes]
    measured = values(counts[None].astype(np.float64))
    names = ("accuracy", "macro_f1", "matthews")
    accuracy, *rest = _differences(names, measured, np.concatenate(resampled, -1), len(a))
    correct_a, correct_b = (side == labels for side in (a, b))
    if len(a) == len(b) == 1:
        accuracy = accuracy._replace(p=mcnemar(correct_a[0], correct_b[0]), test="McNemar's exact test")
    else:
        p = permutation(correct_a.mean(0), correct_b.mean(0), seed, resamples)
        accuracy = accuracy._replace(p=p, test="permutation test")
    return [accuracy, *rest]


def compare_values(
    labels: np.ndarray, a: np.ndarray, b: np.ndarray, seed: int = 0, resamples: int = RESAMPLES
) -> list[Difference]:
    """Spearman's and Pearson's correlations of two sides; as `compare_classes`, with values float [N] and [runs, N]."""
    runs, N = np.vstack([a, b]), len(labels)

    def values(examples: np.ndarray) -> np.ndarray:
        """Metrics [metrics, runs, R] for indices of examples [R, N]."""
        true = labels[examples]
        ranks = scipy.stats.rankdata(true, axis=1)
        return np.array([
            [_correlation(scipy.stats.rankdata(run[examples], axis=1), ranks) for run in runs],
            [_correlation(run[examples], true) for run in runs],
        ])  # fmt: skip

    rng = np.random.default_rng(seed)
    resampled = [values(rng.integers(N, size=(size, N))) for size in _chunk_sizes(resamples, 8 * N)]
    return _differences(("spearman", "pearson"), values(np.arange(N)[None]), np.concatenate(resampled, -1), len(a))


def _chunk_sizes(resamples: int, cells: int) -> list[int]:
    """Numbers of resamples that fit into memory at once, each of `cells` numbers."""
    size = max(1, _MAX_CELLS // cells)
    return [min(size, resamples - start) for start in range(0, resamples, size)]


def mcnemar(a: np.ndarray, b: np.ndarray) -> float:
    """The two-sided p-value of McNemar's exact test, from the correct examples of two runs, bool [N] each."""
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    return float(scipy.stats.binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


def permutation(a: np.ndarray, b: np.ndarray, seed: int = 0, resamples: int = RESAMPLES) -> float:
    """The two-sided p-value of the difference of means of paired numbers, float [N] each, by swapping pairs."""
    if len(a) < 2:  # swapping a single pair leaves the size of the difference unchanged
        return 1.0
    result = scipy.stats.permutation_test(
        (a, b),
        lambda a, b, axis: np.mean(a, axis) - np.mean(b, axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=resamples,
        batch=max(1, _MAX_CELLS // (4 * len(a))),
        rng=np.random.default_rng(seed),
    )
    return float(result.pvalue)


def _differences(names: Sequence[str], measured: np.ndarray, resampled: np.ndarray, num_a: int) -> list[Difference]:
    """Differences by metric, from values [metrics, runs, 1] and resampled ones [metrics, runs, R].

    The first `num_a` runs are those of side a.
    """
    differences = []
    for name, runs, resamples in zip(names, measured[..., 0], resampled, strict=True):
        a, b = runs[:num_a], runs[num_a:]
        difference = b.mean() - a.mean()
        resampled_differences = resamples[num_a:].mean(0) - resamples[:num_a].mean(0)
        low, high = np.quantile(resampled_differences, [_LEVEL / 2, 1 - _LEVEL / 2])
        # Resamples scatter around the measured difference as chance does around zero. They do not scatter for a single
        # example or for equal ones, which cannot show significance.
        extreme = (np.abs(resampled_differences - difference) >= abs(difference) - 1e-12).sum()
        p = float((extreme + 1) / (len(resampled_differences) + 1)) if np.ptp(resampled_differences) else 1.0
        a_std, b_std = (float(side.std(ddof=1)) if len(side) > 1 else None for side in (a, b))
        means, interval = (float(a.mean()), float(b.mean())), (float(low), float(high))
        differences.append(Difference(name, *means, a_std, b_std, *interval, p, "paired bootstrap"))
    return differences


def _class_metrics(confusion: np.ndarray) -> np.ndarray:
    """Accuracy, macro-F1 and Matthews correlation [3, R] of confusion matrices [R, C, C], as in scikit-learn.

    Macro-F1 is over the classes that are true or predicted somewhere. The correlation is that of Gorodkin 2004 for
    several classes; 0 where it is undefined.
    """
    total, correct = confusion.sum((1, 2)), np.trace(confusion, axis1=1, axis2=2)
    predicted, true = confusion.sum(1), confusion.sum(2)
    both = predicted + true
    f1 = 2 * np.diagonal(confusion, axis1=1, axis2=2) / np.maximum(both, 1)
    covariance = correct * total - (predicted * true).sum(-1)
    variances = (total**2 - (predicted**2).sum(-1)) * (total**2 - (true**2).sum(-1))
    matthews = np.where(variances > 0, covariance / np.sqrt(np.maximum(variances, 1)), 0.0)
    return np.stack([correct / total, f1.sum(-1) / (both > 0).sum(-1), matthews])


def _correlation(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Pearson's correlation by row of [R, N] and [R, N]: [R]; 0 if either is constant."""
    x, y = (z - z.mean(-1, keepdims=True) for z in (x, y))
    scale = np.sqrt((x**2).sum(-1) * (y**2).sum(-1))
    return np.where(scale > 0, (x * y).sum(-1) / np.where(scale > 0, scale, 1), 0.0)
