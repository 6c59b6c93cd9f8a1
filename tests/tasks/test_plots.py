"""Drawings of all that may come up are files that can be opened, without a warning."""

import matplotlib.image
import numpy as np
import pytest

from jaxencoder.tasks import plots
from jaxencoder.tasks.calibration import reliability


def drawn(path) -> np.ndarray:
    image = matplotlib.image.imread(path)[..., :3]
    assert np.ptp(image) > 0.5
    return image


@pytest.mark.parametrize("names", [("a", "b"), ("$x^$", "良い", "very " * 20), tuple(f"class {i}" for i in range(77))])
def test_confusion(tmp_path, names):
    matrix = np.random.default_rng(0).integers(50, size=(len(names),) * 2)
    matrix[0] = 0  # a class without examples
    plots.confusion(tmp_path / "a.png", matrix, names)
    image = drawn(tmp_path / "a.png")
    assert max(image.shape) <= 18 * 120


def test_a_perfect_matrix_is_darkest_on_its_diagonal(tmp_path):
    plots.confusion(tmp_path / "a.png", 10 * np.eye(2, dtype=int), "ab")
    plots.confusion(tmp_path / "b.png", 10 * np.eye(2, dtype=int)[::-1], "ab")
    one, other = (drawn(tmp_path / name) for name in ("a.png", "b.png"))
    blue = [(x[..., 2] - x[..., 0] > 0.2) for x in (one, other)]
    assert one.shape == other.shape and not (blue[0] & blue[1]).any() and blue[0].sum() > 1000


@pytest.mark.parametrize("classes", [2, 5])
def test_reliability(tmp_path, classes):
    probabilities = np.random.default_rng(0).dirichlet(np.ones(classes), 100)
    plots.reliability(tmp_path / "a.png", reliability(probabilities, np.arange(100) % classes))
    drawn(tmp_path / "a.png")
    plots.reliability(tmp_path / "b.png", reliability(probabilities[:1], np.zeros(1, int)))
    drawn(tmp_path / "b.png")


@pytest.mark.parametrize("number", [1, 500])
def test_scatter(tmp_path, number):
    plots.scatter(tmp_path / "a.png", np.zeros(number), np.arange(number) / 2)
    drawn(tmp_path / "a.png")
