"""Pack texts of any length into rows of a few fixed lengths, so that a corpus needs only a few compiled programs.

A text opens a row of the smallest length that holds it, and shorter texts fill the rest of the row: best fit, longest
first (Johnson 1974, "Fast algorithms for bin packing"). Attention does not cross texts of a row (Krell et al. 2021,
arXiv:2107.02027).
"""

import logging
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from jaxencoder.text.tokenizers.encoding import raise_invalid_text
from jaxencoder.text.tokenizers.tokenizer import Tokenizer

log = logging.getLogger(__name__)

_MIN_LENGTH = 32  # tokens of a row; shorter rows gain nothing
_TOKENS_PER_TEXT = 8  # a row of T tokens holds at most T / 8 texts


class BatchPlan(NamedTuple):
    """The texts of a batch, their positions in its rows, and the shape of the rows."""

    texts: np.ndarray  # int64 [n]
    row: np.ndarray  # int64 [n]
    segment: np.ndarray  # int64 [n], 0 for the first text of a row
    start: np.ndarray  # int64 [n], the column of the first token
    rows: int
    length: int


def row_lengths(max_length: int) -> tuple[int, ...]:
    """Powers of two from 32, and max_length last: 500 -> (32, 64, 128, 256, 500)"""
    lengths = []
    length = _MIN_LENGTH
    while length < max_length:
        lengths.append(length)
        length *= 2
    return (*lengths, max_length)


def max_texts_per_row(length: int) -> int:
    """Maximum number of texts in a row of `length` tokens."""
    return max(1, length // _TOKENS_PER_TEXT)


def plan(lengths: Sequence[int], row_lengths: Sequence[int], batch_tokens: int) -> Iterator[BatchPlan]:
    """Group texts into batches of few shapes, longest first, so that memory runs out at once or never.

    Args:
        lengths: tokens of each text, at most row_lengths[-1].
        row_lengths: ascending.
        batch_tokens: tokens in a batch, padding included; a batch has batch_tokens // length rows, at least 1. Only the
            last batch of a length may have fewer, by a power of 4.
    """
    by_length: dict[int, list[list[int]]] = {}
    for length, texts in _packed(lengths, row_lengths):
        by_length.setdefault(length, []).append(texts)
    for length, packed in by_length.items():
        start = 0
        while start < len(packed):
            rows = max(1, batch_tokens // length)
            while rows > 1 and -(-rows // 4) >= len(packed) - start:
                rows = -(-rows // 4)
            yield _batch_of(packed[start : start + rows], lengths, rows, length)
            start += rows


def _packed(lengths: Sequence[int], row_lengths: Sequence[int]) -> list[tuple[int, list[int]]]:
    """(length, texts) of each row."""
    rows: list[tuple[int, list[int]]] = []
    # Rows by the room that is left. `rooms` has one bit per room in use: the best fit for a text of n tokens is the
    # lowest bit from n on, found without a search.
    by_room: dict[int, list[int]] = {}
    rooms = 0
    for text in np.argsort(-np.asarray(lengths, np.int64), kind="stable").tolist():
        n = lengths[text]
        fitting = rooms >> n
        if fitting:
            room = n + (fitting & -fitting).bit_length() - 1
            row = by_room[room].pop()
            if not by_room[room]:
                rooms ^= 1 << room
        else:
            row, room = len(rows), next(length for length in row_lengths if length >= n)
            rows.append((room, []))
        length, texts = rows[row]
        texts.append(text)
        if room > n and len(texts) < max_texts_per_row(length):
            by_room.setdefault(room - n, []).append(row)
            rooms |= 1 << (room - n)
    return rows


def _batch_of(packed: list[list[int]], lengths: Sequence[int], rows: int, length: int) -> BatchPlan:
    texts, row, segment, start = [], [], [], []
    for i, members in enumerate(packed):
        used = 0
        for j, text in enumerate(members):
            texts.append(text)
            row.append(i)
            segment.append(j)
            start.append(used)
            used += lengths[text]
    texts, row, segment, start = (np.array(x, np.int64) for x in (texts, row, segment, start))
    return BatchPlan(texts, row, segment, start, rows, length)


def require_tokenizer(tokenizer: Tokenizer | None) -> Tokenizer:
    """The tokenizer; ValueError if it is None."""
    if tokenizer is None:
        raise ValueError("this checkpoint came without a tokenizer and cannot read texts; add one to its folder")
    return tokenizer


def tokenize(
    tokenizer: Tokenizer | None, texts: Sequence[str], max_length: int, prompt: str = ""
) -> tuple[list[np.ndarray], int]:
    """Ids int32 [n] of each text with special tokens, n <= max_length, and the number of texts that were truncated.

    Args:
        prompt: put before each text.

    Raises:
        ValueError: not a list of valid strings, or no tokenizer.
    """
    tokenizer = require_tokenizer(tokenizer)
    if prompt and not isinstance(texts, str | bytes):
        texts = list(texts)
        try:
            return tokenize(tokenizer, [prompt + text for text in texts], max_length)
        except (TypeError, ValueError) as error:
            raise_invalid_text(texts, error)  # names the position in the text without the prompt
    # One more token than allowed shows which texts are too long.
    encoded = [encoding.ids for encoding in tokenizer.encode_batch(texts, max_length=max_length + 1)]
    truncated = sum(len(ids) > max_length for ids in encoded)
    # The last token is [SEP] and stays.
    return [np.delete(ids, -2) if len(ids) > max_length else ids for ids in encoded], truncated


def warn_truncated(truncated: int, texts: int, max_length: int) -> None:
    """Warn once for all truncated texts."""
    if truncated:
        log.warning("%d of %d texts are longer than %d tokens and were truncated.", truncated, texts, max_length)


def batch(ids: Sequence[np.ndarray], plan: BatchPlan, pad_id: int) -> dict[str, np.ndarray]:
    """The encoder's input for a batch.

    With ids [[2, 7, 3], [2, 3], [2, 8, 9, 3]], texts 0 and 1 in row 0 of length 6 and text 2 in row 1:
    token_ids [[2, 7, 3, 2, 3, 0], [2, 8, 9, 3, 0, 0]], segment_ids [[1, 1, 1, 2, 2, 0], [1, 1, 1, 1, 0, 0]],
    positions [[0, 1, 2, 0, 1, 0], [0, 1, 2, 3, 0, 0]], each int32 [B, T].
    """
    token_ids = np.full((plan.rows, plan.length), pad_id, np.int32)
    segment_ids, positions = np.zeros((2, plan.rows, plan.length), np.int32)
    row_positions = np.arange(plan.length, dtype=np.int32)
    for text, row, segment, start in zip(*(x.tolist() for x in plan[:4]), strict=True):
        n = len(ids[text])
        token_ids[row, start : start + n] = ids[text]
        segment_ids[row, start : start + n] = segment + 1
        positions[row, start : start + n] = row_positions[:n]
    return {"token_ids": token_ids, "segment_ids": segment_ids, "positions": positions}
