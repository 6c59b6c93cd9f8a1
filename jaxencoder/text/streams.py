"""Tokens of texts of any length, a block at a time, equal to those of the whole text."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from jaxencoder.text.tokenizers.encoding import NO_OFFSETS, as_list, raise_invalid_text
from jaxencoder.text.tokenizers.tokenizer import Tokenizer

_CHARACTERS = 1 << 16  # of a text tokenized in one call; shorter texts are grouped up to this size
_OVERLAP = 512  # characters that two successive pieces of a text share
_MAX_PIECE = 1 << 20  # characters of a piece that grows for want of a seam


class TokenBlock(NamedTuple):
    """Consecutive tokens of a text, without special tokens.

    text: index of the text. ids: int32 [n]. offsets: int32 [n, 2], [start, end) of each token in characters of the
    text; empty unless requested.
    """

    text: int
    ids: np.ndarray
    offsets: np.ndarray


def stream_tokens(
    tokenizer: Tokenizer, texts: Sequence[str], offsets: bool = False, prompt: str = ""
) -> Iterator[TokenBlock]:
    """Yield the tokens of each text in order, in at least one block, in memory independent of a text's length.

    Joined, they equal `tokenizer.encode_batch(texts, special=False)`. A long text is tokenized in overlapping pieces.
    One piece continues the other at a seam: two tokens that both have at the same characters, away from their ends.
    Without a seam, as in a word of thousands of characters, the piece grows to at most a million characters; a longer
    word or run of spaces is split there. (Within thousands of equal characters, tokens may differ too.)

    The prompt is put before each text, and its characters count in the offsets.

    Raises:
        ValueError: not a list of valid strings; the message has the index of the text and the position in it.
    """
    texts = as_list(texts)
    try:
        inputs = [prompt + text for text in texts] if prompt else texts
        for start, end in _groups(inputs):
            if end - start == 1 and len(inputs[start]) > _CHARACTERS:
                yield from _stream_long(tokenizer, start, inputs[start], offsets)
            elif offsets:
                encodings = tokenizer.encode_batch(inputs[start:end], special=False, offsets=True)
                yield from (TokenBlock(i, x.ids, x.offsets) for i, x in enumerate(encodings, start))
            else:
                ids, sizes = tokenizer.encode_ids(inputs[start:end])
                split_ids = np.split(ids, np.cumsum(sizes)[:-1])
                yield from (TokenBlock(i, text_ids, NO_OFFSETS) for i, text_ids in enumerate(split_ids, start))
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
    """Find the token, as its index in each piece, at which the second piece continues the first; None for no seam.

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
