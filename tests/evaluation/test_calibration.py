"""Calibration errors as torchmetrics measures them, and thresholds of the best F1."""

import numpy as np
import pytest
import scipy.special
from scipy.optimize import approx_fprime
from sklearn.metrics import f1_score

from jaxencoder.evaluation.calibration import (
    best_threshold,
    calibration,
    fit_temperature,
    reliability_bins,
    tuned_metrics,
)
from jaxencoder.tasks.classification.predict import Predictions


def shares(size: int, classes: int, seed: int = 0, scale: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    scores = scale * random.standard_normal((size, classes))
    labels = np.array([random.choice(classes, p=p) for p in scipy.special.softmax(scores / 2, axis=-1)])
    return scores, labels


def test_bins_by_hand():
    probabilities = np.array([[0.6, 0.4], [0.3, 0.7], [0.9, 0.1], [0.05, 0.95], [0.2, 0.8]])
    actual = reliability_bins(probabilities, np.array([0, 0, 0, 1, 1]), bins=5)  # right: yes, no, yes, yes, yes
    assert actual.examples.tolist() == [0, 0, 1, 2, 2]  # (0.4, 0.6], (0.6, 0.8], (0.8, 1]
    np.testing.assert_allclose(actual.confidence[2:], [0.6, 0.75, 0.925])
    np.testing.assert_allclose(actual.accuracy[2:], [1, 0.5, 1])
    assert np.isnan(actual.accuracy[:2]).all()
    assert actual.ece == pytest.approx((1 * 0.4 + 2 * 0.25 + 2 * 0.075) / 5) and actual.mce == pytest.approx(0.4)


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_a_bin_ends_where_the_next_begins(bins):
    """Probabilities on the edges: k / M is in bin k, whatever its float is times M."""
    top = np.arange(1, bins + 1) / bins
    probabilities = np.stack([top, np.zeros(bins)], axis=1)
    assert reliability_bins(probabilities, np.zeros(bins, int), bins).examples.tolist() == [1] * bins


@pytest.mark.parametrize("classes", [2, 7])
def test_as_torchmetrics(classes):
    torchmetrics = pytest.importorskip("torchmetrics.functional.classification")
    torch = pytest.importorskip("torch")
    scores, labels = shares(500, classes)
    probabilities = scipy.special.softmax(scores, axis=-1)
    actual = reliability_bins(probabilities, labels)
    for norm, ours in (("l1", actual.ece), ("max", actual.mce)):
        theirs = torchmetrics.multiclass_calibration_error(
            torch.tensor(probabilities), torch.tensor(labels), classes, n_bins=15, norm=norm
        )
        assert ours == pytest.approx(theirs.item(), abs=1e-6)


def test_temperature_is_that_of_the_least_loss():
    scores, labels = shares(4000, 3)
    best = fit_temperature(scores, labels)
    assert best == pytest.approx(2, rel=0.1)  # labels were drawn at half the scores

    def loss(t):
        return -scipy.special.log_softmax(scores / t[0], axis=-1)[np.arange(len(labels)), labels].mean()

    assert abs(approx_fprime([best], loss)[0]) < 1e-4
    assert 0.05 <= fit_temperature(np.eye(2)[[0, 1]], np.array([0, 1])) < 0.06  # all right: the sharper, the better
    assert 19 < fit_temperature(np.eye(2)[[0, 1, 0]], np.array([1, 0, 1])) <= 20


@pytest.mark.parametrize("classes", [2, 3])
def test_all_of_it(classes):
    scores, labels = shares(4000, classes)
    actual = calibration(scores, labels, shares(4000, classes, seed=1))
    probabilities = scipy.special.softmax(scores, axis=-1)
    squared = np.square(probabilities - np.eye(classes)[labels]).sum(-1).mean()
    assert actual["brier"] == pytest.approx(squared / 2 if classes == 2 else squared)
    assert actual["ece"] > 0.05 and actual["scaled_ece"] < 0.6 * actual["ece"]
    assert actual["temperature"] == pytest.approx(2, rel=0.1)


def test_one_class_only_and_huge_scores():
    actual = calibration(np.array([[1e4, -1e4], [1e4, 0]], np.float32), np.zeros(2, int), (np.eye(2), np.zeros(2, int)))
    assert (actual["ece"], actual["mce"], actual["brier"]) == (0, 0, 0)


def predicted(probabilities: np.ndarray, labels: list[int], names: str) -> Predictions:
    records = [{"text": str(i)} for i in range(len(labels))]
    scores = np.log(np.maximum(probabilities, 1e-9))
    return Predictions(records, scores, np.array(labels), np.ones(len(labels), int), tuple(names), 0)


def test_threshold_by_hand():
    probabilities = np.array([0.1, 0.2, 0.3, 0.4, 0.9])
    # From 0.2 on: 3 of 4 right and all found, F1 6/7; from 0.9 on: F1 1/2.
    assert best_threshold(probabilities, np.array([False, True, False, True, True])) == pytest.approx(0.15)
    assert best_threshold(probabilities, np.array([False, False, False, False, True])) == pytest.approx(0.65)
    assert best_threshold(probabilities, np.ones(5, bool)) == pytest.approx(0.05)


@pytest.mark.parametrize("low", [1 - 2**-52, 1 - 2**-53, 1e-10, np.nextafter(1e-10, 1), 0.0])
def test_neighbouring_probabilities(low):
    """Between them there is no number, and the lower one is none of the class."""
    high = np.nextafter(low, 2)
    actual = best_threshold(np.array([low, high]), np.array([False, True]))
    assert actual == high
    ones = np.array([low, low, high, high, 0])  # as of a saturated model
    assert ((ones >= best_threshold(ones, ones == high)) == (ones == high)).all()


@pytest.mark.parametrize("seed", range(3))
def test_no_threshold_is_better(seed):
    random = np.random.default_rng(seed)
    positive = random.random(300) < 0.1
    probabilities = np.round(random.random(300) * 0.3 + 0.2 * positive, 2)  # with ties
    actual = best_threshold(probabilities, positive)
    alternatives = [f1_score(positive, probabilities >= x, zero_division=0) for x in np.linspace(0, 0.5, 101)]
    assert f1_score(positive, probabilities >= actual) == pytest.approx(max(alternatives))


def test_two_classes_are_decided_by_one_threshold():
    """The second class is never the more probable one, and still can be told apart."""
    of_b = np.array([0.1, 0.2, 0.3, 0.4])
    tuning = predicted(np.stack([1 - of_b, of_b], axis=1), [0, 0, 1, 1], "ab")
    of_b = np.array([0.1, 0.27, 0.31, 0.2])
    measured = predicted(np.stack([1 - of_b, of_b], axis=1), [0, 1, 1, 1], "ab")
    actual = tuned_metrics(measured, tuning)
    assert actual["classes"] == {
        "b": pytest.approx({"threshold": 0.25, "precision": 1, "recall": 2 / 3, "f1": 0.8, "argmax_f1": 0})
    }
    assert (actual["accuracy"], actual["f1"], actual["macro_f1"]) == pytest.approx((0.75, 0.8, (0.8 + 2 / 3) / 2))


def test_each_class_against_the_rest():
    probabilities = np.random.default_rng(0).dirichlet(np.ones(3), 60)
    labels = np.where(probabilities[:, 2] > 0.3, 2, np.arange(60) % 2).tolist()  # rarely the most probable
    actual = tuned_metrics(predicted(probabilities, labels, "abc"), predicted(probabilities, labels, "abc"))
    assert set(actual) == {"classes"} and list(actual["classes"]) == ["a", "b", "c"]
    assert actual["classes"]["c"]["f1"] == 1 > actual["classes"]["c"]["argmax_f1"]
    without = tuned_metrics(predicted(probabilities, labels, "abc"), predicted(probabilities[:4], [0, 1, 0, 1], "abc"))
    assert list(without["classes"]) == ["a", "b"]  # nothing to tune the third on


def test_no_positive_example_anywhere():
    measured = predicted(np.full((3, 2), 0.5), [0, 0, 0], "ab")
    assert tuned_metrics(measured, measured) == {"classes": {}}
    one = tuned_metrics(measured, predicted(np.array([[0.5, 0.5], [0.2, 0.8]]), [0, 1], "ab"))
    assert one["classes"]["b"]["f1"] == 0 and one["accuracy"] == 1


def test_one_half_stays_for_a_class_that_is_not_there_to_tune_on():
    scores = np.array([[2.0, 2.0, -2.0], [-2.0, -1.0, 2.0], [-3.0, 1.0, 1.0]])
    labels = np.array([[1, 1, 0], [0, 1, 0], [0, 1, 1]])
    measured = predicted(np.ones((3, 3)), [0, 0, 0], "abc")._replace(scores=scores, labels=labels)
    tuning = measured._replace(labels=labels * [1, 1, 0])
    actual = tuned_metrics(measured, tuning)
    assert set(actual["classes"]) == {"a", "b"} and actual["classes"]["b"]["f1"] == 1
    expected = np.array([[1, 1, 0], [0, 1, 1], [0, 1, 1]])  # c as from one half on
    assert actual["micro_f1"] == pytest.approx(f1_score(labels, expected, average="micro"))
