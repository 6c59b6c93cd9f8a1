"""Rows from the examples of one source: oversampled, tokenized in parallel and packed into a fixed length.

Packing documents without attention between them: Krell et al. 2021, arXiv:2107.02027. Sampling by class frequency to a
power between 0 and 1: Mahajan et al. 2018, arXiv:1805.00932.
"""

import contextlib
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

import joblib
import numpy as np

from jaxencoder.text import pairs, ray_workers, workers
from jaxencoder.text.config import DataConfig
from jaxencoder.text.labels import Labels
from jaxencoder.text.packing import Packer, Row
from jaxencoder.text.pieces import Pieces
from jaxencoder.text.schema import Example, Schema
from jaxencoder.text.tokenizers.tokenizer import Tokenizer

Split = Literal["train", "validation"]

# A worker's task ends after this many characters or documents, whichever comes first.
_TASK_CHARACTERS = 1 << 18
_TASK_DOCUMENTS = 2048
_NSP_DOCUMENTS = 8  # fewest documents in a task for nsp, whose second texts come from other documents of the task
_OPEN_ROWS = 256  # rows that wait for a piece that fits
_MAX_BUFFERED = 1 << 14  # examples to repeat that are kept in memory instead of being read again


@dataclass(frozen=True)
class SourceSplit:
    """The split of one source that becomes rows."""

    data: DataConfig
    schema: Schema
    source: str
    pair_field: str  # of the second text in this source; empty for single texts
    split: Split
    held_out: float  # fraction of the documents, chosen by a hash of their text; 0 takes all, whatever the split

    def __str__(self) -> str:
        return f"{self.source} ({self.split})"

    @property
    def is_balanced(self) -> bool:
        """Whether examples of rare classes are repeated."""
        return self.data.balance > 0 and self.split == "train"

    def examples(self, labels: Labels | None) -> Iterator[Example]:
        """Its examples, with labels of `Schema.find_labels`; see `Schema.examples`."""
        return self.schema.examples(self.data, self.source, self.pair_field, labels, self.split, self.held_out)


class RowBuilder:
    """Rows of a source, and what they were made of."""

    def __init__(self, source_split: SourceSplit, tokenizer: Tokenizer, labels: Labels | None):
        self._split, self._tokenizer, self._labels = source_split, tokenizer, labels
        self.documents = 0  # read so far
        self.unlabeled = 0  # examples that the data set marks as such, which are left out
        self.token_counts = np.zeros(tokenizer.vocab_size, np.int64)  # so far, special tokens 0

    def rows(self) -> Iterator[Row]:
        """The rows, equal whatever the number of worker processes."""
        data, schema, has_pairs = self._split.data, self._split.schema, bool(self._split.pair_field)
        open_rows = _OPEN_ROWS if data.packing else 1
        # Labeled texts and pairs stay when they are empty, as [CLS] [SEP]. Other pieces have a token between these two.
        shortest = 2 if data.label_field or has_pairs else 3
        packer = Packer(data.row_length, open_rows, shortest, data.paired, schema.labels_tokens)
        batches = _batches(self._examples(), _NSP_DOCUMENTS if data.pairs == "nsp" else 1)
        tasks = ((schema.encode, batch, data, has_pairs) for batch in batches)
        with contextlib.closing(self._encoded(tasks)) as results:
            for encoded in results:
                self.token_counts += encoded.counts
                yield from _packed(packer, encoded)
        yield from packer.flush()

    def _encoded(self, tasks: Iterable[tuple]) -> Generator[Pieces, None, None]:
        data = self._split.data
        if data.engine == "ray":
            return ray_workers.encode(self._tokenizer, tasks, data.workers)
        return workers.encode(self._tokenizer, tasks, data.workers or joblib.cpu_count())

    def _examples(self) -> Iterator[Example]:
        split = self._split
        read = partial(self._labeled, partial(split.examples, self._labels))
        for example in oversample(read, split.data.balance) if split.is_balanced else read():
            self.documents += 1
            yield example

    def _labeled(self, read: Callable[[], Iterable[Example]]) -> Iterator[Example]:
        """The examples of one pass over the source that have a label."""
        self.unlabeled = 0
        for example in read():
            if example.label is None:
                self.unlabeled += 1
            else:
                yield example


def label_kind(data: DataConfig, schema: Schema, labels: Labels | None) -> tuple[str | None, tuple[str, ...]]:
    """The kind of the labels in rows, as in `store.Writer`, and the class names."""
    if data.pairs != "none":
        return "class", pairs.LABEL_NAMES[data.pairs]
    if labels is None:
        return None, ()
    return ("token" if schema.labels_tokens else labels.kind), labels.names


def oversample(examples: Callable[[], Iterable[Example]], power: float) -> Iterator[Example]:
    """Repeat the examples of a class of n examples (m / n) ** power times, where m is the size of the largest class.

    `examples` opens the source anew, once to count and once for each repetition, so that copies of an example are far
    apart. Once few examples remain to be repeated, they are buffered. An example's digest rounds a fractional count up
    or down. A power of 1 makes the classes even.
    """
    sizes = Counter(example.label for example in examples())
    largest = max(sizes.values(), default=0)
    repeats = {label: (largest / n) ** power for label, n in sizes.items()}
    buffer, passes = None, 0
    while any(count > passes for count in repeats.values()):
        unfinished = {label for label, count in repeats.items() if count > passes + 1}
        fill_buffer = buffer is None and sum(sizes[label] for label in unfinished) <= _MAX_BUFFERED
        remaining = []
        for example in examples() if buffer is None else buffer:
            if fill_buffer and example.label in unfinished:
                remaining.append(example)
            # A number in [0, 1) by multiplicative hashing, independent of the comparison that decides what is held out.
            if example.digest * 0x9E3779B97F4A7C15 % 2**64 / 2**64 < repeats[example.label] - passes:
                yield example
        buffer, passes = remaining if fill_buffer else buffer, passes + 1


def _packed(packer: Packer, encoded: Pieces) -> Iterator[Row]:
    """The rows that some pieces finish; the pieces of a group go into one row."""
    lengths = encoded.lengths.tolist()
    sizes = [1] * len(lengths) if encoded.groups is None else encoded.groups.tolist()  # pieces of each group
    piece = token = 0  # where the next group starts
    for size in sizes:
        group = slice(piece, piece + size)
        tokens = slice(token, token + sum(lengths[group]))
        types, token_labels = (x if x is None else x[tokens] for x in (encoded.type_ids, encoded.token_labels))
        labels = encoded.labels[group] if encoded.labels else ()
        row = packer.add(encoded.ids[tokens], types, labels, token_labels, lengths[group])
        if row is not None:
            yield row
        piece, token = group.stop, tokens.stop


def _batches(examples: Iterator[Example], min_documents: int) -> Iterator[list[Example]]:
    """Examples in batches of a task each, none with fewer than `min_documents` unless the source has fewer.

    A full batch waits in `ready` until the next one is full, so that a remainder that is too small can join it.
    """
    ready, batch, size = [], [], 0
    for example in examples:
        batch.append(example)
        size += sum(map(len, example.texts))
        if len(batch) >= min_documents and (size >= _TASK_CHARACTERS or len(batch) >= _TASK_DOCUMENTS):
            if ready:
                yield ready
            ready, batch, size = batch, [], 0
    if len(batch) < min_documents:
        ready, batch = ready + batch, []
    yield from filter(None, (ready, batch))
