"""Pairs of texts out of documents, for an objective that tells whether the second follows the first.

The next sentence: Devlin et al. 2019 (BERT, arXiv:1810.04805, appendix A.2). The order of sentences: Lan et al. 2020
(ALBERT, arXiv:1909.11942, section 3.1).
"""

import hashlib
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from random import Random
from typing import NamedTuple

import numpy as np

from jaxencoder.text.pieces import Pieces, counts, cut
from jaxencoder.text.sentences import split_sentences
from jaxencoder.text.tokenizer import Tokenizer

# Of each data.pairs: what label 0 and label 1 say.
LABEL_NAMES = {"nsp": ("next", "other"), "sop": ("ordered", "swapped")}


class _Document(NamedTuple):
    seed: int
    ids: np.ndarray  # uint32 [n], n > 0
    ends: list[int]  # where each sentence ends, the last at n


def sentence_pairs(tokenizer: Tokenizer, texts: list[str], row_length: int, kind: str, short: float) -> Pieces:
    """The documents as pairs [CLS] a [SEP] b [SEP] of at most row_length tokens, with type ids 0 for a and 1 for b.

    Sentences are taken until they fill a row; with probability `short`, a random part of one. A random boundary
    between two of them parts a from b; a sentence that is alone (the last of its document, or a long one) is parted
    between any two of its tokens. Then, half of the time each:

        nsp  0: b is what follows a; 1: b is from a random place in another of the documents, which begins as b would,
             with a sentence or in the midst of one, and what followed a comes in the next pair
        sop  0: a and b as they stand; 1: swapped

    Where both are longer than a row, tokens are dropped from the longer one, at either end at random. A single token
    that is left makes a piece of its own, with label -1. A sentence longer than a row counts as several.

    All choices are a function of the documents' texts and, for another document, of their order.

    Args:
        texts: documents of one source; those without tokens give no pairs.
        row_length: at least 8.
        kind: "nsp" or "sop".
        short: probability of a pair that is to be shorter.

    Raises:
        ValueError: nsp, and fewer than two documents have tokens; or a text is not valid Unicode.
    """
    between = tokenizer.encode_batch([""], [""])[0].ids[1:-1].astype(np.uint32)
    room = row_length - 2 - len(between)
    documents = _documents(tokenizer, texts, room)
    if kind == "nsp" and len(documents) == 1:
        raise ValueError(
            "data.pairs is nsp, which takes texts from other documents, but only one document holds text; "
            "give more (a small data.validation_fraction may hold out one), or set data.pairs to sop"
        )
    cls, sep = (np.array([token], np.uint32) for token in (tokenizer.cls_id, tokenizer.sep_id))
    parts, sizes, labels = [], [], []
    for own in range(len(documents)):
        for a, b, label in _pairs_of(documents, own, room, kind, short):
            parts += [cls, a, sep] if b is None else [cls, a, between, b, sep]
            sizes.append((len(a) + 2, 0) if b is None else (1 + len(a) + len(between), len(b) + 1))
            labels.append(label)
    ids = np.concatenate([np.empty(0, np.uint32), *parts])
    lengths = np.array(sizes, np.int64).reshape(-1, 2)
    types = np.repeat(np.tile(np.array([0, 1], np.uint8), len(lengths)), lengths.ravel())
    return Pieces(ids, lengths.sum(axis=1), types, counts(ids, tokenizer), np.array(labels, np.int64))


def _documents(tokenizer: Tokenizer, texts: list[str], room: int) -> list[_Document]:
    """The texts that have tokens; no sentence has more than `room`."""
    sentences = [split_sentences(text) for text in texts]
    ids, sizes = tokenizer.encode_ids([sentence for several in sentences for sentence in several])
    ids = ids.astype(np.uint32)
    found, first, start = [], 0, 0
    for text, several in zip(texts, sentences, strict=True):
        lengths, _ = cut(sizes[first : first + len(several)], room)
        first += len(several)
        if len(lengths):
            ends = np.cumsum(lengths).tolist()
            seed = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
            found.append(_Document(seed, ids[start : start + ends[-1]], ends))
            start += ends[-1]
    return found


def _pairs_of(
    documents: list[_Document], own: int, room: int, kind: str, short: float
) -> Iterator[tuple[np.ndarray, np.ndarray | None, int]]:
    """(ids of a, ids of b, label) of the pairs of document number `own`, in its order."""
    seed, ids, ends = documents[own]
    random, start = Random(seed), 0
    while start < len(ids):
        target = 2 + _draw(random, room - 1) if random.random() < short else room
        first, last = bisect_right(ends, start), min(bisect_left(ends, start + target), len(ends) - 1)
        end = ends[last]
        if end - start == 1:
            yield ids[start:end], None, -1
            return
        alone = first == last
        middle = start + 1 + _draw(random, end - start - 1) if alone else ends[first + _draw(random, last - first)]
        a, b = ids[start:middle], ids[middle:end]
        wrong = random.random() < 0.5
        if wrong and kind == "nsp":
            number = _draw(random, len(documents) - 1)
            b, end = _anywhere(documents[number + (number >= own)], target - len(a), alone, random), middle
        elif wrong:
            a, b = b, a
        yield *_truncated(a, b, room, random), int(wrong)
        start = end


def _anywhere(document: _Document, least: int, inside: bool, random: Random) -> np.ndarray:
    """Ids from a random sentence on, or from a token inside it, to the end of the one that makes them `least`."""
    _, ids, ends = document
    first = _draw(random, len(ends))
    start = ends[first - 1] if first else 0
    if inside and ends[first] - start > 1:
        start += 1 + _draw(random, ends[first] - start - 1)
    last = bisect_left(ends, start + max(least, 1))
    return ids[start : ends[min(last, len(ends) - 1)]]


def _truncated(a: np.ndarray, b: np.ndarray, room: int, random: Random) -> tuple[np.ndarray, np.ndarray]:
    """Tokens dropped from the longer one, each from its front or its end, until both go into the room."""
    if len(a) + len(b) <= room:
        return a, b
    if len(a) > len(b):
        n = min(len(b), room // 2)
        return _dropped(a, room - n, random), _dropped(b, n, random)
    n = min(len(a), room - room // 2)
    return _dropped(a, n, random), _dropped(b, room - n, random)


def _dropped(ids: np.ndarray, length: int, random: Random) -> np.ndarray:
    front = sum(random.random() < 0.5 for _ in range(len(ids) - length))
    return ids[front : front + length]


def _draw(random: Random, n: int) -> int:
    """A number below n; Python promises the same of random() alone in every version."""
    return int(random.random() * n)
