"""Texts as token sequences with their special tokens, none longer than a row."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxencoder.text.tokenizers.tokenizer import Encoding, Tokenizer
from jaxencoder.text.windows import special_tokens, text_windows


class Pieces(NamedTuple):
    """Token sequences with their special tokens, concatenated."""

    ids: np.ndarray  # uint32 [n]
    lengths: np.ndarray  # int64 [pieces]
    type_ids: np.ndarray | None  # uint8 [n]; None if all are 0
    counts: np.ndarray  # int64 [V], how often each token occurs, special tokens 0
    labels: list | None = None  # one a piece, as `segment_labels` encodes them; None without labels of texts
    token_labels: np.ndarray | None = None  # int32 [n], -1 at tokens without a label
    groups: np.ndarray | None = None  # int64 [groups], consecutive pieces that share a row; None: each anywhere

    @classmethod
    def of(
        cls,
        tokenizer: Tokenizer,
        ids: Sequence[np.ndarray],
        type_ids: Sequence[np.ndarray] | None = None,
        labels: list | None = None,
        token_labels: Sequence[np.ndarray] | None = None,
        groups: Sequence[int] | None = None,
    ) -> "Pieces":
        """Pieces from the arrays of each sequence."""

        def join(arrays: Sequence[np.ndarray] | None, dtype: type) -> Any:
            return None if arrays is None else np.concatenate([np.empty(0, dtype), *arrays]).astype(dtype)

        flat, lengths = join(ids, np.uint32), np.array([len(piece) for piece in ids], np.int64)
        types, labels_of_tokens = join(type_ids, np.uint8), join(token_labels, np.int32)
        counts = np.bincount(flat, minlength=tokenizer.vocab_size)
        counts[list(tokenizer.special_ids)] = 0
        sizes = None if groups is None else np.array(groups, np.int64)
        return cls(flat, lengths, types, counts, labels, labels_of_tokens, sizes)


def documents(tokenizer: Tokenizer, texts: list[str], row_length: int) -> Pieces:
    """Each text as pieces [CLS] ... [SEP] of at most row_length tokens; a text without tokens gives none.

    With row_length 4, ids [5 6 7] of one text give [CLS 5 6 SEP] [CLS 7 SEP].
    """
    ids, sizes = tokenizer.encode_ids(texts)
    lengths = cut(sizes, row_length - 2)
    parts = np.split(ids, np.cumsum(lengths))[: len(lengths)]
    return Pieces.of(tokenizer, [np.concatenate([[tokenizer.cls_id], part, [tokenizer.sep_id]]) for part in parts])


def examples(
    tokenizer: Tokenizer, texts: list[str], pairs: list[str] | None, labels: list[Any] | None, row_length: int
) -> Pieces:
    """Each text, or pair of texts, as one piece, truncated to row_length, longest text first."""
    encoded = tokenizer.encode_batch(texts, pairs, max_length=row_length)
    types = None if pairs is None else [encoding.type_ids for encoding in encoded]
    return Pieces.of(tokenizer, [encoding.ids for encoding in encoded], types, labels)


def grouped(
    tokenizer: Tokenizer,
    texts: Sequence[str],
    pairs: Sequence[str] | None,
    sizes: Sequence[int],
    row_length: int | Sequence[int],
    text_limit: int | None = None,
    prompts: Sequence[str] = ("",),
) -> tuple[list[list[Encoding]], int]:
    """The encodings of consecutive texts, or pairs, in groups of these sizes, and the number of truncated groups.

    Those of a group fit into one row together. If they do not, the longest are truncated to one length, of a pair the
    longer text first. None has more than `text_limit` tokens. `row_length` is for all groups, or for each. A
    truncated text has room for any of `prompts`, with which it may begin, and a token more.
    """
    rooms = [row_length] * len(sizes) if isinstance(row_length, int) else row_length
    second = None if pairs is None else list(pairs)
    encoded = tokenizer.encode_batch(list(texts), second, max_length=text_limit)
    # A token of each text.
    shortest = tokenizer.encode_batch(list(prompts), None if pairs is None else [""] * len(prompts))
    least = max(len(encoding.ids) for encoding in shortest) + 1 + (pairs is not None)
    groups, end, truncated = [], 0, 0
    for size, room in zip(sizes, rooms, strict=True):
        start, end = end, end + size
        lengths = [len(encoding.ids) for encoding in encoded[start:end]]
        if sum(lengths) > room:
            limit = _shared_limit(lengths, room)
            if limit < least:
                raise ValueError(f"rows of {room} tokens have no room for {size} texts; make them longer")
            long = [i for i, n in enumerate(lengths, start) if n > limit]
            seconds = None if second is None else [second[i] for i in long]
            shorter = tokenizer.encode_batch([texts[i] for i in long], seconds, max_length=limit)
            for i, encoding in zip(long, shorter, strict=True):
                encoded[i] = encoding
            truncated += 1
        groups.append(encoded[start:end])
    return groups, truncated


def _shared_limit(lengths: Sequence[int], room: int) -> int:
    """The largest length to which all can be truncated so that they fit: [9, 9, 2] with room 14 -> 6."""
    left = len(lengths)
    for n in sorted(lengths):
        if n * left > room:
            break
        room, left = room - n, left - 1
    return room // max(left, 1)


def windows(tokenizer: Tokenizer, texts: list[str], labels: list[Any], row_length: int, overlap: int) -> Pieces:
    """Each text as windows that share `overlap` tokens, at most half of a window, and all have the text's label."""
    room = row_length - sum(map(len, special_tokens(tokenizer)))
    parts = list(text_windows(tokenizer, texts, row_length, room - min(overlap, room // 2)))
    return Pieces.of(tokenizer, [part.ids for part in parts], labels=[labels[part.text] for part in parts])


def cut(sizes: np.ndarray, room: int) -> np.ndarray:
    """Sizes of parts of at most `room`: [5, 0, 2] with room 3 -> [3, 2, 2]."""
    full, rest = sizes // room, sizes % room
    parts = full + (rest > 0)
    lengths = np.full(parts.sum(), room, np.int64)
    last = np.cumsum(parts) - 1
    lengths[last[rest > 0]] = rest[rest > 0]
    return lengths
