"""A text of any length as windows that overlap, and which of them knows most of what stands around a token.

Devlin et al. 2019 (BERT), arXiv:1810.04805, and "maximum context" in its code's run_squad.py.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, pairwise
from typing import NamedTuple

import numpy as np

from jaxencoder.text.streams import TokenBlock, stream_tokens
from jaxencoder.text.tokenizer import Tokenizer


class TokenWindow(NamedTuple):
    """Tokens [start, end) of a text, and those of them, [first, last), that have more around them than elsewhere.

    The shorter side counts, and of two windows that give a token as much the first one has it: each token belongs to
    one window, and these parts stand side by side.
    """

    start: int
    end: int
    first: int
    last: int


def sliding_windows(sizes: Iterable[int], room: int, stride: int) -> Iterator[TokenWindow]:
    """Windows over a text that comes in parts, in order; at least one, each with a token that no other has.

    sliding_windows([7], 4, 2): tokens 0 to 3, 2 to 5 and 4 to 6, of which they have the first 3, the next 2 and the last 2.

    Args:
        sizes: tokens of each part; another is asked for only when it decides something.
        room: tokens of a window at most.
        stride: from the start of a window to the next one's, 1 to room.

    Raises:
        ValueError: no room, or a stride that leaves tokens out or goes nowhere.
    """
    check_stride(stride, room)
    sizes, there, more = iter(sizes), 0, True
    start = first = 0
    while True:
        while more and there <= start + room:  # one token further: is this the last window?
            size = next(sizes, None)
            more, there = size is not None, there + (size or 0)
        end = min(start + room, there)
        if end == there and not more:
            yield TokenWindow(start, end, first, end)
            return
        last = _border(end, start + stride)
        yield TokenWindow(start, end, first, last)
        start, first = start + stride, last


def check_stride(stride: int, room: int) -> None:
    """ValueError for a stride that leaves tokens out or goes nowhere, or for no room at all."""
    if room < 1:
        raise ValueError(f"windows have room for {room} tokens of a text; make them longer")
    if not 1 <= stride <= room:
        raise ValueError(f"stride is {stride}; windows with room for {room} tokens of a text move by 1 to {room}")


def default_stride(room: int) -> int:
    """Half of the room: each token has at least a quarter of it on both sides, or the end of the text."""
    return max(room // 2, 1)


def max_context_windows(parts: Sequence[tuple[int, int]]) -> list[TokenWindow]:
    """Such parts of a text as have been cut elsewhere, each with the tokens of which it knows most.

    Args:
        parts: [start, end) of each, both ascending; together they hold all tokens.
    """
    borders = [_border(end, start) for (_, end), (start, _) in pairwise(parts)]
    firsts, lasts = [0, *borders], [*borders, *(end for _, end in parts[-1:])]
    return [TokenWindow(*part, first, last) for part, first, last in zip(parts, firsts, lasts, strict=False)]


def _border(end: int, start: int) -> int:
    """The first token that has more around it in a window from `start` on than in the one before, up to `end`."""
    return (end + start + 1) // 2


class TextWindow(NamedTuple):
    """A window with the special tokens that stand around a text.

    Attributes:
        text: number of the text.
        ids: int32 [n]: special tokens, a prompt's, those of the window, special tokens.
        first, last: [first, last) are the places of the tokens of which it knows most. The special tokens before the
            text are the first window's, with the prompt, and those behind it the last one's: what the windows of a text
            have is its encoding, each token once.
        offsets: int32 [last - first, 2], the characters of the text that they stand for, (0, 0) for special tokens and
            a prompt's; None unless asked for.
        is_last: whether it is the last one of its text.
    """

    text: int
    ids: np.ndarray
    first: int
    last: int
    offsets: np.ndarray | None
    is_last: bool


def text_windows(
    tokenizer: Tokenizer,
    texts: Sequence[str],
    length: int,
    stride: int | None = None,
    prompt: str = "",
    offsets: bool = False,
) -> Iterator[TextWindow]:
    """The windows over each text, in order and in memory that does not grow with a text's length.

    Args:
        length: tokens of a window at most, special ones and the prompt's included. What fits has one window.
        stride: from the start of a window to the next one's; None: half of what it has room for.
        prompt: stands before the text in every window.
        offsets: whether to give them.

    Raises:
        ValueError: not a list of valid strings, no room beside the prompt, or a stride that leaves tokens out.
    """
    if isinstance(texts, str | bytes):
        raise ValueError(f"texts is one {type(texts).__name__}, not a list of strings; put it in a list")
    before, behind = special_tokens(tokenizer)
    around = len(before) + len(behind)
    asked = tokenizer.encode_batch([prompt], special=False)[0].ids if prompt else before[:0]
    room = _room(length, around + len(asked), prompt)
    check_stride(default_stride(room) if stride is None else stride, room)
    for number, parts in groupby(
        stream_tokens(tokenizer, texts, offsets or bool(prompt), prompt), lambda part: part.text
    ):
        held = _Held(parts, len(prompt))
        start = np.concatenate([before, held.prompt])
        room = _room(length, around + len(held.prompt), prompt)
        for span in sliding_windows(held.sizes(), room, min(stride or default_stride(room), room)):
            ids, places = held.tokens(span)
            is_first, is_last = span.start == 0, held.is_last(span)
            first = 0 if is_first else len(start) + span.first - span.start
            last = len(start) + span.last - span.start + is_last * len(behind)
            if offsets:
                none = [np.zeros((n, 2), np.int32) for n in (is_first * len(start), is_last * len(behind))]
                places = np.concatenate([none[0], places[span.first - span.start : span.last - span.start], none[1]])
            window = np.concatenate([start, ids, behind])
            yield TextWindow(number, window, first, last, places if offsets else None, is_last)


def _room(length: int, others: int, prompt: str) -> int:
    """Tokens of a text in a window beside others; ValueError if a prompt leaves none."""
    if prompt and length <= others:
        raise ValueError(
            f"the prompt {prompt[:40]!r} has {others} tokens, which leaves none of {length} for a text; "
            "give a shorter prompt or a larger max_length"
        )
    return length - others


def special_tokens(tokenizer: Tokenizer) -> tuple[np.ndarray, np.ndarray]:
    """Those that stand before and behind a single text, int32 [n] each."""
    (encoding,) = tokenizer.encode_batch(["a"], offsets=True)
    own = np.flatnonzero(encoding.sequence == 0)
    if not len(own):  # of a tokenizer that knows no "a": all but the last stand before a text
        return encoding.ids[:-1], encoding.ids[-1:]
    return encoding.ids[: own[0]], encoding.ids[own[-1] + 1 :]


class _Held:
    """The tokens of a text that windows still have to see, of a stream of parts that begins with a prompt's."""

    def __init__(self, parts: Iterator[TokenBlock], prompt: int):
        self._parts = parts
        part = next(parts)
        # A token on both sides of the border is the text's.
        n = int(np.searchsorted(part.offsets[:, 1], prompt, side="right")) if prompt else 0
        self.prompt = part.ids[:n]
        self._characters, self._start, self._more = prompt, 0, True
        self._ids, self._offsets = part.ids[n:], self._of_text(part, n)

    def _of_text(self, part: TokenBlock, first: int = 0) -> np.ndarray | None:
        return None if part.offsets is None else np.maximum(part.offsets[first:] - np.int32(self._characters), 0)

    def sizes(self) -> Iterator[int]:
        """How many tokens each part has; it is held when its number is asked for."""
        yield len(self._ids)
        for part in self._parts:
            self._ids = np.concatenate([self._ids, part.ids])
            if part.offsets is not None:
                self._offsets = np.concatenate([self._offsets, self._of_text(part)])
            yield len(part.ids)
        self._more = False

    def tokens(self, span: TokenWindow) -> tuple[np.ndarray, np.ndarray | None]:
        """Ids and offsets of a window's tokens; those before it are forgotten."""
        gone, self._start = span.start - self._start, span.start
        self._ids = self._ids[gone:]
        self._offsets = None if self._offsets is None else self._offsets[gone:]
        n = span.end - span.start
        return self._ids[:n], None if self._offsets is None else self._offsets[:n]

    def is_last(self, span: TokenWindow) -> bool:
        """Whether a window reaches the end of the text."""
        return not self._more and span.end - self._start == len(self._ids)
