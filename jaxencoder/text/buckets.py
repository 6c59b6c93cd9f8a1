"""Texts of any length in rows of a few fixed lengths: a whole corpus runs through a handful of compiled programs.

A text opens a row of the smallest power of two that holds it, and shorter texts fill what is left of the row: best fit,
longest first (Johnson 1974, "Fast algorithms for bin packing"). Texts of one row do not see each other (Krell et al.
2021, arXiv:2107.02027), and little is spent on padding.
"""

import logging
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from jaxencoder.objectives.objective import Batch
from jaxencoder.text.tokenizers.encoding import raise_invalid_text
from jaxencoder.text.tokenizers.tokenizer import Tokenizer

log = logging.getLogger(__name__)

_SHORTEST = 32  # tokens of a row; nothing is gained below
_TOKENS_OF_A_TEXT = 8  # a row has a place for one text in so many of its tokens


class Plan(NamedTuple):
    """One batch: which texts it holds and where, and the shape of its rows."""

    texts: np.ndarray  # int64 [n]
    row: np.ndarray  # int64 [n]
    place: np.ndarray  # int64 [n], 0 for the first text of a row
    start: np.ndarray  # int64 [n], the column of the first token
    rows: int
    length: int


def row_lengths(max_length: int) -> tuple[int, ...]:
    """Powers of two from 32 on, and max_length tokens: 500 -> (32, 64, 128, 256, 500)"""
    lengths = []
    length = _SHORTEST
    while length < max_length:
        lengths.append(length)
        length *= 2
    return (*lengths, max_length)


def texts_in_a_row(length: int) -> int:
    """The most texts that a row of `length` tokens is given."""
    return max(1, length // _TOKENS_OF_A_TEXT)


def plan(lengths: Sequence[int], row_lengths: Sequence[int], batch_tokens: int) -> Iterator[Plan]:
    """Cut texts into batches of one of few shapes, longest first, so that memory runs out at once or never.

    Args:
        lengths: tokens of each text, none above the longest row's.
        row_lengths: ascending.
        batch_tokens: tokens in a batch, padding included; a batch has batch_tokens // length rows, at least 1. Only
            the last one of a length may have fewer, by a power of 4.
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
    # Rows by room left, and as bits of one integer which rooms there are: the best fit is the lowest bit at or above
    # the length of the text.
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
        if room > n and len(texts) < texts_in_a_row(length):
            by_room.setdefault(room - n, []).append(row)
            rooms |= 1 << (room - n)
    return rows


def _batch_of(packed: list[list[int]], lengths: Sequence[int], rows: int, length: int) -> Plan:
    texts, row, place, start = [], [], [], []
    for i, members in enumerate(packed):
        used = 0
        for j, text in enumerate(members):
            texts.append(text)
            row.append(i)
            place.append(j)
            start.append(used)
            used += lengths[text]
    return Plan(*(np.array(x, np.int64) for x in (texts, row, place, start)), rows, length)


def readable(tokenizer: Tokenizer | None) -> Tokenizer:
    """The tokenizer, if there is one; else ValueError."""
    if tokenizer is None:
        raise ValueError("this checkpoint came without a tokenizer and cannot read texts; put one into its folder")
    return tokenizer


def tokenize(
    tokenizer: Tokenizer | None, texts: Sequence[str], max_length: int, prompt: str = ""
) -> tuple[list[np.ndarray], int]:
    """Ids int32 [n] of each text with its special tokens, n <= max_length; and how many texts were cut to that.

    Args:
        prompt: stands before each text.

    Raises:
        ValueError: not a list of valid strings, or no tokenizer.
    """
    tokenizer = readable(tokenizer)
    if prompt and not isinstance(texts, str | bytes):
        texts = list(texts)
        try:
            return tokenize(tokenizer, [prompt + text for text in texts], max_length)
        except (TypeError, ValueError) as error:
            raise_invalid_text(texts, error)  # by its place in the text alone
    # One token more than allowed tells a text that is too long from one that just fits.
    encoded = [encoding.ids for encoding in tokenizer.encode_batch(texts, max_length=max_length + 1)]
    cut = sum(len(ids) > max_length for ids in encoded)
    return [np.delete(ids, -2) if len(ids) > max_length else ids for ids in encoded], cut  # the last one is [SEP]


def warn_of_cuts(cut: int, texts: int, max_length: int) -> None:
    """One warning for all texts that were too long, if any were."""
    if cut:
        log.warning("%d of %d texts are longer than %d tokens and were cut there.", cut, texts, max_length)


def batch(ids: Sequence[np.ndarray], plan: Plan, pad_id: int) -> Batch:
    """The rows of a batch, as the encoder takes them.

    ids [[2, 7, 3], [2, 3], [2, 8, 9, 3]], of which 0 and 1 go to row 0 of length 6 and 2 goes to row 1:
    token_ids [[2, 7, 3, 2, 3, 0], [2, 8, 9, 3, 0, 0]], segment_ids [[1, 1, 1, 2, 2, 0], [1, 1, 1, 1, 0, 0]],
    positions [[0, 1, 2, 0, 1, 0], [0, 1, 2, 3, 0, 0]], each int32 [B, T].
    """
    token_ids = np.full((plan.rows, plan.length), pad_id, np.int32)
    segment_ids, positions = np.zeros((2, plan.rows, plan.length), np.int32)
    count = np.arange(plan.length, dtype=np.int32)
    for text, row, place, start in zip(*(x.tolist() for x in plan[:4]), strict=True):
        n = len(ids[text])
        token_ids[row, start : start + n] = ids[text]
        segment_ids[row, start : start + n] = place + 1
        positions[row, start : start + n] = count[:n]
    return {"token_ids": token_ids, "segment_ids": segment_ids, "positions": positions}
