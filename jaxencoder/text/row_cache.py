"""Prepared rows, made once and kept in a cache whose addresses are hashes of content and settings."""

import errno
import hashlib
import json
import os
import re
import sys
from pathlib import Path

import tensorstore as ts
import tqdm

from jaxencoder.text import sentences
from jaxencoder.text.cache import cache_folder, entry_lock, publish, temporary_entry
from jaxencoder.text.config import DataConfig
from jaxencoder.text.labels import Labels
from jaxencoder.text.rows import RowBuilder, SourceSplit, Split, label_kind
from jaxencoder.text.schema import TEXTS, Schema
from jaxencoder.text.sources import fingerprint, pair_fields
from jaxencoder.text.store import FORMAT, META, Store, Writer, exists, is_remote, join, kvstore, storage_errors
from jaxencoder.text.tokenizers.tokenizer import Tokenizer


def prepare(
    data: DataConfig, tokenizer: Tokenizer, split: Split, progress: bool = True, schema: Schema = TEXTS
) -> tuple[Store, ...]:
    """Load the rows of a split from the cache, or make and cache them.

    A document becomes [CLS] tokens [SEP], split into several pieces if it is longer than row_length. With a label or a
    pair field each record is one example, truncated to row_length, or with data.long_texts split into windows that
    share its label; the order of aligned texts is decided by a hash. Labeled words are split between words, and the
    text that answers a question into overlapping pieces. The choices of an example share a row, each truncated to its
    part of it. With data.pairs, documents become labeled pairs (see `pairs`).

    Equal settings and content give equal bytes, whatever the number of workers.

    Args:
        data: sources and settings.
        tokenizer: encodes the texts.
        split: "train", or "validation": the validation sources, or the held-out fraction of the training documents,
            chosen by a hash of the text so that equal texts are on the same side.
        progress: show a bar on a terminal, and print one line per source.
        schema: fields and encoding of the task's records; of texts or pairs by default.

    Returns:
        One store per source that has rows in the split; empty if nothing is to be held out.

    Raises:
        ValueError: a source, a record or a label is invalid, or nothing is left for the split.
        OSError: a source cannot be read, or the cache cannot be written.
    """
    if split not in ("train", "validation"):
        raise ValueError(f"split is {split!r}; give train or validation")
    if split == "validation" and not data.validation and not data.validation_fraction:
        return ()
    sources = data.validation if split == "validation" and data.validation else data.train
    held_out = 0.0 if data.validation else data.validation_fraction
    fields = pair_fields(data)
    parts = [SourceSplit(data, schema, source, fields[source], split, held_out) for source in sources]
    stores = tuple(store for store in [_prepare(part, tokenizer, progress) for part in parts] if len(store))
    if not stores:
        raise ValueError(
            f"data.validation_fraction {held_out} holds out none of the documents of {', '.join(sources)}; "
            "raise it, or name data.validation sources"
        )
    return stores


def _prepare(part: SourceSplit, tokenizer: Tokenizer, progress: bool) -> Store:
    name = _address(part, tokenizer)
    folder = cache_folder(part.data) / "rows"  # rows for an object store are made here and copied when complete
    target = join(join(part.data.cache, "rows"), name) if is_remote(part.data.cache) else str(folder / name)

    def report(line: str) -> None:
        if progress:
            print(line, flush=True)

    def reuse() -> Store:
        store = Store(target)
        report(f"Reusing {len(store)} rows of {part} in {target}{_format_labels(part, store)}")
        return store

    if exists(target):
        return reuse()
    try:
        with entry_lock(folder, name, lambda: report(f"Waiting for another process that prepares {part}")):
            if exists(target):
                return reuse()
            with temporary_entry(folder, name) as temporary:
                _write(part, tokenizer, temporary, progress)
                if is_remote(target):
                    _upload(temporary, target)
                else:
                    publish(temporary, Path(target), exists)
    except OSError as error:
        if not _is_cache_error(error, folder):
            raise
        reason = error.strerror or type(error).__name__
        raise OSError(
            f"cannot write prepared rows to {folder}: {reason}; set data.cache to a folder with room"
        ) from error
    store = Store(target)
    report(f"Prepared {part}: {len(store)} rows in {target}{_format_labels(part, store)}")
    return store


def _address(part: SourceSplit, tokenizer: Tokenizer) -> str:
    """The name of the rows: the source in readable form and a hash of everything that they depend on."""
    data = part.data
    identity = {
        "format": [FORMAT, "digest of the content"],  # changes with the metadata
        "source": fingerprint(part.source),
        "tokenizer": tokenizer.fingerprint,
        "held_out": [part.split if part.held_out else "all", part.held_out],
        "fields": [data.text_field, part.pair_field, data.label_field],
        "paired": data.paired,
        "labels": data.labels,
        "text_unit": data.text_unit,
        "row_length": data.row_length,
        "packing": data.packing,
    }
    if data.pairs != "none":
        identity["pairs"] = [data.pairs, data.short_pair_probability, sentences.icu_version()]
    if part.schema.name:
        identity["schema"] = [part.schema.name, data.overlap]
    if data.long_texts != "truncate":
        identity["long"] = [data.long_texts, data.overlap]
    if part.is_balanced:
        identity["balance"] = data.balance
    if data.label_field and not data.labels:
        # Classes are those of all training sources. The first word changes with the way labels are understood.
        identity["labels"] = ["text that is all numbers", *map(fingerprint, data.train)]
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:24]
    readable = re.sub(r"[^A-Za-z0-9]+", "-", part.source)[-40:].strip("-")
    return f"{readable}-{part.split}-{key}"


def _is_cache_error(error: OSError, folder: Path) -> bool:
    """Whether writing to the cache failed, rather than reading a source."""
    if error.filename is None:
        return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    path = Path(os.fsdecode(error.filename))
    return path == folder or folder in path.parents or path in folder.parents


def _format_labels(part: SourceSplit, store: Store) -> str:
    if not part.data.label_field or not part.schema.names_classes:
        return ""
    kind = store.meta["label_kind"]
    return f"; {Labels('class' if kind == 'token' else kind, tuple(store.meta['labels'])).describe()}"


def _upload(folder: Path, target: str) -> None:
    """Copy rows to an object store, the metadata last: with it the store counts as complete."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    with storage_errors(f"cannot write prepared rows to {target}"):
        store = ts.KvStore.open(kvstore(target)).result()
        for path in sorted(files, key=lambda path: (path.name == META, path)):
            store.write(path.relative_to(folder).as_posix(), path.read_bytes()).result()


def _write(part: SourceSplit, tokenizer: Tokenizer, folder: Path, progress: bool) -> None:
    data = part.data
    labels = part.schema.find_labels(data)
    kind, names = label_kind(data, part.schema, labels)
    if part.is_balanced and kind != "class":
        unbalanced = "lists of classes" if kind == "classes" else "values"
        raise ValueError(
            f"data.balance is {data.balance}, but the labels of {part.source} are {unbalanced}; set it to 0"
        )
    builder = RowBuilder(part, tokenizer, labels)
    writer = Writer(folder, data.row_length, tokenizer.vocab_size, data.paired, kind, len(names))
    quiet = not progress or not sys.stderr.isatty()
    with tqdm.tqdm(desc=str(part), unit=" documents", disable=quiet) as bar:
        for row in builder.rows():
            writer.add(row)
            bar.update(builder.documents - bar.n)
    if not writer.rows and (part.split == "train" or not part.held_out):
        if not builder.documents:
            raise ValueError(
                f"{part.source} leaves no document to train on; lower data.validation_fraction ({part.held_out})"
            )
        count = builder.documents
        raise ValueError(f"{part.source} yields no tokens: its {count} documents hold nothing that the tokenizer knows")
    counts = {"documents": builder.documents, "token_counts": builder.token_counts.tolist()}
    vocabulary = {"tokenizer": tokenizer.fingerprint, "vocab_size": tokenizer.vocab_size, "pad_id": tokenizer.pad_id}
    classes = {"labels": list(names), "label_kind": kind}
    writer.close(counts | vocabulary | classes | {"source": part.source, "split": part.split})
