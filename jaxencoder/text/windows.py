"""Overlapping windows over texts of any length, in bounded memory.

Each token belongs to the window with the most context for it: Devlin et al. 2019 (BERT), arXiv:1810.04805, and "maximum
context" in its code's run_squad.py.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, pairwise
from typing import Any, NamedTuple

import numpy as np

from jaxencoder.text.tokenizers.encoding import NO_OFFSETS, as_list, raise_invalid_text
from jaxencoder.text.tokenizers.tokenizer import Tokenizer

GROUP_TOKENS = 1 << 17  # tokens of windows that are sorted by length together, whatever the length of a text
_CHARACTERS = 1 << 16  # of a text tokenized in one call; shorter texts are grouped up to this size
_OVERLAP = 512  # characters that two successive pieces of a text share
_MAX_PIECE = 1 << 20  # characters of a piece that grows for want of a seam


class TokenBlock(NamedTuple):
    """Consecutive tokens of a text, without special tokens."""

    text: int  # index of the text
    ids: np.ndarray  # int32 [n]
    offsets: np.ndarray  # int32 [n, 2], those of `Encoding`; empty unless requested


def stream_tokens(
    tokenizer: Tokenizer, texts: Sequence[str], offsets: bool = False, prompt: str = ""
) -> Iterator[TokenBlock]:
    """Yield the tokens of each text in order, in at least one block, in memory independent of a text's length.

    Joined, they equal `tokenizer.encode_batch(texts, special=False)`. A long text is tokenized in overlapping pieces.
    One piece continues the other at a seam: two tokens that both have at the same characters, away from their ends.
    Without a seam, as in a word of thousands of characters, the piece grows to at most a million characters; a longer
    word or run of spaces is split there. (Within thousands of equal characters, tokens may differ too; and with a
    SentencePiece model also where splits have equal scores, as in "aaaaaaaaaaaaaaa": rounding decides between them.)

    The prompt is put before each text, and its characters count in the offsets.
    """
    texts = as_list(texts)
    try:
        inputs = [prompt + text for text in texts] if prompt else texts
        for start, end in _groups(inputs):
            if end - start == 1 and len(inputs[start]) > _CHARACTERS:
                yield from _stream_long(tokenizer, start, inputs[start], offsets)
            else:
                encodings = tokenizer.encode_batch(inputs[start:end], special=False, offsets=offsets)
                yield from (TokenBlock(i, x.ids, x.offsets) for i, x in enumerate(encodings, start))
    except (TypeError, ValueError) as error:
        raise_invalid_text(texts, error)  # with the index among all texts, and the position without the prompt


def _groups(texts: list[str]) -> Iterator[tuple[int, int]]:
    """Ranges [start, end) of texts to tokenize together: a long text alone, short ones up to _CHARACTERS."""
    start = size = 0
    for i, text in enumerate(texts):
        size += len(text)
        if size > _CHARACTERS and i > start:
            yield start, i
            start, size = i, len(text)
        if size > _CHARACTERS:
            yield i, i + 1
            start, size = i + 1, 0
    if start < len(texts):
        yield start, len(texts)


class _Piece(NamedTuple):
    """The tokens of text[start:end]; offsets count from the start of the text."""

    start: int
    end: int
    ids: np.ndarray
    offsets: np.ndarray


def _stream_long(tokenizer: Tokenizer, number: int, text: str, offsets: bool) -> Iterator[TokenBlock]:
    piece, first = _encode_piece(tokenizer, text, 0, _CHARACTERS), 0
    while piece.end < len(text):
        following = _encode_piece(tokenizer, text, piece.end - _OVERLAP, piece.end + _CHARACTERS)
        seam = _find_seam(piece, following)
        if seam is None and piece.end - piece.start < _MAX_PIECE:
            piece = _encode_piece(tokenizer, text, piece.start, piece.end + (piece.end - piece.start))
            continue
        if seam is None:
            following, seam = _encode_piece(tokenizer, text, piece.end, piece.end + _CHARACTERS), (len(piece.ids), 0)
        yield TokenBlock(number, piece.ids[first : seam[0]], piece.offsets[first : seam[0]] if offsets else NO_OFFSETS)
        piece, first = following, seam[1]
    yield TokenBlock(number, piece.ids[first:], piece.offsets[first:] if offsets else NO_OFFSETS)


def _encode_piece(tokenizer: Tokenizer, text: str, start: int, end: int) -> _Piece:
    end = min(end, len(text))
    (encoding,) = tokenizer.encode_batch([text[start:end]], special=False, offsets=True)
    return _Piece(start, end, encoding.ids, encoding.offsets + np.int32(start))


def _find_seam(piece: _Piece, following: _Piece) -> tuple[int, int] | None:
    """The index in each piece of the token at which the second piece continues the first; None for no seam.

    It is the one nearest to the middle of the overlap, and in its inner half. It and the token before it are equal in
    both pieces, and no token has characters on both sides.
    """
    quarter = (piece.end - following.start) // 4
    low, high = following.start + quarter, piece.end - quarter
    candidates = []
    for starts, ends in ((x.offsets[:, 0], x.offsets[:, 1]) for x in (piece, following)):
        indices = np.arange(max(np.searchsorted(starts, low), 1), np.searchsorted(starts, high))
        # Tokens may share a character, as the bytes of an emoji do; the first of them is a candidate.
        candidates.append(indices[(starts[indices - 1] < starts[indices]) & (ends[indices - 1] <= starts[indices])])
    i, j = candidates
    common, first, second = np.intersect1d(
        piece.offsets[i, 0], following.offsets[j, 0], assume_unique=True, return_indices=True
    )
    i, j = i[first], j[second]
    same = np.ones(len(common), bool)
    for back in (0, 1):
        same &= piece.ids[i - back] == following.ids[j - back]
        same &= (piece.offsets[i - back] == following.offsets[j - back]).all(-1)
    if not same.any():
        return None
    nearest = np.flatnonzero(same)[np.abs(common[same] - (low + high) // 2).argmin()]
    return int(i[nearest]), int(j[nearest])


class TokenWindow(NamedTuple):
    """Tokens [start, end) of a text; for tokens [first, last) no other window has more context.

    Context is the number of tokens on the shorter side; the earlier window wins a tie.
    """

    start: int
    end: int
    first: int
    last: int


def sliding_windows(sizes: Iterable[int], room: int, stride: int) -> Iterator[TokenWindow]:
    """Yield windows over a text that arrives in blocks: at least one, each with a token that no other has.

    sliding_windows([7], 4, 2): tokens 0 to 3, 2 to 5 and 4 to 6, to which the first 3, next 2 and last 2 belong.

    Args:
        sizes: tokens of each block; the next block is read only once a window depends on it.
        room: maximum tokens of a window.
        stride: tokens from the start of a window to the start of the next.
    """
    check_stride(stride, room)
    sizes, available, start, first = iter(sizes), 0, 0, 0
    while True:
        # One token beyond the window shows that it is not the last.
        while available <= start + room and (size := next(sizes, None)) is not None:
            available += size
        if available <= start + room:
            yield TokenWindow(start, available, first, available)
            return
        end = start + room
        last = _boundary(end, start + stride)
        yield TokenWindow(start, end, first, last)
        start, first = start + stride, last


def check_stride(stride: int, room: int) -> None:
    """Raise ValueError for windows without room for text, or a stride that skips tokens or does not advance."""
    if room < 1:
        raise ValueError(f"windows have room for {room} tokens of a text; make them longer")
    if not 1 <= stride <= room:
        raise ValueError(f"stride is {stride}; windows with room for {room} tokens of a text move by 1 to {room}")


def default_stride(room: int) -> int:
    """Half of the room: each token has a quarter of it as context on both sides, or the end of the text."""
    return max(room // 2, 1)


def max_context_windows(bounds: Sequence[tuple[int, int]]) -> list[TokenWindow]:
    """Assign each token to one of the windows [start, end), both ascending, that together cover all tokens."""
    boundaries = [_boundary(end, start) for (_, end), (start, _) in pairwise(bounds)]
    firsts, lasts = [0, *boundaries], [*boundaries, *(end for _, end in bounds[-1:])]
    return [TokenWindow(*window, first, last) for window, first, last in zip(bounds, firsts, lasts, strict=False)]


def _boundary(end: int, start: int) -> int:
    """The first token with more context in a window that begins at `start` than in the one before, up to `end`."""
    return (end + start + 1) // 2


class TextWindow(NamedTuple):
    """A window of a text with special tokens around it, of which the positions [first, last) belong to this window.

    The first window also has the prompt and the special tokens before it, the last one the special tokens at the end.
    Joined, these parts are the text's encoding.
    """

    text: int  # index of the text
    ids: np.ndarray  # int32 [n]: special tokens, the prompt, the tokens of the window, special tokens
    first: int
    last: int
    offsets: np.ndarray  # int32 [last - first, 2] of these tokens, (0, 0) for the prompt; empty unless requested
    is_last: bool  # whether this is the last window of the text


def text_windows(
    tokenizer: Tokenizer,
    texts: Sequence[str],
    length: int,
    stride: int | None = None,
    prompt: str = "",
    offsets: bool = False,
) -> Iterator[TextWindow]:
    """Yield the windows over each text in order, in memory independent of a text's length.

    Args:
        length: maximum tokens of a window, including special tokens and the prompt. A text that fits has one window.
        stride: tokens from the start of a window to the start of the next; None for half of the room for text.
        prompt: put before the text in every window.
    """
    prefix, suffix = special_tokens(tokenizer)
    prompt_ids = tokenizer.encode_batch([prompt], special=False)[0].ids if prompt else ()
    room = text_room(length, len(prefix) + len(prompt_ids) + len(suffix), prompt)
    check_stride(default_stride(room) if stride is None else stride, room)
    stream = stream_tokens(tokenizer, texts, offsets or bool(prompt), prompt)
    for number, blocks in groupby(stream, lambda block: block.text):
        buffer = _TokenBuffer(blocks, len(prompt))
        head = np.concatenate([prefix, buffer.prompt])
        # A prompt may have other tokens before another text, and so leave other room.
        room = text_room(length, len(head) + len(suffix), prompt)
        for window in sliding_windows(buffer.sizes(), room, min(stride or default_stride(room), room)):
            ids, spans = buffer.tokens(window)
            is_last = buffer.is_last(window)
            first = len(head) + window.first - window.start if window.start else 0
            last = len(head) + window.last - window.start + is_last * len(suffix)
            ids = np.concatenate([head, ids, suffix])
            spans = np.pad(spans, ((len(head), len(suffix)), (0, 0)))[first:last] if offsets else NO_OFFSETS
            yield TextWindow(number, ids, first, last, spans, is_last)


def text_room(length: int, reserved: int, prompt: str, setting: str = "max_length") -> int:
    """Tokens of a window that remain for text; ValueError, with the setting of the length, if a prompt leaves none."""
    if prompt and length <= reserved:
        problem = f"the prompt {prompt[:40]!r} has {reserved} tokens, which leaves none of {length} for a text"
        raise ValueError(f"{problem}; give a shorter prompt or a larger {setting}")
    return length - reserved


def special_tokens(tokenizer: Tokenizer) -> tuple[np.ndarray, np.ndarray]:
    """The special tokens before and after a single text, int32 [n] each."""
    (encoding,) = tokenizer.encode_batch(["a"], offsets=True)
    inner = np.flatnonzero(encoding.sequence == 0)
    if not len(inner):  # the vocabulary has no "a": assume that one special token follows a text
        return encoding.ids[:-1], encoding.ids[-1:]
    return encoding.ids[: inner[0]], encoding.ids[inner[-1] + 1 :]


class _TokenBuffer:
    """The tokens of a text that later windows still need, from blocks that begin with a prompt."""

    def __init__(self, blocks: Iterator[TokenBlock], prompt_size: int):
        self._blocks, self._prompt_size, self._start, self._exhausted = blocks, prompt_size, 0, False
        self._ids, self._offsets = np.empty(0, np.int32), NO_OFFSETS
        block = next(blocks)
        # A token that spans the end of the prompt belongs to the text.
        n = int(np.searchsorted(block.offsets[:, 1], prompt_size, side="right")) if prompt_size else 0
        self.prompt = block.ids[:n]
        self._append(block, n)

    def _append(self, block: TokenBlock, first: int = 0) -> None:
        self._ids = np.concatenate([self._ids, block.ids[first:]])
        offsets = np.maximum(block.offsets[first:] - np.int32(self._prompt_size), 0)
        self._offsets = np.concatenate([self._offsets, offsets])

    def sizes(self) -> Iterator[int]:
        """Yield the number of tokens of each block, after adding it to the buffer."""
        yield len(self._ids)
        for block in self._blocks:
            self._append(block)
            yield len(block.ids)
        self._exhausted = True

    def tokens(self, window: TokenWindow) -> tuple[np.ndarray, np.ndarray]:
        """Return ids and offsets (empty without them) of a window, and discard the tokens before it."""
        skip, n = window.start - self._start, window.end - window.start
        self._start, self._ids, self._offsets = window.start, self._ids[skip:], self._offsets[skip:]
        return self._ids[:n], self._offsets[:n]

    def is_last(self, window: TokenWindow) -> bool:
        """Whether a window, the one returned last, reaches the end of the text."""
        return self._exhausted and window.end - self._start == len(self._ids)


def group_windows(windows: Iterable[Any], tokens: int) -> Iterator[list[Any]]:
    """Group windows, or anything with `ids`, into lists that end once they have this many tokens."""
    group, size = [], 0
    for window in windows:
        group.append(window)
        size += len(window.ids)
        if size >= tokens:
            yield group
            group, size = [], 0
    if group:
        yield group
