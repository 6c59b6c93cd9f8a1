"""Pack texts of any length into rows of a few fixed lengths, so that a corpus needs only a few compiled programs.

A text opens a row of the smallest length that holds it, and shorter texts fill the rest: best fit, longest first
(Johnson 1974). Attention does not cross texts of a row (Krell et al. 2021, arXiv:2107.02027).
"""

import itertools
import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from jaxencoder.text.packing import OpenRows
from jaxencoder.text.tokenizers.encoding import as_list, raise_invalid_text
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
    powers = (_MIN_LENGTH << i for i in range(max_length.bit_length()))
    return (*(length for length in powers if length < max_length), max_length)


def max_texts_per_row(length: int) -> int:
    """The most texts that a row of `length` tokens may hold."""
    return max(1, length // _TOKENS_PER_TEXT)


def padded_size(number: int) -> int:
    """The next power of two, so that arrays of any size need only a few compiled programs."""
    return 1 << max(0, number - 1).bit_length()


def plan(lengths: Sequence[int], row_lengths: Sequence[int], batch_tokens: int, step: int = 4) -> Iterator[BatchPlan]:
    """Group texts into batches of few shapes, longest first, so that memory runs out at once or never.

    Args:
        lengths: tokens of each text, at most row_lengths[-1], the last of the ascending lengths of rows.
        batch_tokens: tokens in a batch, padding included; a batch has batch_tokens // length rows, at least 1. Only the
            last batch of a length may have fewer, by a power of `step`.
        step: a small one leaves less of the last batch empty, for more programs.
    """
    by_length = defaultdict(list)
    for length, texts in _packed(lengths, row_lengths):
        by_length[length].append(texts)
    for length, packed in by_length.items():
        start = 0
        while start < len(packed):
            most, *fewer = _row_counts(length, batch_tokens, step)
            rows = min([rows for rows in fewer if rows >= len(packed) - start], default=most)
            yield _batch_of(packed[start : start + rows], lengths, rows, length)
            start += rows


def batch_shapes(row_lengths: Sequence[int], batch_tokens: int, step: int = 4) -> list[tuple[int, int]]:
    """All shapes (rows, length) of the batches of `plan`, the largest first."""
    return [(rows, length) for length in reversed(row_lengths) for rows in _row_counts(length, batch_tokens, step)]


def _row_counts(length: int, batch_tokens: int, step: int) -> list[int]:
    """The numbers of rows that a batch may have, descending: 32 -> 32, 8, 2, 1 in steps of 4"""
    counts = [max(1, batch_tokens // length)]
    while counts[-1] > 1:
        counts.append(-(-counts[-1] // step))
    return counts


def _packed(lengths: Sequence[int], row_lengths: Sequence[int]) -> list[tuple[int, list[int]]]:
    """(length, texts) of each row."""
    rows: list[tuple[int, list[int]]] = []
    open_rows = OpenRows()
    for text in np.argsort(-np.asarray(lengths, np.int64), kind="stable").tolist():
        n = lengths[text]
        if (fitting := open_rows.take(at_least=n)) is None:
            fitting = len(rows), next(length for length in row_lengths if length >= n)
            rows.append((fitting[1], []))
        row, room = fitting
        length, texts = rows[row]
        texts.append(text)
        if room > n and len(texts) < max_texts_per_row(length):
            open_rows.put(row, room - n)
    return rows


def _batch_of(packed: list[list[int]], lengths: Sequence[int], rows: int, length: int) -> BatchPlan:
    entries = []  # (text, row, segment, start)
    for number, members in enumerate(packed):
        starts = itertools.accumulate((lengths[text] for text in members), initial=0)
        entries += zip(members, itertools.repeat(number), itertools.count(), starts, strict=False)
    texts, row, segment, start = np.array(entries, np.int64).T
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

    The prompt is put before each text. ValueError for texts that are not a list of valid strings, or no tokenizer.
    """
    tokenizer, texts = require_tokenizer(tokenizer), as_list(texts)
    try:
        inputs = [prompt + text for text in texts] if prompt else texts
        encoded = tokenizer.encode_batch(inputs, max_length=max_length)
    except (TypeError, ValueError) as error:
        raise_invalid_text(texts, error)  # names the position in the text without the prompt
    return [encoding.ids for encoding in encoded], sum(encoding.is_truncated for encoding in encoded)


def prompt_tokens(tokenizer: Tokenizer | None, prompt: str) -> int:
    """The number of tokens that a prompt puts before a text, with the special ones before it."""
    tokenizer = require_tokenizer(tokenizer)
    ids = tokenizer.encode_batch([prompt])[0].ids
    return len(ids) - int(len(ids) > 0 and ids[-1] in tokenizer.special_ids)


def shared_tokens(tokenizer: Tokenizer | None, prompt: str) -> int:
    """The number of tokens with which all texts after a prompt begin, with the special ones before it.

    It is less than that of `prompt_tokens` where the end of the prompt joins the first word, as a space does in BPE.
    """
    texts = [prompt, prompt.rstrip(), f"{prompt}a", f"{prompt}1"]
    encoded = require_tokenizer(tokenizer).encode_batch(texts)
    columns = zip(*(encoding.ids.tolist() for encoding in encoded), strict=False)
    return sum(1 for _ in itertools.takewhile(lambda column: len(set(column)) == 1, columns))


def warn_truncated(truncated: int, texts: int, max_length: int, kind: str = "texts") -> None:
    """Warn once for all truncated texts."""
    if truncated:
        log.warning("%d of %d %s are longer than %d tokens and were truncated.", truncated, texts, kind, max_length)


def batch(ids: Sequence[np.ndarray], plan: BatchPlan, pad_id: int) -> dict[str, np.ndarray]:
    """The encoder's input for a batch, as of `Store.read`: token_ids, segment_ids and positions, int32 [B, T]."""
    token_ids = np.full((plan.rows, plan.length), pad_id, np.int32)
    segment_ids, positions = np.zeros((2, plan.rows, plan.length), np.int32)
    for text, row, segment, start in zip(*(x.tolist() for x in plan[:4]), strict=True):
        n = len(ids[text])
        token_ids[row, start : start + n] = ids[text]
        segment_ids[row, start : start + n] = segment + 1
        positions[row, start : start + n] = np.arange(n)
    return {"token_ids": token_ids, "segment_ids": segment_ids, "positions": positions}
