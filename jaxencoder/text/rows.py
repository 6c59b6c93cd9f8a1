"""Tokenises documents once and packs them into fixed-length rows, kept in a cache that is addressed by content.

Packing documents without attention between them: Krell et al., "Efficient sequence packing without
cross-contamination", arXiv 2107.02027.
"""

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import socket
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import filelock
import numpy as np
import tensorstore as ts
import tqdm

from jaxencoder.text import pairs, segment_labels, sentences, workers
from jaxencoder.text.balance import oversample
from jaxencoder.text.config import DataConfig
from jaxencoder.text.examples import Example, examples, find_labels
from jaxencoder.text.labels import Labels
from jaxencoder.text.packing import Packer, Row
from jaxencoder.text.pieces import Pieces
from jaxencoder.text.prepare import cache_folder
from jaxencoder.text.sources import fingerprint, pair_fields
from jaxencoder.text.store import FORMAT, META, Store, Writer, exists, is_remote, join, kvstore
from jaxencoder.text.tokenizer import Tokenizer

Split = Literal["train", "validation"]

_TASK_CHARACTERS = 1 << 18
_TASK_DOCUMENTS = 2048
_TASK_OTHERS = 8  # documents at least, where texts are taken from other ones
_ABANDONED_SECONDS = 7 * 24 * 3600


def prepare(data: DataConfig, tokenizer: Tokenizer, split: Split, progress: bool = True) -> tuple[Store, ...]:
    """The prepared rows of a split, from the cache if they are there.

    A document becomes [CLS] tokens [SEP]; one longer than row_length is cut into several pieces. With a label or a
    pair field each record is one example, which is truncated instead, or with data.long cut into windows that each have
    its label; of aligned texts, a hash says which comes first.
    Labelled words are cut between words, and the text that answers a question into overlapping pieces. The choices of
    an example are in one row, each cut to its share of it where they are too long.
    With data.pairs it becomes labelled pairs (see `pairs`). Equal settings and content give equal bytes, whatever the
    number of workers.

    A text of "another document" is from one of the same task, which has at least 8 if the source does.

    Args:
        data: sources and settings.
        tokenizer: gives the ids.
        split: "train", or "validation": the validation sources, or the held-out share of the training documents,
            chosen by a hash of the text, so that equal texts are on the same side.
        progress: show a bar on a terminal, and one line a source.

    Returns:
        One store a source, without those that have nothing held out; empty if nothing is to be held out.

    Raises:
        ValueError: a source, a record or a label is not as it must be, or nothing is left for the split.
        OSError: a source cannot be read, or the cache cannot be written.
    """
    if split not in ("train", "validation"):
        raise ValueError(f"split is {split!r}; give train or validation")
    if data.row_length < 3:
        raise ValueError(f"data.row_length is {data.row_length}; [CLS], one token and [SEP] need at least 3")
    sources = data.validation if split == "validation" and data.validation else data.train
    if split == "validation" and not data.validation and not data.validation_fraction:
        return ()
    fields = pair_fields(data)
    jobs = (_Job.of(data, tokenizer, split, source, fields[source], progress) for source in sources)
    stores = tuple(map(_prepared, jobs))
    filled = tuple(store for store in stores if len(store))
    if not filled:
        raise ValueError(
            f"data.validation_fraction {data.validation_fraction} holds out none of the documents of {', '.join(sources)}; "
            "raise it, or name data.validation sources"
        )
    return filled


@dataclass
class _Job:
    """The preparation of one source."""

    data: DataConfig
    tokenizer: Tokenizer
    split: Split
    source: str
    pair_field: str  # of this source; empty: single texts
    progress: bool
    share: float  # of the documents that the hash holds out
    name: str
    documents: int = 0
    counts: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))

    @classmethod
    def of(
        cls, data: DataConfig, tokenizer: Tokenizer, split: Split, source: str, pair_field: str, progress: bool
    ) -> "_Job":
        share = 0.0 if data.validation else data.validation_fraction
        identity = {
            "format": [FORMAT, "digest of the content"],  # what the metadata has, where that has changed
            "source": fingerprint(source),
            "tokenizer": tokenizer.fingerprint,
            "held_out": [split if share else "all", share],
            "fields": [data.text_field, pair_field, data.label_field],
            "paired": data.paired,
            "labels": data.labels,
            "text_unit": data.text_unit,
            "row_length": data.row_length,
            "packing": data.packing,
        }
        if data.pairs != "none":
            identity["pairs"] = [data.pairs, data.short_pairs, sentences.icu_version()]
        if data.label_unit != "text":
            identity["label_unit"] = [data.label_unit, data.overlap if data.label_unit == "span" else 0]
        if data.long != "truncate":
            identity["long"] = [data.long, data.overlap]
        if data.balance and split == "train":
            identity["balance"] = data.balance
        if data.label_field and not data.labels:
            # The first word says how labels are understood, where that has changed.
            identity["labels"] = ["text that is all numbers", *(fingerprint(other) for other in data.train)]
        key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:24]
        readable = re.sub(r"[^A-Za-z0-9]+", "-", source)[-40:].strip("-")
        return cls(data, tokenizer, split, source, pair_field, progress, share, f"{readable}-{split}-{key}")

    @property
    def whole(self) -> bool:
        """Whether each record is one example, never cut into several."""
        return bool(self.data.label_field or self.pair_field)

    @property
    def is_balanced(self) -> bool:
        """Whether the examples of rare classes are repeated."""
        return self.data.balance > 0 and self.split == "train"

    def say(self, line: str) -> None:
        if self.progress:
            print(line, flush=True)


def _prepared(job: _Job) -> Store:
    cache = job.data.cache or str(cache_folder(job.data))
    target = join(join(cache, "rows"), job.name)
    if exists(target):
        return _reused(job, target)
    # Rows for an object store are made in a local folder and copied there whole.
    local = cache_folder(DataConfig(cache="")) if is_remote(cache) else Path(cache)
    folder = (Path(tempfile.gettempdir()) / "jaxencoder" if is_remote(local) else local) / "rows"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _only_one(job, folder):
            if exists(target):
                return _reused(job, target)
            part = Path(tempfile.mkdtemp(prefix=f".{job.name}.{socket.gethostname()}.", dir=folder))
            try:
                meta = _write(job, part)
                if is_remote(target):
                    _upload(part, target)
                else:
                    _publish(part, Path(target))
            finally:
                shutil.rmtree(part, ignore_errors=True)
    except OSError as error:
        if _is_of_the_cache(error, folder):
            reason = error.strerror or type(error).__name__
            raise OSError(
                f"cannot write prepared rows to {folder}: {reason}; set data.cache to a folder with room"
            ) from error
        raise
    store = Store(target)
    job.say(f"Prepared {job.source} ({job.split}): {meta['rows']} rows in {target}{_labels_of(job, store)}")
    return store


def _is_of_the_cache(error: OSError, folder: Path) -> bool:
    """Whether writing failed, and not the reading of a source."""
    if error.filename is None:
        return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    path = Path(os.fsdecode(error.filename))
    return path == folder or folder in path.parents or path in folder.parents


def _reused(job: _Job, target: str) -> Store:
    store = Store(target)
    job.say(f"Reusing {len(store)} rows of {job.source} ({job.split}) in {target}{_labels_of(job, store)}")
    return store


def _labels_of(job: _Job, store: Store) -> str:
    """The end of a line: what the labels are, where that was found in the data."""
    if not job.data.label_field or job.data.label_unit in ("span", "choice"):
        return ""
    kind = store.meta["label_kind"]
    return f"; {Labels('class' if kind == 'token' else kind, tuple(store.meta['labels'])).described()}"


@contextlib.contextmanager
def _only_one(job: _Job, folder: Path) -> Iterator[None]:
    """One process at a time prepares these rows; what dead ones have left is removed."""
    lock = filelock.FileLock(folder / f".{job.name}.lock")
    try:
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            job.say(f"Waiting for another process that prepares {job.source} ({job.split})")
            lock.acquire()
    except NotImplementedError:
        # Without locks two processes may do the same work; the first to rename its folder wins.
        yield
        return
    try:
        for path in folder.glob(f".{job.name}.*.*"):
            # Locks need not reach other hosts: theirs are left alone until they are surely abandoned.
            ours = path.name.startswith(f".{job.name}.{socket.gethostname()}.")
            with contextlib.suppress(FileNotFoundError):
                if ours or time.time() - path.stat().st_mtime > _ABANDONED_SECONDS:
                    shutil.rmtree(path, ignore_errors=True)
        yield
    finally:
        lock.release()


def _publish(part: Path, target: Path) -> None:
    if target.exists() and not exists(target):
        shutil.rmtree(target)  # no store: someone has deleted a part of it
    try:
        part.chmod(0o755)  # a temporary folder is closed to others
        os.rename(part, target)
    except OSError:
        if not exists(target):  # else another host was first, with the same rows
            raise


def _upload(part: Path, target: str) -> None:
    """Copy to an object store; the metadata last, because with it the store is whole."""
    files = sorted(path for path in part.rglob("*") if path.is_file())
    try:
        store = ts.KvStore.open(kvstore(target)).result()
        for path in sorted(files, key=lambda path: path.name == META):
            store.write(path.relative_to(part).as_posix(), path.read_bytes()).result()
    except (ValueError, RuntimeError) as error:
        raise OSError(f"cannot write prepared rows to {target}: {str(error).splitlines()[0]}") from None


def _write(job: _Job, part: Path) -> dict:
    data, tokenizer = job.data, job.tokenizer
    kinds = find_labels(data)
    kind = kinds.kind if kinds else None if data.pairs == "none" else "class"
    kind = kind if data.label_unit in ("text", "choice") else "token"
    if job.is_balanced and kind != "class":
        what = "lists of classes" if kind == "classes" else "values"
        raise ValueError(f"data.balance is {data.balance}, but the labels of {job.source} are {what}; set it to 0")
    job.counts = np.zeros(tokenizer.vocab_size, np.int64)
    names = kinds.names if kinds else pairs.LABEL_NAMES.get(data.pairs, ())
    writer = Writer(part, data.row_length, tokenizer.vocab_size, data.paired, kind, len(names))
    bar = tqdm.tqdm(
        desc=f"{job.source} ({job.split})", unit=" documents", disable=not job.progress or not sys.stderr.isatty()
    )
    with bar:
        for row in _rows(job, kinds, bar):
            writer.add(row)
    if not writer.rows and (job.split == "train" or not job.share):
        raise ValueError(
            f"{job.source} yields no tokens: its {job.documents} documents are empty or hold nothing "
            "that the tokenizer knows"
            if job.documents
            else f"{job.source} leaves no document to train on; lower data.validation_fraction ({job.share})"
        )
    meta = {
        "documents": job.documents,
        "pad_id": tokenizer.pad_id,
        "vocab_size": tokenizer.vocab_size,
        "token_counts": job.counts.tolist(),
        "labels": list(names),
        "label_kind": kind,
        "source": job.source,
        "split": job.split,
        "tokenizer": tokenizer.fingerprint,
    }
    writer.close(meta)
    return meta | {"rows": writer.rows}


def _rows(job: _Job, kinds: Labels | None, bar: tqdm.tqdm) -> Iterator[Row]:
    data = job.data
    tokens = data.label_unit in ("word", "span")
    packer = Packer(data.row_length, 256 if data.packing else 1, 2 if job.whole else 3, data.paired, tokens)
    labelled, labels = not tokens and (bool(kinds) or data.pairs != "none"), deque()
    tasks = _tasks(job, kinds, labels)
    with contextlib.closing(workers.encode(job.tokenizer, tasks, data.workers or _cores())) as results:
        for pieces in results:
            job.counts += pieces.counts
            bar.update(job.documents - bar.n)
            if pieces.labels is not None:
                labels.extend(pieces.labels.tolist())
            if pieces.windows is not None:
                own = [labels.popleft() for _ in pieces.windows]
                each = [label for label, count in zip(own, pieces.windows, strict=True) for _ in range(count)]
                labels.extendleft(reversed(each))
            end = 0
            for lengths in _together(pieces):
                start, end = end, end + sum(lengths)
                types, token_labels = (x if x is None else x[start:end] for x in (pieces.type_ids, pieces.token_labels))
                own = [labels.popleft() for _ in lengths] if labelled else ()
                row = packer.add(pieces.ids[start:end], types, own, token_labels, lengths)
                if row is not None:
                    yield row
    yield from packer.flush()


def _together(pieces: Pieces) -> Iterator[list[int]]:
    """The lengths of the pieces that must be in one row, of each such group or of every piece alone."""
    lengths, end = pieces.lengths.tolist(), 0
    for size in [1] * len(lengths) if pieces.groups is None else pieces.groups.tolist():
        start, end = end, end + size
        yield lengths[start:end]


def _tasks(job: _Job, kinds: Labels | None, labels: deque) -> Iterator[tuple]:
    """The examples of the split in tasks for the workers; labels of whole texts wait in a queue."""
    data = job.data
    for batch in _batches(_documents(job, kinds), _TASK_OTHERS if data.pairs == "nsp" else 1):
        texts, seconds = map(list, zip(*(example.texts for example in batch), strict=True))
        own = [example.label for example in batch]
        if data.pairs != "none":
            yield "pairs", texts, data.row_length, data.pairs, data.short_pairs
        elif data.label_unit == "word":
            yield "words", texts, own, data.row_length
        elif data.label_unit == "span":
            yield "spans", texts, seconds, own, data.row_length, data.overlap
        elif data.label_unit == "choice":
            for right, choices in zip(own, seconds, strict=True):
                labels.extend(segment_labels.of_choices(right, len(choices)))
            yield "choices", texts, seconds, data.row_length
        elif job.whole:
            labels.extend(own if kinds else ())
            if data.long == "windows":
                yield "windows", texts, data.row_length, data.overlap
                continue
            yield "examples", texts, seconds if job.pair_field else None, data.row_length
        else:
            yield "documents", texts, data.row_length


def _batches(examples: Iterator[Example], least: int) -> Iterator[list[Example]]:
    """Examples until they make a task; none has fewer than `least` unless there are no more."""
    ready, batch, size = [], [], 0
    for example in examples:
        batch.append(example)
        size += sum(map(len, example.texts))
        if len(batch) >= least and (size >= _TASK_CHARACTERS or len(batch) >= _TASK_DOCUMENTS):
            if ready:
                yield ready
            ready, batch, size = batch, [], 0
    if len(batch) < least:
        ready, batch = ready + batch, []
    yield from filter(None, (ready, batch))


def _documents(job: _Job, kinds: Labels | None) -> Iterator[Example]:
    found = partial(examples, job.data, job.source, job.pair_field, kinds, job.split, job.share)
    for example in oversample(found, job.data.balance) if job.is_balanced else found():
        job.documents += 1
        yield example


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
