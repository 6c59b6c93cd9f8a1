"""The plots of a report, as PNG files: confusion matrix, reliability diagram, and predicted against true values.

Reliability diagrams are those of Guo et al. 2017, arXiv:1706.04599, with the number of examples per bin.
"""

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from jaxencoder.evaluation.calibration import Reliability

_BLUE, _RED, _GRAY = "#3b6ea5", "#c44e52", "#666666"
_MAX_NUMBERED = 20  # with more classes, cells are too small for numbers


def plot_confusion(path: Path, matrix: np.ndarray, names: Sequence[str]) -> None:
    """Plot how often each class (rows: true) was predicted as each, int [C, C], colored by the fraction of the row."""
    C = len(names)
    fractions = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    with _figure(path, min(3 + 0.45 * C, 18), min(2.5 + 0.4 * C, 16)) as axes:
        axes.imshow(fractions, cmap="Blues", vmin=0, vmax=1)
        font_size = 9 if C <= _MAX_NUMBERED else 6
        labels = [name if len(name) <= 24 else name[:23] + "…" for name in names]
        axes.set_xticks(range(C), labels, rotation=90, fontsize=font_size, parse_math=False)
        axes.set_yticks(range(C), labels, fontsize=font_size, parse_math=False)
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")
        for i, j in np.ndindex(C, C) if C <= _MAX_NUMBERED else ():
            color = "white" if fractions[i, j] > 0.5 else "black"
            axes.text(j, i, f"{matrix[i, j]}", ha="center", va="center", color=color, fontsize=font_size)


def plot_reliability(path: Path, bins: Reliability) -> None:
    """Plot the accuracy and the number of examples of each bin of confidence."""
    M = len(bins.examples)
    edges, filled = np.arange(M) / M, bins.examples > 0
    with _figure(path, 5, 4.6) as axes:
        axes.bar(edges[filled], bins.accuracy[filled], 1 / M, align="edge", color=_BLUE, edgecolor="white")
        axes.plot(bins.confidence[filled], bins.accuracy[filled], "o", color=_RED, markersize=4, label="mean of a bin")
        axes.plot([0, 1], [0, 1], "--", color=_GRAY, label="calibrated")
        axes.bar(edges, 0.2 * bins.examples / bins.examples.max(), 1 / M, align="edge", color=_GRAY, alpha=0.6)
        axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", ylabel="accuracy (gray: number of examples)")
        axes.set_title(f"ECE {bins.ece:.3f}, largest gap {bins.mce:.3f}", fontsize=10)
        axes.legend(loc="upper left", fontsize=8)


def plot_values(path: Path, true: np.ndarray, predicted: np.ndarray) -> None:
    """Plot predicted against true values, [N] each."""
    with _figure(path, 5, 4.6) as axes:
        axes.plot(true, predicted, ".", color=_BLUE, alpha=0.4, markersize=5)
        limits = [min(true.min(), predicted.min()), max(true.max(), predicted.max())]
        axes.plot(limits, limits, "--", color=_GRAY)
        axes.set(xlabel="true", ylabel="predicted")


@contextlib.contextmanager
def _figure(path: Path, width: float, height: float) -> Iterator:
    """Axes of a size in inches, saved on exit."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # takes a second to import
    from matplotlib.figure import Figure

    figure = Figure((width, height), layout="constrained")
    FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # characters that the font lacks are drawn as boxes
        yield figure.subplots()
        figure.savefig(path, dpi=120)
