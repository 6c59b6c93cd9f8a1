"""Tokens of texts of any length, a part at a time, as the tokenizer gives them for the whole text."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from jaxencoder.text.tokenizer import Tokenizer
from jaxencoder.text.tokenizer_backends import raise_invalid_text

_CHARACTERS = 1 << 16  # of a text that are tokenised at once; shorter texts are put together to so many
_COMMON = 512  # of them that two parts of a text have in common
_LARGEST = 1 << 20  # of them in a piece that has grown


class TokenBlock(NamedTuple):
    """Tokens of a text, in order, without special ones.

    text: number of the text. ids: int32 [n]. offsets: int32 [n, 2], the characters of the text that each token stands
    for; None unless asked for.
    """

    text: int
    ids: np.ndarray
    offsets: np.ndarray | None


def stream_tokens(
    tokenizer: Tokenizer, texts: Sequence[str], offsets: bool = False, prompt: str = ""
) -> Iterator[TokenBlock]:
    """The parts of each text, at least one of each, in memory that does not grow with a text's length.

    Put together they are `tokenizer.encode_batch(texts, special=False)`: a long text is tokenised in pieces that
    overlap, and one goes over into the next where both have the same two tokens at the same characters, away from their
    ends. Where nowhere is such a place, as within a word of thousands of characters that is one token, a piece grows
    until there is one, or to a million characters: a longer word, or more spaces, are parted there. (Also within
    thousands of equal characters may other tokens of these characters come out.)

    Args:
        prompt: stands before each text, and its characters count in the offsets.

    Raises:
        ValueError: not a list of valid strings; names the text, and the place in it.
    """
    if isinstance(texts, str | bytes):
        raise ValueError(f"texts is one {type(texts).__name__}, not a list of strings; put it in a list")
    texts = list(texts)
    try:
        given = [prompt + text for text in texts] if prompt else texts
        for start, end in _groups(given):
            if end - start == 1 and len(given[start]) > _CHARACTERS:
                yield from _long(tokenizer, start, given[start], offsets)
            elif offsets:
                encoded = tokenizer.encode_batch(given[start:end], special=False, offsets=True)
                yield from (TokenBlock(i, x.ids, x.offsets) for i, x in enumerate(encoded, start))
            else:
                ids, sizes = tokenizer.encode_ids(given[start:end])
                each = np.split(ids, np.cumsum(sizes)[:-1])
                yield from (TokenBlock(i, own, None) for i, own in enumerate(each, start))
    except (TypeError, ValueError) as error:
        raise_invalid_text(texts, error)  # by its number among all texts, and its place in what was given


def _groups(texts: list[str]) -> Iterator[tuple[int, int]]:
    """Texts [start, end) that are tokenised together: a long one alone, short ones up to so many characters."""
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


def _long(tokenizer: Tokenizer, number: int, text: str, offsets: bool) -> Iterator[TokenBlock]:
    piece, given = _encoded(tokenizer, text, 0, _CHARACTERS), 0
    while piece.end < len(text):
        following = _encoded(tokenizer, text, piece.end - _COMMON, piece.end + _CHARACTERS)
        seam = _seam(piece, following)
        if seam is None and piece.end - piece.start < _LARGEST:
            piece = _encoded(tokenizer, text, piece.start, piece.end + (piece.end - piece.start))
            continue
        if seam is None:
            following, seam = _encoded(tokenizer, text, piece.end, piece.end + _CHARACTERS), (len(piece.ids), 0)
        yield TokenBlock(number, piece.ids[given : seam[0]], piece.offsets[given : seam[0]] if offsets else None)
        piece, given = following, seam[1]
    yield TokenBlock(number, piece.ids[given:], piece.offsets[given:] if offsets else None)


def _encoded(tokenizer: Tokenizer, text: str, start: int, end: int) -> _Piece:
    end = min(end, len(text))
    (found,) = tokenizer.encode_batch([text[start:end]], special=False, offsets=True)
    return _Piece(start, end, found.ids, found.offsets + np.int32(start))


def _seam(piece: _Piece, following: _Piece) -> tuple[int, int] | None:
    """The token of each piece with which the second one takes over; None where they do not agree.

    It is nearest to the middle of the characters that both have, and in its half. It and the token before it are the
    same in both, and no token stands for characters on both sides.
    """
    quarter = (piece.end - following.start) // 4
    edges = following.start + quarter, piece.end - quarter
    candidates = []
    for starts, ends in ((x.offsets[:, 0], x.offsets[:, 1]) for x in (piece, following)):
        # The first token of those that share a character, as the bytes of an emoji do.
        at = np.searchsorted(starts, edges[0]), np.searchsorted(starts, edges[1])
        at = np.arange(max(at[0], 1), at[1])
        candidates.append(at[(starts[at - 1] < starts[at]) & (ends[at - 1] <= starts[at])])
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
    best = np.flatnonzero(same)[np.abs(common[same] - sum(edges) // 2).argmin()]
    return int(i[best]), int(j[best])
