"""Texts of any length through a model, in windows that overlap, and one vector or score for a text out of its windows.

Long texts in overlapping segments: Pappagari et al. 2019, arXiv:1910.10781.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal, NamedTuple, TypeVar, get_args

import jax
import numpy as np

from jaxencoder.inference.model import OpenedModel
from jaxencoder.objectives.objective import Batch, Params
from jaxencoder.text import buckets
from jaxencoder.text.windows import TextWindow

Long = Literal["truncate", "windows"]
WindowPooling = Literal["mean", "max", "first", "length", "learned"]
W = TypeVar("W")

GROUP = 1 << 17  # tokens of windows that are sorted by length together, so that it does not depend on a text's length


class Reading(NamedTuple):
    """How long texts are read: cut, or in windows.

    stride: tokens from the start of a window to the next one's; None: half of what a window has room for.
    pooling: of windows, what a text has of them: the mean; the mean weighted by the tokens of which each knows most,
    so that each token of the text counts once; the largest values; the first window's; or what a learned pooling makes
    of these tokens.
    """

    long: Long = "truncate"
    stride: int | None = None
    pooling: WindowPooling = "length"

    @classmethod
    def of(
        cls,
        long: Long,
        stride: int | None = None,
        pooling: WindowPooling | None = None,
        default: WindowPooling = "length",
        known: Sequence[WindowPooling] = get_args(WindowPooling),
    ) -> Reading:
        """Checked; ValueError for a word that is not known, or for a setting that would do nothing."""
        if long not in get_args(Long):
            raise ValueError(f"long is {long!r}; give one of {', '.join(get_args(Long))}")
        if pooling is not None and pooling not in known:
            raise ValueError(f"window_pooling is {pooling!r}; give one of {', '.join(known)}")
        if long == "truncate" and (stride is not None or pooling is not None):
            name, value = ("stride", stride) if stride is not None else ("window_pooling", pooling)
            raise ValueError(f"{name} is {value!r}, but long texts are cut; give long='windows', or leave it out")
        if pooling == "first" and stride is not None:
            raise ValueError(f"stride is {stride}, but of window_pooling 'first' there is one window; leave it out")
        return cls(long, stride, pooling or default)

    @property
    def whole(self) -> bool:
        """Whether more is read of a long text than its first window."""
        return self.long == "windows" and self.pooling != "first"


def run_windows(
    model: OpenedModel,
    function: Callable[[Params, Batch], jax.Array],
    windows: Iterable[TextWindow],
    tokens: int,
    batch_tokens: int | None = None,
    max_length: int | None = None,
    skip: int = 0,
) -> Iterator[tuple[list[TextWindow], buckets.Plan, np.ndarray]]:
    """What a function gives for windows, in packed rows and in memory that does not grow with their number.

    Args:
        function: as `Model.run` has it. Besides the usual arrays it is given "kept_ids" [B, T] int32: the segment ids
            at the tokens of which a window knows most, 0 elsewhere.
        windows: of texts in their order; so many as have `tokens` tokens are computed together.
        skip: tokens at the start of each text that no kept_ids have, such as those of a prompt.

    Returns:
        An iterator of (a group of windows, which of them are where in the rows, what the function gives for these);
        all of a group come one after the other.
    """
    for group in grouped(windows, tokens):

        def kept(plan: buckets.Plan, group: list[TextWindow] = group) -> Batch:
            kept_ids = np.zeros((plan.rows, plan.length), np.int32)
            for i, row, place, start in zip(*plan[:4], strict=True):
                window = group[i]
                first = window.first or skip
                kept_ids[row, start + first : start + window.last] = place + 1
            return {"kept_ids": kept_ids}

        for plan, values in model.run(function, [window.ids for window in group], batch_tokens, max_length, kept):
            yield group, plan, values


def grouped(windows: Iterable[W], tokens: int) -> Iterator[list[W]]:
    """The windows in lists of so many tokens, or one window more; a window is anything with ids."""
    group, size = [], 0
    for window in windows:
        group.append(window)
        size += len(window.ids)
        if size >= tokens:
            yield group
            group, size = [], 0
    if group:
        yield group


class Pooled:
    """The vectors of N texts, as their windows come in, in any order; `skip` as in `run_windows`."""

    def __init__(self, texts: int, size: int, pooling: WindowPooling, skip: int = 0):
        self.vectors = np.zeros((texts, size), np.float32)
        self._weights = np.full(texts, -np.inf)  # logarithms of what has been seen
        self._pooling, self._skip = pooling, skip

    def add(self, window: TextWindow, vector: np.ndarray) -> None:
        """With a learned pooling the vector has one number more, the logarithm of its tokens' share."""
        text, size = window.text, self.vectors.shape[1]
        if self._pooling == "max":
            seen, vector = np.isfinite(self._weights[text]), vector[:size]
            self._weights[text] = 0
            self.vectors[text] = np.maximum(self.vectors[text], vector) if seen else vector
            return
        tokens = max(window.last - (window.first or self._skip), 1)
        weight = {"mean": 0.0, "length": np.log(tokens)}.get(self._pooling)
        weight = float(vector[size]) if weight is None else weight
        total = np.logaddexp(self._weights[text], weight)
        if np.isfinite(total):
            self.vectors[text] += np.float32(np.exp(weight - total)) * (vector[:size] - self.vectors[text])
            self._weights[text] = total
