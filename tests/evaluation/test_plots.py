"""Drawings of all that may come up are files that can be opened, without a warning."""

import contextlib

import matplotlib.image
import numpy as np
import pytest

from jaxencoder.evaluation import report as plots
from jaxencoder.evaluation.calibration import reliability_bins


def drawn(path) -> np.ndarray:
    image = matplotlib.image.imread(path)[..., :3]
    assert np.ptp(image) > 0.5
    return image


def axes_of(monkeypatch, draw):
    """What a function draws on."""
    kept, figure = [], plots._figure

    @contextlib.contextmanager
    def keeping(*given):
        with figure(*given) as axes:
            kept.append(axes)
            yield axes

    with monkeypatch.context() as patch:
        patch.setattr(plots, "_figure", keeping)
        draw()
    return kept[0]


@pytest.mark.parametrize("names", [("a", "b"), ("$x^$", "良い", "very " * 20), tuple(f"class {i}" for i in range(77))])
def test_confusion(tmp_path, names):
    matrix = np.random.default_rng(0).integers(50, size=(len(names),) * 2)
    matrix[0] = 0  # a class without examples
    plots.plot_confusion(tmp_path / "a.png", matrix, names)
    image = drawn(tmp_path / "a.png")
    assert max(image.shape) <= 18 * 120


def test_a_perfect_matrix_is_darkest_on_its_diagonal(tmp_path):
    plots.plot_confusion(tmp_path / "a.png", 10 * np.eye(2, dtype=int), "ab")
    plots.plot_confusion(tmp_path / "b.png", 10 * np.eye(2, dtype=int)[::-1], "ab")
    one, other = (drawn(tmp_path / name) for name in ("a.png", "b.png"))
    blue = [(x[..., 2] - x[..., 0] > 0.2) for x in (one, other)]
    assert one.shape == other.shape and not (blue[0] & blue[1]).any() and blue[0].sum() > 1000


def test_true_classes_are_rows(monkeypatch, tmp_path):
    """Of two true a, one is taken for b; the three b are right."""
    shown = axes_of(monkeypatch, lambda: plots.plot_confusion(tmp_path / "a.png", np.array([[1, 1], [0, 3]]), "ab"))
    assert shown.images[0].get_array().tolist() == [[0.5, 0.5], [0, 1]]
    assert (shown.get_xlabel(), shown.get_ylabel()) == ("predicted", "true")
    numbers = {text.get_position(): text.get_text() for text in shown.texts}  # at (predicted, true)
    assert numbers == {(0, 0): "1", (1, 0): "1", (0, 1): "0", (1, 1): "3"}


def test_bars_are_accuracies_and_points_true_values(monkeypatch, tmp_path):
    probabilities = np.array([[0.7, 0.3]] * 4)
    found = reliability_bins(probabilities, np.array([0, 1, 1, 1]))  # sure to 70%, right in 25%
    shown = axes_of(monkeypatch, lambda: plots.plot_reliability(tmp_path / "a.png", found))
    (bar,) = shown.containers[0]
    assert bar.get_height() == 0.25 and bar.get_x() <= 0.7 <= bar.get_x() + bar.get_width()
    shown = axes_of(monkeypatch, lambda: plots.plot_values(tmp_path / "a.png", np.array([1.0, 2]), np.array([5.0, 6])))
    assert shown.lines[0].get_xdata().tolist() == [1, 2] and shown.lines[0].get_ydata().tolist() == [5, 6]


@pytest.mark.parametrize("classes", [2, 5])
def test_reliability(tmp_path, classes):
    probabilities = np.random.default_rng(0).dirichlet(np.ones(classes), 100)
    plots.plot_reliability(tmp_path / "a.png", reliability_bins(probabilities, np.arange(100) % classes))
    drawn(tmp_path / "a.png")
    plots.plot_reliability(tmp_path / "b.png", reliability_bins(probabilities[:1], np.zeros(1, int)))
    drawn(tmp_path / "b.png")


@pytest.mark.parametrize("number", [1, 500])
def test_scatter(tmp_path, number):
    plots.plot_values(tmp_path / "a.png", np.zeros(number), np.arange(number) / 2)
    drawn(tmp_path / "a.png")
