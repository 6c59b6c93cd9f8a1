"""Comparison of runs: tests that agree with scipy and scikit-learn, and sides that cannot be compared."""

import json

import numpy as np
import pytest
import scipy.stats
from sklearn import metrics

from jaxencoder.config import DataConfig, RunConfig
from jaxencoder.config_io import save
from jaxencoder.evaluation import compare as compare_module
from jaxencoder.evaluation import evaluate as module
from jaxencoder.evaluation.compare import (
    compare,
    compare_classes,
    compare_values,
    describe_difference,
    format_comparison,
    mcnemar,
    permutation,
)
from jaxencoder.evaluation.evaluate import evaluate
from jaxencoder.training.config import TrainingConfig
from tests.tasks.conftest import write_data


def write(path, truths, predictions, record=lambda i: {"text": f"t{i}"}):
    columns = enumerate(zip(truths, predictions, strict=True))
    lines = [{"record": record(i), "truth": truth, "prediction": prediction} for i, (truth, prediction) in columns]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def sides(tmp_path):
    random = np.random.default_rng(0)
    labels = random.integers(3, size=60)
    runs = [np.where(random.random(60) < share, labels, random.integers(3, size=60)) for share in (0.4, 0.5, 0.8)]
    names = np.array(["neutral", "bad", "good"])
    files = [write(tmp_path / f"{i}.jsonl", names[labels].tolist(), names[run].tolist()) for i, run in enumerate(runs)]
    return files, labels, runs


def test_files_of_classes(sides):
    files, labels, runs = sides
    actual = compare(files[:1], files[2:])
    assert actual.examples == 60 and actual.differences[0].test == "McNemar's exact test"
    expected = compare_classes(labels, *(np.array(run)[None] for run in (runs[0], runs[2])), 3)
    for one, other in zip(actual.differences, expected, strict=True):
        assert (one.metric, one.a, one.b) == (other.metric, pytest.approx(other.a), pytest.approx(other.b))
        assert one.p == pytest.approx(other.p, abs=0.02)  # classes of another order draw other resamples
    several = compare(files[:2], files[2:]).differences[0]
    accuracies = [(run == labels).mean() for run in runs]
    assert several.a == pytest.approx(np.mean(accuracies[:2])) and several.b == pytest.approx(accuracies[2])
    assert several.a_std == pytest.approx(np.std(accuracies[:2], ddof=1)) and several.b_std is None


def test_files_of_values(tmp_path):
    labels = np.random.default_rng(0).standard_normal(40)
    runs = labels + np.random.default_rng(1).standard_normal((2, 40))
    files = [write(tmp_path / f"{i}.jsonl", labels.tolist(), run.tolist()) for i, run in enumerate(runs)]
    expected = compare_values(labels, runs[:1], runs[1:], resamples=99)
    assert compare(files[:1], files[1:], resamples=99).differences == expected


def test_lines_of_a_file_end_where_json_does(tmp_path):
    """Texts may hold what Unicode calls the end of a line, and are written as they are."""
    texts = ["one\u2028two", "one\u2029two", "one\x85two"]
    lines = [{"record": {"text": text}, "truth": "a", "prediction": "b"} for text in texts]
    file = tmp_path / "a.jsonl"
    file.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    assert compare([file], [file], resamples=9).examples == 3


def test_runs_and_files_of_them(classifier, regressor, tmp_path):
    label = lambda positive, i: "yes" if positive else "no"  # noqa: E731
    data = write_data(tmp_path / "test.jsonl", 20, label, seed=9)
    result = evaluate(classifier.folder, data=data, report=tmp_path / "report")
    same = compare([classifier.folder], [classifier.folder], data, resamples=9)
    assert same.examples == 20 and same.differences[0].a == pytest.approx(result["accuracy"])
    assert all((x.difference, x.p) == (0, 1) for x in same.differences)
    held_out = compare([classifier.folder], [classifier.folder], resamples=9)
    assert held_out.examples == 53
    evaluate(classifier.folder, report=tmp_path / "report")
    mixed = compare([classifier.folder], [tmp_path / "report" / "predictions.jsonl"], resamples=9)
    assert mixed.differences == held_out.differences
    with pytest.raises(ValueError, match="example 1 of .*classifier is not that of .*regressor"):
        compare([classifier.folder], [regressor.folder], step="latest")


def test_which_checkpoint(tmp_path, monkeypatch):
    """Of a run the best where one is kept, as sweep and glue have it, or the one that is asked for."""

    def load(folder, step):
        raise FileNotFoundError(f"asked for {step}")

    monkeypatch.setattr(module, "load", load)
    for keep_best, share, default in ((True, 0.1, "best"), (True, 0.0, "latest"), (False, 0.1, "latest")):
        folder = tmp_path / f"{keep_best}{share}"
        (folder / "checkpoints").mkdir(parents=True)
        data, training = DataConfig(validation_fraction=share), TrainingConfig(keep_best=keep_best)
        save(RunConfig(data=data, training=training), folder)
        for step, expected in ((None, default), ("latest", "latest"), ("best", "best"), (7, 7)):
            with pytest.raises(FileNotFoundError, match=f"asked for {expected}$"):
                compare([folder], [folder], step=step)


@pytest.mark.parametrize(
    ("truths", "predictions", "record", "message"),
    [
        (["a"], ["a"], lambda i: {"text": "t0"}, "predicts 2 examples and .* 1; they must be the same ones"),
        (["a", "b"], ["a", "b"], lambda i: {"text": "t0"}, "example 2 of .* is not that of"),
        (["a", "a"], ["a", "b"], lambda i: {"text": f"t{i}"}, "example 2 of .* is not that of"),
        (["a", "b"], ["a", 0.5], lambda i: {"text": f"t{i}"}, "some of these predict classes, and some values"),
    ],
)
def test_sides_that_cannot_be_compared(tmp_path, truths, predictions, record, message):
    a = write(tmp_path / "a.jsonl", ["a", "b"], ["a", "a"])
    with pytest.raises(ValueError, match=message):
        compare([a], [write(tmp_path / "b.jsonl", truths, predictions, record)])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty: it holds no predictions"),
        ("{", r"b\.jsonl:1: not JSON"),
        ('{"text": "a"}', r"b\.jsonl:1: not a line of a predictions\.jsonl"),
        ("7", r"b\.jsonl:1: int, not a JSON object"),
        ("[" * 100_000, r"b\.jsonl:1: not JSON"),
        ('{"record": {}, "truth": {"a": 1}, "prediction": "a"}', r"b\.jsonl:1: not a line of"),
        ('{"record": {}, "truth": "a", "prediction": null}', r"b\.jsonl:1: not a line of"),
    ],
)
def test_files_that_hold_no_predictions(tmp_path, text, message):
    a = write(tmp_path / "a.jsonl", ["a", "b"], ["a", "a"])
    (tmp_path / "b.jsonl").write_text(text)
    with pytest.raises(ValueError, match=message):
        compare([a], [tmp_path / "b.jsonl"])


def test_other_mistakes(tmp_path):
    a = write(tmp_path / "a.jsonl", [1.0, 2.0], [1.0, float("nan")])
    with pytest.raises(ValueError, match="not finite"):
        compare([a], [a])
    with pytest.raises(ValueError, match="seed is -1; give 0 or a positive whole number"):
        compare([tmp_path / "absent.jsonl"], [a], seed=-1)  # before anything is read
    with pytest.raises(ValueError, match="holds predictions for its own data"):
        compare([a], [a], data="test.jsonl")
    with pytest.raises(FileNotFoundError):
        compare([a], [tmp_path / "absent.jsonl"])


def test_table(sides):
    actual = compare(sides[0][:2], sides[0][2:])
    lines = format_comparison(actual).splitlines()
    assert len(lines) == 4 and lines[0].split() == ["metric", "A", "B", "B", "-", "A", "95%", "interval", "p", "test"]
    accuracy = actual.differences[0]
    assert f"{100 * accuracy.a:.2f} ± {100 * accuracy.a_std:.2f}  {100 * accuracy.b:.2f}" in lines[1]


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
    actual = compare_classes(labels, runs[:2], runs[2:], classes, resamples=10)
    functions = {
        "accuracy": metrics.accuracy_score,
        "macro_f1": lambda y, x: metrics.f1_score(y, x, average="macro", zero_division=0),
        "matthews": metrics.matthews_corrcoef,
    }
    assert [x.metric for x in actual] == list(functions)
    for x in actual:
        values = np.array([functions[x.metric](labels, run) for run in runs])
        assert (x.a, x.b) == pytest.approx((values[:2].mean(), values[2:].mean()))
        assert (x.a_std, x.b_std) == pytest.approx((values[:2].std(ddof=1), values[2:].std(ddof=1)))


def test_resamples_of_cells_are_those_of_examples():
    """The interval of the vectorised bootstrap is that of one written out with scikit-learn."""
    labels = np.random.default_rng(0).integers(3, size=120)
    a, b = (predicted(labels, share, 3, seed) for share, seed in ((0.5, 1), (0.65, 2)))
    actual = compare_classes(labels, a[None], b[None], 3)[1]
    random = np.random.default_rng(3)
    changes = []
    for at in random.integers(120, size=(400, 120)):
        f1 = (metrics.f1_score(labels[at], run[at], average="macro") for run in (a, b))
        changes.append(np.subtract(*f1) * -1)
    np.testing.assert_allclose((actual.low, actual.high), np.quantile(changes, [0.025, 0.975]), atol=0.04)


def test_the_interval_of_accuracy_is_that_of_scipy():
    labels = np.random.default_rng(0).integers(2, size=300)
    a, b = (predicted(labels, share, 2, seed) for share, seed in ((0.5, 1), (0.6, 2)))
    actual = compare_classes(labels, a[None], b[None], 2)[0]
    rights = ((a == labels).astype(float), (b == labels).astype(float))
    result = scipy.stats.bootstrap(
        rights, lambda x, y, axis: y.mean(axis) - x.mean(axis), paired=True, method="percentile", vectorized=True,
        rng=np.random.default_rng(0),
    )  # fmt: skip
    np.testing.assert_allclose((actual.low, actual.high), result.confidence_interval, atol=0.006)
    assert actual.p == mcnemar(a == labels, b == labels) and actual.test == "McNemar's exact test"


def test_chance_is_called_a_difference_one_time_in_twenty():
    labels = np.random.default_rng(0).integers(3, size=150)
    actual = []
    for seed in range(200):
        a, b = (predicted(labels, 0.6, 3, 2 * seed + i)[None] for i in (0, 1))
        actual.append([x.p < 0.05 for x in compare_classes(labels, a, b, 3, resamples=300)])
    shares = np.mean(actual, axis=0)
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
        actual = compare_classes(right[0], a, b, 2, resamples=99)
        assert actual[0].difference == -1 and [metric.p for metric in actual] == [1, 1, 1]


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
    actual = compare_values(labels, a, b, resamples=2000)
    for x, function in zip(actual, (scipy.stats.spearmanr, scipy.stats.pearsonr), strict=True):
        left, right = ([function(run, labels).statistic for run in side] for side in (a, b))
        assert (x.a, x.b) == pytest.approx((np.mean(left), np.mean(right)))
        assert 0 < x.low < x.difference < x.high and x.p < 0.01
    constant = compare_values(labels, a[:1] * 0, a[:1] * 0 + 1, resamples=10)
    assert all((x.a, x.b, x.p) == (0, 0, 1) for x in constant)


def test_neither_memory_nor_the_seed_decides(monkeypatch):
    labels = np.random.default_rng(0).integers(3, size=200)
    a, b = (predicted(labels, share, 3, seed)[None] for share, seed in ((0.5, 1), (0.6, 2)))
    actual = compare_classes(labels, a, b, 3)
    assert compare_classes(labels, a, b, 3) == actual
    other = compare_classes(labels, a, b, 3, seed=5)
    monkeypatch.setattr(compare_module, "_MAX_CELLS", 1000)
    parts = compare_classes(labels, a, b, 3)
    for x, y, z in zip(actual, other, parts, strict=True):
        np.testing.assert_allclose(x[5:8], y[5:8], atol=0.02)
        np.testing.assert_allclose(x[5:8], z[5:8], atol=0.02)


def test_describe_difference():
    labels = np.arange(100) % 2
    actual = compare_classes(labels, labels[None] * 0, labels[None], 2)[0]
    sentence = describe_difference(actual, "A", "B")
    assert "McNemar" in sentence
    assert sentence.startswith("B has a higher accuracy than A (+50.00 points, 95% interval +")
    sentence = describe_difference(actual._replace(p=0.3), "A", "B")
    assert sentence.startswith("The difference in accuracy between B and A may be chance (+50.00")
