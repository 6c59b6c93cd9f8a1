import numpy as np
import pytest
from sklearn.metrics import f1_score

from jaxencoder.evaluation.calibration import best_threshold, tuned_metrics
from jaxencoder.tasks.classification.predict import Predictions


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
    found = best_threshold(np.array([low, high]), np.array([False, True]))
    assert found == high
    ones = np.array([low, low, high, high, 0])  # as of a saturated model
    assert ((ones >= best_threshold(ones, ones == high)) == (ones == high)).all()


@pytest.mark.parametrize("seed", range(3))
def test_no_threshold_is_better(seed):
    random = np.random.default_rng(seed)
    positive = random.random(300) < 0.1
    probabilities = np.round(random.random(300) * 0.3 + 0.2 * positive, 2)  # with ties
    found = best_threshold(probabilities, positive)
    others = [f1_score(positive, probabilities >= x, zero_division=0) for x in np.linspace(0, 0.5, 101)]
    assert f1_score(positive, probabilities >= found) == pytest.approx(max(others))


def test_two_classes_are_decided_by_one_threshold():
    """The second class is never the more probable one, and still can be told apart."""
    of_b = np.array([0.1, 0.2, 0.3, 0.4])
    tuning = predicted(np.stack([1 - of_b, of_b], axis=1), [0, 0, 1, 1], "ab")
    of_b = np.array([0.1, 0.27, 0.31, 0.2])
    measured = predicted(np.stack([1 - of_b, of_b], axis=1), [0, 1, 1, 1], "ab")
    found = tuned_metrics(measured, tuning)
    assert found["classes"] == {
        "b": pytest.approx({"threshold": 0.25, "precision": 1, "recall": 2 / 3, "f1": 0.8, "argmax_f1": 0})
    }
    assert (found["accuracy"], found["f1"], found["macro_f1"]) == pytest.approx((0.75, 0.8, (0.8 + 2 / 3) / 2))


def test_each_class_against_the_rest():
    probabilities = np.random.default_rng(0).dirichlet(np.ones(3), 60)
    labels = np.where(probabilities[:, 2] > 0.3, 2, np.arange(60) % 2).tolist()  # rarely the most probable
    found = tuned_metrics(predicted(probabilities, labels, "abc"), predicted(probabilities, labels, "abc"))
    assert set(found) == {"classes"} and list(found["classes"]) == ["a", "b", "c"]
    assert found["classes"]["c"]["f1"] == 1 > found["classes"]["c"]["argmax_f1"]
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
    found = tuned_metrics(measured, tuning)
    assert set(found["classes"]) == {"a", "b"} and found["classes"]["b"]["f1"] == 1
    said = np.array([[1, 1, 0], [0, 1, 1], [0, 1, 1]])  # c as from one half on
    assert found["micro_f1"] == pytest.approx(f1_score(labels, said, average="micro"))
