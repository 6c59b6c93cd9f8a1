"""Pairs of text segments from documents, for objectives that predict whether the second follows the first.

Next sentence prediction: Devlin et al. 2019 (BERT, arXiv:1810.04805, appendix A.2). Sentence order prediction: Lan et
al. 2020 (ALBERT, arXiv:1909.11942, section 3.1).
"""

import hashlib
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from random import Random
from typing import NamedTuple

import numpy as np

from jaxencoder.text.pieces import Pieces, cut
from jaxencoder.text.sentences import split_sentences
from jaxencoder.text.tokenizers.tokenizer import Tokenizer

# Names of labels 0 and 1 for each value of data.pairs.
LABEL_NAMES = {"nsp": ("next", "other"), "sop": ("ordered", "swapped")}


class _Document(NamedTuple):
    seed: int
    ids: np.ndarray  # uint32 [n], n > 0
    ends: list[int]  # end of each sentence, the last at n


def sentence_pairs(tokenizer: Tokenizer, texts: list[str], row_length: int, kind: str, short: float) -> Pieces:
    """Encode documents as pairs [CLS] a [SEP] b [SEP] of at most row_length tokens, with type ids 0 for a and 1 for b.

    A pair takes sentences until they fill a row or, with probability `short`, a random fraction of one. A random
    sentence boundary divides a from b. A single sentence (a long one, or the last of its document) is divided between
    any two of its tokens. Each label has probability 1/2:

        nsp  0: b follows a. 1: b is from a random position of another document, at a sentence or within one as b would
             be; the text that followed a starts the next pair.
        sop  0: a and b in order. 1: swapped.

    If a and b exceed a row, random ends of the longer one are dropped. A single remaining token is a piece with label
    -1. A sentence longer than a row counts as several.

    All choices are a function of the documents' texts and, for the other document, of their order. Texts without tokens
    give no pairs; nsp needs two documents that have tokens.
    """
    separator = tokenizer.encode_batch([""], [""])[0].ids[1:-1].astype(np.uint32)
    room = row_length - 2 - len(separator)
    documents = _documents(tokenizer, texts, room)
    if kind == "nsp" and len(documents) == 1:
        problem = "data.pairs is nsp, which takes texts from other documents, but only one document holds text"
        advice = "give more (a small data.validation_fraction may hold out one), or set data.pairs to sop"
        raise ValueError(f"{problem}; {advice}")
    cls, sep = (np.array([token], np.uint32) for token in (tokenizer.cls_id, tokenizer.sep_id))
    ids, types, labels = [], [], []
    for index in range(len(documents)):
        for a, b, label in _document_pairs(documents, index, room, kind, short):
            first, second = [cls, a, sep if b is None else separator], [] if b is None else [b, sep]
            ids.append(np.concatenate(first + second))
            types.append(np.repeat([0, 1], [sum(map(len, first)), sum(map(len, second))]))
            labels.append(label)
    return Pieces.of(tokenizer, ids, types, labels)


def _documents(tokenizer: Tokenizer, texts: list[str], room: int) -> list[_Document]:
    """The texts that have tokens, in sentences of at most `room` tokens."""
    sentences = [split_sentences(text) for text in texts]
    ids, sizes = tokenizer.encode_ids([sentence for group in sentences for sentence in group])
    ids = ids.astype(np.uint32)
    documents, first, start = [], 0, 0
    for text, group in zip(texts, sentences, strict=True):
        lengths = cut(sizes[first : first + len(group)], room)
        first += len(group)
        if len(lengths):
            ends = np.cumsum(lengths).tolist()
            seed = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
            documents.append(_Document(seed, ids[start : start + ends[-1]], ends))
            start += ends[-1]
    return documents


def _document_pairs(
    documents: list[_Document], index: int, room: int, kind: str, short: float
) -> Iterator[tuple[np.ndarray, np.ndarray | None, int]]:
    """Yield (ids of a, ids of b, label) for the pairs of one document, in order."""
    seed, ids, ends = documents[index]
    random, start = Random(seed), 0
    while start < len(ids):
        target = 2 + _randint(random, room - 1) if random.random() < short else room
        first, last = bisect_right(ends, start), min(bisect_left(ends, start + target), len(ends) - 1)
        end = ends[last]
        if end - start == 1:
            yield ids[start:end], None, -1
            return
        if single := first == last:
            boundary = start + 1 + _randint(random, end - start - 1)
        else:
            boundary = ends[first + _randint(random, last - first)]
        a, b = ids[start:boundary], ids[boundary:end]
        negative = random.random() < 0.5
        if negative and kind == "nsp":
            other = _randint(random, len(documents) - 1)
            b = _random_segment(documents[other + (other >= index)], target - len(a), single, random)
            end = boundary
        elif negative:
            a, b = b, a
        yield *_truncate_pair(a, b, room, random), int(negative)
        start = end


def _random_segment(document: _Document, min_length: int, within: bool, random: Random) -> np.ndarray:
    """Ids of whole sentences that reach `min_length`, from a random one on, or from a random token within it."""
    _, ids, ends = document
    first = _randint(random, len(ends))
    start = ends[first - 1] if first else 0
    if within and ends[first] - start > 1:
        start += 1 + _randint(random, ends[first] - start - 1)
    last = bisect_left(ends, start + max(min_length, 1))
    return ids[start : ends[min(last, len(ends) - 1)]]


def _truncate_pair(a: np.ndarray, b: np.ndarray, room: int, random: Random) -> tuple[np.ndarray, np.ndarray]:
    """Drop tokens at random ends of the longer one until both fit into the room."""
    if len(a) + len(b) <= room:
        return a, b
    n = room - min(len(b), room // 2) if len(a) > len(b) else min(len(a), room - room // 2)
    return _drop_ends(a, n, random), _drop_ends(b, room - n, random)


def _drop_ends(ids: np.ndarray, length: int, random: Random) -> np.ndarray:
    front = sum(random.random() < 0.5 for _ in range(len(ids) - length))
    return ids[front : front + length]


def _randint(random: Random, n: int) -> int:
    """A number below n. Python guarantees the same sequence in every version for random() only."""
    return int(random.random() * n)
