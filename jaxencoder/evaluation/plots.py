"""The drawings of a report, as PNG files: confusion matrix, reliability diagram, and predicted beside true values.

Reliability diagrams as in Guo et al. 2017, arXiv:1706.04599, with the number of examples of each bin.
"""

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from jaxencoder.evaluation.calibration import Reliability

_BLUE, _RED, _GRAY = "#3b6ea5", "#c44e52", "#666666"
_NUMBERED = 20  # classes at most whose cells have room for their numbers


def confusion(path: Path, matrix: np.ndarray, names: Sequence[str]) -> None:
    """Draw how often each class (rows: true) was predicted as each, int [C, C]; the colour is the row's share."""
    C = len(names)
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    with _figure(path, min(3 + 0.45 * C, 18), min(2.5 + 0.4 * C, 16)) as axes:
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        places, size = range(C), 9 if C <= _NUMBERED else 6
        labels = [name if len(name) <= 24 else name[:23] + "…" for name in names]
        axes.set_xticks(places, labels, rotation=90, fontsize=size, parse_math=False)
        axes.set_yticks(places, labels, fontsize=size, parse_math=False)
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")
        for i in places if C <= _NUMBERED else ():
            for j in places:
                colour = "white" if shares[i, j] > 0.5 else "black"
                axes.text(j, i, f"{matrix[i, j]}", ha="center", va="center", color=colour, fontsize=size)


def reliability(path: Path, found: Reliability) -> None:
    """Draw the accuracy of each bin of confidence beside what it should be, and how many examples it has."""
    bins = len(found.examples)
    edges = np.arange(bins) / bins
    with _figure(path, 5, 4.6) as axes:
        there = found.examples > 0
        axes.bar(edges[there], found.accuracy[there], 1 / bins, align="edge", color=_BLUE, edgecolor="white")
        axes.plot(found.confidence[there], found.accuracy[there], "o", color=_RED, markersize=4, label="mean of a bin")
        axes.plot([0, 1], [0, 1], "--", color=_GRAY, label="calibrated")
        axes.bar(edges, 0.2 * found.examples / found.examples.max(), 1 / bins, align="edge", color=_GRAY, alpha=0.6)
        axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", ylabel="accuracy (gray: number of examples)")
        axes.set_title(f"ECE {found.ece:.3f}, largest gap {found.mce:.3f}", fontsize=10)
        axes.legend(loc="upper left", fontsize=8)


def scatter(path: Path, true: np.ndarray, predicted: np.ndarray) -> None:
    """Draw predicted beside true values, [N] each."""
    with _figure(path, 5, 4.6) as axes:
        axes.plot(true, predicted, ".", color=_BLUE, alpha=0.4, markersize=5)
        low, high = (f(true.min(), predicted.min()) if f is min else f(true.max(), predicted.max()) for f in (min, max))
        axes.plot([low, high], [low, high], "--", color=_GRAY)
        axes.set(xlabel="true", ylabel="predicted")


@contextlib.contextmanager
def _figure(path: Path, width: float, height: float) -> Iterator:
    """Axes of so many inches that are saved at the end; matplotlib takes a second to import."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure((width, height), layout="constrained")
    FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # scripts that the font lacks are drawn as boxes
        yield figure.subplots()
        figure.savefig(path, dpi=120)
