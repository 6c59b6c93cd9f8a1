"""Texts and pairs of any length in the parts that a classifier reads at once: whole, cut, or windows that overlap."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np

from jaxencoder.inference.windows import Reading
from jaxencoder.text.tokenizer import Encoding, Tokenizer
from jaxencoder.text.windows import check_stride, default_stride, sliding_windows, special_tokens, text_windows

LEAST = 4  # of a row, the second text of a pair has at least one part in so many, where it is read in windows


class Part(NamedTuple):
    """All of a text or pair, its beginning, or a window.

    Attributes:
        text: number of the text.
        ids: int32 [n], special tokens included.
        type_ids: int32 [n]; None for a single text, where all are 0.
        weight: the number of tokens of which it knows most, without special ones, so that each counts once.
        tokens: of the parts of a text they add up to what it had before anything was cut, special tokens included.
        cut: true in one part of a text that lost tokens.
    """

    text: int
    ids: np.ndarray
    type_ids: np.ndarray | None
    weight: int
    tokens: int
    cut: bool


def parts_of_texts(tokenizer: Tokenizer, texts: Sequence[str], limit: int, reading: Reading) -> Iterator[Part]:
    """The parts of each text, of at most `limit` tokens, in memory that does not grow with its length.

    Raises:
        ValueError: not a list of valid strings, or a stride that leaves tokens out.
    """
    before, behind = map(len, special_tokens(tokenizer))
    windows = text_windows(tokenizer, texts, limit, reading.stride)
    for text, own in groupby(windows, lambda window: window.text):
        if reading.whole:
            for window in own:
                weight = min(window.last, len(window.ids) - behind) - max(window.first, before)
                yield Part(text, window.ids, None, max(weight, 1), window.last - window.first, False)
        else:
            first = next(own)
            tokens = first.last - first.first + sum(window.last - window.first for window in own)
            yield Part(text, first.ids, None, 1, tokens, reading.long == "truncate" and tokens > limit)


def parts_of_pairs(
    tokenizer: Tokenizer, texts: Sequence[str], pairs: Sequence[str], limit: int, reading: Reading
) -> Iterator[Part]:
    """The parts of each pair, of at most `limit` tokens: cut as in training, or windows over the second text.

    Each window has the first text, or as much of it as leaves a quarter of the tokens for the second one.

    Raises:
        ValueError: not lists of as many valid strings, no room for two texts, or a stride that leaves tokens out.
    """
    around = len(tokenizer.encode_batch([""], [""])[0].ids)
    if reading.stride is not None:
        check_stride(reading.stride, limit - around)
    for text, encoding in enumerate(tokenizer.encode_batch(texts, pairs)):
        tokens = len(encoding.ids)
        if tokens <= limit:
            yield Part(text, encoding.ids, encoding.type_ids, 1, tokens, False)
            continue
        if reading.long == "truncate":
            shorter = tokenizer.encode_batch([texts[text]], [pairs[text]], max_length=limit)[0]
            yield Part(text, shorter.ids, shorter.type_ids, 1, tokens, True)
            continue
        shorter = _with_room(tokenizer, texts[text], pairs[text], encoding, limit)
        second = int(tokenizer.encode_ids([pairs[text]])[1].item())
        room = limit - len(shorter.ids) + second
        if room < min(second, reading.stride or 1):
            raise ValueError(
                f"stride is {reading.stride}, but beside the first text {texts[text][:40]!r} windows have room for "
                f"{room} tokens of the second; give at most {max(limit // LEAST, 1)}, which always fit, or leave it out"
            )
        windows = _windows(text, shorter, len(shorter.ids) - second - 1, limit, reading.stride)
        first = next(windows)
        yield first._replace(tokens=tokens, cut=len(shorter.ids) < tokens)
        if reading.whole:
            yield from windows


def _windows(text: int, encoding: Encoding, before: int, limit: int, stride: int | None) -> Iterator[Part]:
    """An encoding that is too long, in parts that all have its first tokens, so many, and its last one, [SEP].

    [CLS] a b c d e [SEP] with 1 before, a limit of 5 and a stride of 2: [CLS] a b c [SEP], [CLS] c d e [SEP]
    """
    inner, room = len(encoding.ids) - before - 1, limit - before - 1
    for span in sliding_windows([inner], room, min(stride or default_stride(room), room)):
        at = np.r_[:before, before + span.start : before + span.end, before + inner]
        yield Part(text, encoding.ids[at], encoding.type_ids[at], max(span.last - span.first, 1), 0, False)


def _with_room(tokenizer: Tokenizer, first: str, second: str, encoding: Encoding, limit: int) -> Encoding:
    """The encoding of a pair whose first text was cut if it leaves the second less than a quarter of a row."""
    sizes = tokenizer.encode_ids([first, second])[1].tolist()
    least = min(sizes[1], max(limit // LEAST, 1))
    surplus = len(encoding.ids) - sizes[1] + least - limit
    if surplus <= 0:
        return encoding
    kept = sizes[0] - surplus
    if kept < 0:
        raise ValueError(f"rows of {limit} tokens have no room for windows of a second text; cut long texts instead")
    at = np.r_[: 1 + kept, 1 + sizes[0] : len(encoding.ids)]  # behind [CLS]
    return Encoding(encoding.ids[at], encoding.type_ids[at], None)
