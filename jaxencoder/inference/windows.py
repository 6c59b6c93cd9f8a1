"""Run a model over overlapping windows of long texts, and pool each text's windows.

Long texts in overlapping segments: Pappagari et al. 2019, arXiv:1910.10781.
"""

from collections.abc import Callable, Iterable, Iterator

import jax
import numpy as np

from jaxencoder.inference.model import OpenedModel
from jaxencoder.objectives.objective import Batch, Params
from jaxencoder.text import buckets
from jaxencoder.text.config import WindowPooling
from jaxencoder.text.windows import TextWindow, group_windows


def run_windows(
    model: OpenedModel,
    function: Callable[[Params, Batch], jax.Array],
    windows: Iterable[TextWindow],
    group_tokens: int,
    batch_tokens: int | None = None,
    max_length: int | None = None,
    skip: int = 0,
) -> Iterator[tuple[list[TextWindow], buckets.BatchPlan, np.ndarray]]:
    """Apply a function to windows in packed rows, in memory independent of their number; see `OpenedModel.run`.

    The function's batch also has "kept_ids" [B, T] int32: the segment ids at the tokens that belong to the window, 0
    elsewhere. They leave out the first `skip` tokens of each text, such as those of a prompt.

    Yields:
        (windows of `group_tokens` tokens that are computed together, plan of a batch of them, values of the batch).
    """
    for group in group_windows(windows, group_tokens):

        def kept_ids(plan: buckets.BatchPlan, group: list[TextWindow] = group) -> Batch:
            ids = np.zeros((plan.rows, plan.length), np.int32)
            for i, row, segment, start in zip(*plan[:4], strict=True):
                window = group[i]
                ids[row, start + (window.first or skip) : start + window.last] = segment + 1
            return {"kept_ids": ids}

        for plan, values in model.run(function, [window.ids for window in group], batch_tokens, max_length, kept_ids):
            yield group, plan, values


class WindowPooler:
    """Vectors [N, size] of N texts, updated by their windows in any order; `skip` as for `run_windows`."""

    def __init__(self, texts: int, size: int, pooling: WindowPooling, skip: int = 0):
        self.vectors = np.zeros((texts, size), np.float32)
        self._log_weights = np.full(texts, -np.inf)  # of the windows so far
        self._pooling, self._skip = pooling, skip

    def add(self, window: TextWindow, vector: np.ndarray) -> None:
        """Add a window's vector [size], or [size + 1] for learned pooling: the logarithm of its weight comes last."""
        text, size = window.text, self.vectors.shape[1]
        if self._pooling == "max":
            is_first, vector = np.isneginf(self._log_weights[text]), vector[:size]
            self._log_weights[text] = 0
            self.vectors[text] = vector if is_first else np.maximum(self.vectors[text], vector)
            return
        if self._pooling == "learned":
            weight = float(vector[size])
        else:
            tokens = window.last - (window.first or self._skip)
            weight = np.log(max(tokens, 1)) if self._pooling == "length" else 0.0
        total = np.logaddexp(self._log_weights[text], weight)
        if np.isfinite(total):
            self.vectors[text] += np.float32(np.exp(weight - total)) * (vector[:size] - self.vectors[text])
            self._log_weights[text] = total
