import numpy as np
import pytest
import scipy.special
from scipy.optimize import approx_fprime

from jaxencoder.evaluation.calibration import calibration, fit_temperature, reliability_bins


def shares(size: int, classes: int, seed: int = 0, scale: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    scores = scale * random.standard_normal((size, classes))
    labels = np.array([random.choice(classes, p=p) for p in scipy.special.softmax(scores / 2, axis=-1)])
    return scores, labels


def test_bins_by_hand():
    probabilities = np.array([[0.6, 0.4], [0.3, 0.7], [0.9, 0.1], [0.05, 0.95], [0.2, 0.8]])
    found = reliability_bins(probabilities, np.array([0, 0, 0, 1, 1]), bins=5)  # right: yes, no, yes, yes, yes
    assert found.examples.tolist() == [0, 0, 1, 2, 2]  # (0.4, 0.6], (0.6, 0.8], (0.8, 1]
    np.testing.assert_allclose(found.confidence[2:], [0.6, 0.75, 0.925])
    np.testing.assert_allclose(found.accuracy[2:], [1, 0.5, 1])
    assert np.isnan(found.accuracy[:2]).all()
    assert found.ece == pytest.approx((1 * 0.4 + 2 * 0.25 + 2 * 0.075) / 5) and found.mce == pytest.approx(0.4)


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
    found = reliability_bins(probabilities, labels)
    for norm, ours in (("l1", found.ece), ("max", found.mce)):
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
    found = calibration(scores, labels, shares(4000, classes, seed=1))
    probabilities = scipy.special.softmax(scores, axis=-1)
    squared = np.square(probabilities - np.eye(classes)[labels]).sum(-1).mean()
    assert found["brier"] == pytest.approx(squared / 2 if classes == 2 else squared)
    assert found["ece"] > 0.05 and found["scaled_ece"] < 0.6 * found["ece"]
    assert found["temperature"] == pytest.approx(2, rel=0.1)


def test_one_class_only_and_huge_scores():
    found = calibration(np.array([[1e4, -1e4], [1e4, 0]], np.float32), np.zeros(2, int), (np.eye(2), np.zeros(2, int)))
    assert (found["ece"], found["mce"], found["brier"]) == (0, 0, 0)
