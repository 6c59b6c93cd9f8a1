"""Texts of any length as a few fixed shapes, so that a whole corpus runs through a handful of compiled programs.

Texts are sorted by length and cut into batches of about as many tokens each; a batch's length is the smallest of at
most eight bucket lengths that holds its longest text (sequence bucketing, Khomenko et al. 2016, arXiv:1708.05604).
"""

import logging
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from jaxencoder.objectives.objective import Batch
from jaxencoder.text.tokenizer import Tokenizer

log = logging.getLogger(__name__)

BUCKETS = 8
_SHORTEST = 16  # tokens; nothing is gained below


class Plan(NamedTuple):
    """One batch: which texts it holds, and the shape that they are padded to."""

    texts: np.ndarray  # int64 [texts]
    rows: int
    length: int


def bucket_lengths(max_length: int) -> tuple[int, ...]:
    """At most eight lengths from 16 to max_length tokens, each the same factor above the one before.

    512 -> (16, 32, 48, 72, 120, 192, 320, 512)
    """
    if max_length <= _SHORTEST:
        return (max_length,)
    lengths = np.geomspace(_SHORTEST, max_length, BUCKETS)
    multiples = (-(-int(round(x, 6)) // 8) * 8 for x in lengths[1:-1])
    return tuple(sorted({_SHORTEST, *(x for x in multiples if x < max_length), max_length}))


def plan(lengths: Sequence[int], buckets: Sequence[int], batch_tokens: int) -> Iterator[Plan]:
    """Cut texts into batches of one of few shapes, longest first, so that memory runs out at once or never.

    Args:
        lengths: tokens of each text, none above the largest bucket.
        buckets: ascending lengths.
        batch_tokens: tokens in a batch, padding included; a bucket's rows are batch_tokens // its length, at least 1.
            Only the last batch may have fewer, by a power of 4.
    """
    lengths = np.asarray(lengths, np.int64)
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        length = next(bucket for bucket in buckets if bucket >= lengths[order[start]])
        rows = max(1, batch_tokens // length)
        while rows > 1 and -(-rows // 4) >= len(order) - start:
            rows = -(-rows // 4)
        yield Plan(order[start : start + rows], rows, length)
        start += rows


def tokenize(tokenizer: Tokenizer, texts: Sequence[str], max_length: int) -> tuple[list[np.ndarray], int]:
    """Ids int32 [n] of each text with its special tokens, n <= max_length; and how many texts were cut to that.

    Raises:
        ValueError: not a list of valid strings.
    """
    # One token more than allowed tells a text that is too long from one that just fits.
    encoded = [encoding.ids for encoding in tokenizer.encode_batch(texts, max_length=max_length + 1)]
    cut = sum(len(ids) > max_length for ids in encoded)
    return [np.delete(ids, -2) if len(ids) > max_length else ids for ids in encoded], cut  # the last one is [SEP]


def warn_of_cuts(cut: int, texts: int, max_length: int) -> None:
    """One warning for all texts that were too long, if any were."""
    if cut:
        log.warning("%d of %d texts are longer than %d tokens and were cut there.", cut, texts, max_length)


def batch(ids: Sequence[np.ndarray], rows: int, length: int, pad_id: int) -> Batch:
    """Rows of one document each, as the encoder takes them.

    [[2, 7, 3], [2, 3]] in 2 rows of 4 -> int32 [B, T] each:
    token_ids [[2, 7, 3, 0], [2, 3, 0, 0]], segment_ids [[1, 1, 1, 0], [1, 1, 0, 0]],
    positions [[0, 1, 2, 0], [0, 1, 0, 0]].
    """
    token_ids = np.full((rows, length), pad_id, np.int32)
    segment_ids = np.zeros((rows, length), np.int32)
    for row, document in enumerate(ids):
        token_ids[row, : len(document)] = document
        segment_ids[row, : len(document)] = 1
    positions = np.arange(length, dtype=np.int32) * segment_ids
    return {"token_ids": token_ids, "segment_ids": segment_ids, "positions": positions}
