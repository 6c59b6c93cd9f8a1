"""Texts as token sequences with their special tokens, none longer than a row."""

from typing import NamedTuple

import numpy as np

from jaxencoder.text.tokenizers.tokenizer import Tokenizer
from jaxencoder.text.windows import special_tokens, text_windows


class Pieces(NamedTuple):
    """Token sequences with their special tokens.

    ids: uint32 [n], one sequence after the other. lengths: int64 [pieces]. type_ids: uint8 [n], or None.
    counts: int64 [V], how often each token is there, special tokens 0. labels: int64 [pieces], -1 for none; or None
    where the text has no say in it. token_labels: int32 [n], -1 for none; or None. groups: int64, how many pieces each
    group has that must be in one row; or None, where each may be anywhere. windows: int64 [texts], how many pieces each
    text has, all with its label; or None, where each has one.
    """

    ids: np.ndarray
    lengths: np.ndarray
    type_ids: np.ndarray | None
    counts: np.ndarray
    labels: np.ndarray | None = None
    token_labels: np.ndarray | None = None
    groups: np.ndarray | None = None
    windows: np.ndarray | None = None


def documents(tokenizer: Tokenizer, texts: list[str], row_length: int) -> Pieces:
    """Each text cut into pieces [CLS] ... [SEP] of at most row_length tokens; a text without tokens gives none.

    With row_length 4, ids [5 6 7] of one text give [CLS 5 6 SEP] [CLS 7 SEP].
    """
    ids, sizes = tokenizer.encode_ids(texts)
    lengths, _ = cut(sizes, row_length - 2)
    out = np.empty(len(ids) + 2 * len(lengths), np.uint32)
    ends = np.cumsum(lengths + 2)
    inner = np.ones(len(out), bool)
    inner[ends - 1] = inner[ends - lengths - 2] = False
    out[inner] = ids
    out[ends - 1], out[ends - lengths - 2] = tokenizer.sep_id, tokenizer.cls_id
    return Pieces(out, lengths + 2, None, counts(out, tokenizer))


def examples(tokenizer: Tokenizer, texts: list[str], pairs: list[str] | None, row_length: int) -> Pieces:
    """Each text, or pair of texts, as one piece, cut to row_length (longest text first); none is left out."""
    encoded = tokenizer.encode_batch(texts, pairs, max_length=row_length)
    ids = np.concatenate([item.ids for item in encoded]).astype(np.uint32)
    lengths = np.array([len(item.ids) for item in encoded], np.int64)
    types = np.concatenate([item.type_ids for item in encoded]).astype(np.uint8) if pairs is not None else None
    return Pieces(ids, lengths, types, counts(ids, tokenizer))


def windows(tokenizer: Tokenizer, texts: list[str], row_length: int, overlap: int) -> Pieces:
    """Each text as the windows over it, which have `overlap` tokens in common, at most half of their own."""
    room = row_length - sum(map(len, special_tokens(tokenizer)))
    found = list(text_windows(tokenizer, texts, row_length, room - min(overlap, room // 2)))
    ids = np.concatenate([window.ids for window in found]).astype(np.uint32)
    lengths = np.array([len(window.ids) for window in found], np.int64)
    sizes = np.bincount([window.text for window in found], minlength=len(texts))
    return Pieces(ids, lengths, None, counts(ids, tokenizer), windows=sizes)


def cut(sizes: np.ndarray, room: int) -> tuple[np.ndarray, np.ndarray]:
    """Sizes of parts of at most `room`, and how many each has: [5, 0, 2] with room 3 -> [3, 2, 2], [2, 0, 1]."""
    full, rest = sizes // room, sizes % room
    parts = full + (rest > 0)
    lengths = np.full(parts.sum(), room, np.int64)
    last = np.cumsum(parts) - 1
    lengths[last[rest > 0]] = rest[rest > 0]
    return lengths, parts


def counts(ids: np.ndarray, tokenizer: Tokenizer) -> np.ndarray:
    """How often each token is there: int64 [V], special tokens 0."""
    found = np.bincount(ids, minlength=tokenizer.vocab_size)
    found[list(tokenizer.special_ids)] = 0
    return found
