"""Texts and pairs as the sequences that a classifier reads: complete, truncated, or split into overlapping windows."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np

from jaxencoder.text.config import WindowConfig
from jaxencoder.text.tokenizers.tokenizer import Encoding, Tokenizer
from jaxencoder.text.windows import check_stride, default_stride, sliding_windows, special_tokens, text_windows

_MIN_SHARE = 4  # the second text of a pair that is split has at least 1 / 4 of a row


class Part(NamedTuple):
    """A text or pair, its beginning, or a window over it."""

    text: int  # its index
    ids: np.ndarray  # int32 [n], special tokens included
    type_ids: np.ndarray | None  # int32 [n]; None for a single text, where all are 0
    weight: int  # number of tokens that belong to this window, special tokens excluded, so that each counts once
    tokens: int  # summed over the parts of a text, its length before truncation, special tokens included
    is_truncated: bool  # true in one part of a text that lost tokens


def text_parts(
    tokenizer: Tokenizer, texts: Sequence[str], limit: int, windows: WindowConfig | None = None
) -> Iterator[Part]:
    """The parts of each text, of at most `limit` tokens, in memory that does not grow with its length.

    Without `windows` long texts are truncated.
    """
    before, behind = map(len, special_tokens(tokenizer))
    every = text_windows(tokenizer, texts, limit, None if windows is None else windows.stride)
    for text, group in groupby(every, lambda window: window.text):
        if _reads_all(windows):
            for window in group:
                weight = min(window.last, len(window.ids) - behind) - max(window.first, before)
                yield Part(text, window.ids, None, max(weight, 1), window.last - window.first, False)
        else:
            first = next(group)
            tokens = first.last - first.first + sum(window.last - window.first for window in group)
            yield Part(text, first.ids, None, 1, tokens, windows is None and tokens > limit)


def pair_parts(
    tokenizer: Tokenizer, texts: Sequence[str], pairs: Sequence[str], limit: int, windows: WindowConfig | None = None
) -> Iterator[Part]:
    """The parts of each pair, of at most `limit` tokens: truncated as in training, or windows over the second text.

    Each window has the first text, or as much of it as leaves a quarter of the tokens for the second one. ValueError
    for a stride that skips tokens or no room for two texts.
    """
    specials = len(tokenizer.encode_batch([""], [""])[0].ids)
    stride = None if windows is None else windows.stride
    if stride is not None:
        check_stride(stride, limit - specials)
    for text, encoding in enumerate(tokenizer.encode_batch(texts, pairs)):
        tokens = len(encoding.ids)
        if tokens <= limit:
            yield Part(text, encoding.ids, encoding.type_ids, 1, tokens, False)
            continue
        if windows is None:
            shorter = tokenizer.encode_batch([texts[text]], [pairs[text]], max_length=limit)[0]
            yield Part(text, shorter.ids, shorter.type_ids, 1, tokens, True)
            continue
        shorter = _with_short_first(tokenizer, texts[text], pairs[text], encoding, limit)
        second = int(tokenizer.encode_ids([pairs[text]])[1].item())
        room = limit - len(shorter.ids) + second
        if room < min(second, stride or 1):
            raise ValueError(
                f"stride is {stride}, but after the first text {texts[text][:40]!r} windows have room for "
                f"{room} tokens of the second; give at most {max(limit // _MIN_SHARE, 1)}, which always fit, or leave "
                "it out"
            )
        parts = _windows(text, shorter, len(shorter.ids) - second - 1, limit, stride)
        first = next(parts)
        yield first._replace(tokens=tokens, is_truncated=len(shorter.ids) < tokens)
        if _reads_all(windows):
            yield from parts


def _reads_all(windows: WindowConfig | None) -> bool:
    return windows is not None and windows.pooling != "first"


def _windows(text: int, encoding: Encoding, before: int, limit: int, stride: int | None) -> Iterator[Part]:
    """A long encoding as windows that all have its first `before` tokens and its last one, [SEP].

    [CLS] a b c d e [SEP] with 1 before, a limit of 5 and a stride of 2: [CLS] a b c [SEP], [CLS] c d e [SEP]
    """
    inner, room = len(encoding.ids) - before - 1, limit - before - 1
    for span in sliding_windows([inner], room, min(stride or default_stride(room), room)):
        at = np.r_[:before, before + span.start : before + span.end, before + inner]
        yield Part(text, encoding.ids[at], encoding.type_ids[at], max(span.last - span.first, 1), 0, False)


def _with_short_first(tokenizer: Tokenizer, first: str, second: str, encoding: Encoding, limit: int) -> Encoding:
    """Truncate the first text of a pair if it leaves less than a quarter of a row to the second one."""
    sizes = tokenizer.encode_ids([first, second])[1].tolist()
    least = min(sizes[1], max(limit // _MIN_SHARE, 1))
    surplus = len(encoding.ids) - sizes[1] + least - limit
    if surplus <= 0:
        return encoding
    kept = sizes[0] - surplus
    if kept < 0:
        raise ValueError(f"rows of {limit} tokens have no room for windows of a second text; cut long texts instead")
    at = np.r_[: 1 + kept, 1 + sizes[0] : len(encoding.ids)]  # after [CLS]
    return Encoding(encoding.ids[at], encoding.type_ids[at])
