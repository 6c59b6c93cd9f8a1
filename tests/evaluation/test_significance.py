import numpy as np
import pytest
import scipy.stats
from sklearn import metrics

from jaxencoder.evaluation import significance
from jaxencoder.evaluation.significance import (
    compare_classes,
    compare_values,
    describe_difference,
    mcnemar,
    permutation,
)


def predicted(labels: np.ndarray, accuracy: float, classes: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    return np.where(random.random(len(labels)) < accuracy, labels, random.integers(classes, size=len(labels)))


def test_mcnemar_by_hand():
    a, b = (np.array([int(x) for x in text], bool) for text in ("1111110000", "1000001100"))
    # 5 only right in a, 2 only in b: twice the chance of 5 or more heads of 7.
    assert mcnemar(a, b) == pytest.approx(2 * (21 + 7 + 1) / 2**7)
    assert mcnemar(a, a) == 1


def test_permutation_by_hand():
    a, b = np.array([1.0, 1, 1, 0, 1]), np.array([0.0, 0, 0, 0, 0.5])
    # Of the 2**5 signs of the differences 1 1 1 0 0.5 the same sum, or its negative, comes up twice for each sign of 0.
    assert permutation(a, b) == pytest.approx(4 / 32)


@pytest.mark.parametrize("classes", [2, 5])
def test_metrics_are_those_of_scikit_learn(classes):
    labels = np.random.default_rng(0).integers(classes, size=200)
    runs = np.stack([predicted(labels, 0.6, classes, seed) for seed in range(4)])
    runs[3] = 0  # only one class
    found = compare_classes(labels, runs[:2], runs[2:], classes, resamples=10)
    functions = {
        "accuracy": metrics.accuracy_score,
        "macro_f1": lambda y, x: metrics.f1_score(y, x, average="macro", zero_division=0),
        "matthews": metrics.matthews_corrcoef,
    }
    assert [x.metric for x in found] == list(functions)
    for x in found:
        values = np.array([functions[x.metric](labels, run) for run in runs])
        assert (x.a, x.b) == pytest.approx((values[:2].mean(), values[2:].mean()))
        assert (x.a_std, x.b_std) == pytest.approx((values[:2].std(ddof=1), values[2:].std(ddof=1)))


def test_resamples_of_cells_are_those_of_examples():
    """The interval of the vectorised bootstrap is that of one written out with scikit-learn."""
    labels = np.random.default_rng(0).integers(3, size=120)
    a, b = (predicted(labels, share, 3, seed) for share, seed in ((0.5, 1), (0.65, 2)))
    found = compare_classes(labels, a[None], b[None], 3)[1]
    random = np.random.default_rng(3)
    changes = []
    for at in random.integers(120, size=(400, 120)):
        f1 = (metrics.f1_score(labels[at], run[at], average="macro") for run in (a, b))
        changes.append(np.subtract(*f1) * -1)
    np.testing.assert_allclose((found.low, found.high), np.quantile(changes, [0.025, 0.975]), atol=0.04)


def test_the_interval_of_accuracy_is_that_of_scipy():
    labels = np.random.default_rng(0).integers(2, size=300)
    a, b = (predicted(labels, share, 2, seed) for share, seed in ((0.5, 1), (0.6, 2)))
    found = compare_classes(labels, a[None], b[None], 2)[0]
    rights = ((a == labels).astype(float), (b == labels).astype(float))
    result = scipy.stats.bootstrap(
        rights, lambda x, y, axis: y.mean(axis) - x.mean(axis), paired=True, method="percentile", vectorized=True,
        rng=np.random.default_rng(0),
    )  # fmt: skip
    np.testing.assert_allclose((found.low, found.high), result.confidence_interval, atol=0.006)
    assert found.p == mcnemar(a == labels, b == labels) and found.test == "McNemar's exact test"


def test_chance_is_called_a_difference_one_time_in_twenty():
    labels = np.random.default_rng(0).integers(3, size=150)
    found = []
    for seed in range(200):
        a, b = (predicted(labels, 0.6, 3, 2 * seed + i)[None] for i in (0, 1))
        found.append([x.p < 0.05 for x in compare_classes(labels, a, b, 3, resamples=300)])
    shares = np.mean(found, axis=0)
    assert (shares < 0.1).all() and (shares[1:] > 0.01).all()  # the exact test of accuracy may be below


def test_several_seeds():
    labels = np.random.default_rng(0).integers(2, size=400)
    a, b = (np.stack([predicted(labels, share, 2, 10 * i + s) for s in range(3)]) for i, share in ((1, 0.5), (2, 0.7)))
    accuracy = compare_classes(labels, a, b, 2, resamples=999)[0]
    assert accuracy.test == "permutation test" and accuracy.p < 0.01 and accuracy.low > 0
    assert accuracy.p == permutation((a == labels).mean(0), (b == labels).mean(0), resamples=999)
    one = compare_classes(labels, a, b[:1], 2, resamples=99)[0]
    assert one.b_std is None and one.a_std > 0


def test_of_one_example_nothing_can_be_said():
    right, wrong = np.ones((2, 1), int), np.zeros((2, 1), int)
    assert permutation(np.ones(1), np.zeros(1)) == 1
    for a, b in ((right, wrong), (right[:1], wrong[:1])):
        found = compare_classes(right[0], a, b, 2, resamples=99)
        assert found[0].difference == -1 and [metric.p for metric in found] == [1, 1, 1]


def test_of_equal_sides_nothing_differs():
    labels = np.random.default_rng(0).integers(3, size=50)
    a = predicted(labels, 0.6, 3, 1)[None]
    for x in compare_classes(labels, a, a, 3, resamples=100):
        assert (x.difference, x.low, x.high, x.p) == (0, 0, 0, 1)
    values = np.random.default_rng(0).standard_normal((2, 40))
    for x in compare_values(values[0], values[1:], values[1:], resamples=100):
        assert (x.difference, x.low, x.high, x.p) == (0, 0, 0, 1)


def test_values_by_scipy():
    random = np.random.default_rng(0)
    labels = np.round(random.standard_normal(150), 1)  # with ties
    a, b = (labels + scale * random.standard_normal((2, 150)) for scale in (2.0, 0.5))
    found = compare_values(labels, a, b, resamples=2000)
    for x, function in zip(found, (scipy.stats.spearmanr, scipy.stats.pearsonr), strict=True):
        left, right = ([function(run, labels).statistic for run in side] for side in (a, b))
        assert (x.a, x.b) == pytest.approx((np.mean(left), np.mean(right)))
        assert 0 < x.low < x.difference < x.high and x.p < 0.01
    constant = compare_values(labels, a[:1] * 0, a[:1] * 0 + 1, resamples=10)
    assert all((x.a, x.b, x.p) == (0, 0, 1) for x in constant)


def test_neither_memory_nor_the_seed_decides(monkeypatch):
    labels = np.random.default_rng(0).integers(3, size=200)
    a, b = (predicted(labels, share, 3, seed)[None] for share, seed in ((0.5, 1), (0.6, 2)))
    found = compare_classes(labels, a, b, 3)
    assert compare_classes(labels, a, b, 3) == found
    other = compare_classes(labels, a, b, 3, seed=5)
    monkeypatch.setattr(significance, "_MAX_CELLS", 1000)
    parts = compare_classes(labels, a, b, 3)
    for x, y, z in zip(found, other, parts, strict=True):
        np.testing.assert_allclose(x[5:8], y[5:8], atol=0.02)
        np.testing.assert_allclose(x[5:8], z[5:8], atol=0.02)


def test_describe_difference():
    labels = np.arange(100) % 2
    found = compare_classes(labels, labels[None] * 0, labels[None], 2)[0]
    sentence = describe_difference(found, "A", "B")
    assert (
        sentence.startswith("B has a higher accuracy than A (+50.00 points, 95% interval +") and "McNemar" in sentence
    )
    assert describe_difference(found._replace(p=0.3), "A", "B").startswith(
        "The difference in accuracy between B and A may be chance (+50.00"
    )
