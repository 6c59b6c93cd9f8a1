"""The cache of prepared rows and trained tokenizers, whose addresses are hashes of content and settings.

An entry is a folder that appears complete or not at all, and is made by one process at a time.
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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import filelock
import tensorstore as ts
import tqdm

from jaxencoder.files import cache_folder as default_cache_folder
from jaxencoder.text import sentences
from jaxencoder.text.config import DataConfig, TokenizerConfig
from jaxencoder.text.labels import Labels
from jaxencoder.text.rows import RowBuilder, SourceSplit, Split, label_kind
from jaxencoder.text.schema import TEXTS, Schema
from jaxencoder.text.sources import fingerprint, pair_fields, read
from jaxencoder.text.sources.records import ALIGNED_FIELD
from jaxencoder.text.store import FORMAT, META, Store, Writer, exists, is_remote, join, kvstore, storage_errors
from jaxencoder.text.tokenizers.tokenizer import Tokenizer
from jaxencoder.text.tokenizers.training import train_tokenizer

_ABANDONED_SECONDS = 7 * 24 * 3600


def load_or_train(config: TokenizerConfig, data: DataConfig, schema: Schema = TEXTS) -> Tokenizer:
    """Load the tokenizer at `config.path`, or train one on the training sources unless the cache has it."""
    if config.path:
        return Tokenizer.load(config.path)
    fields = (data.text_field, data.pair_field, data.text_unit)
    name = _digest([asdict(config), [*map(fingerprint, data.train)], *fields])
    folder = cache_folder(data) / "tokenizers"
    target = folder / name
    if not target.is_dir():
        with entry_lock(folder, name):  # the processes of a run train one tokenizer together
            if not target.is_dir():
                sources = ", ".join(data.train)
                print(f"Training a {config.kind} tokenizer of {config.vocab_size} tokens on {sources}", flush=True)
                with _temporary_entry(folder, name) as part:
                    train_tokenizer(_texts(data, schema), config).save(part)
                    _publish(part, target, Path.is_dir)
    return Tokenizer.load(target)


def _texts(data: DataConfig, schema: Schema) -> Iterator[str]:
    for source, (_, own_data, pair_field) in zip(data.train, _of_sources(data, schema, data.train), strict=True):
        options: dict[str, Any] = {"text_field": own_data.text_field, "pair_field": pair_field or ALIGNED_FIELD}
        for record in read(source, text_unit=data.text_unit, words=schema.reads_words, **options):
            for field in filter(None, (own_data.text_field, pair_field)):
                value = " ".join(record[field]) if schema.reads_words else record[field]
                yield from value if isinstance(value, list) else (value,)  # each choice is a text


def _of_sources(data: DataConfig, schema: Schema, sources: Sequence[str]) -> Iterator[tuple[Schema, DataConfig, str]]:
    """The schema, the settings and the pair field of each training source, or of each held-out one."""
    fields = {} if schema.by_source else pair_fields(data)
    for number, source in enumerate(sources):
        own_schema, own_data = schema.of_source(data, number)
        yield own_schema, own_data, own_data.pair_field if schema.by_source else fields[source]


def prepare(
    data: DataConfig, tokenizer: Tokenizer, split: Split, progress: bool = True, schema: Schema = TEXTS
) -> tuple[Store, ...]:
    """Load the rows of a split from the cache, or make and cache them.

    A document becomes [CLS] tokens [SEP], split into several pieces if it is longer than row_length. With a label or a
    pair field each record is one example, truncated to row_length or split into windows (data.long_texts); words and
    texts with answers are split into several pieces; choices share a row, each truncated to its part of it. A hash
    decides the order of aligned texts. Equal settings and content give equal bytes, whatever the number of workers.

    Args:
        split: "train", or "validation": the validation sources, or the held-out fraction of the training documents,
            chosen by a hash of the text so that equal texts are on the same side.
        progress: show a bar on a terminal, and print one line per source.
        schema: fields and encoding of the task's records; of texts or pairs by default.

    Returns:
        One store per source that has rows in the split; empty if nothing is to be held out.

    Raises:
        ValueError: a source, a record or a label is invalid, or nothing is left for the split.
    """
    if split not in ("train", "validation"):
        raise ValueError(f"split is {split!r}; give train or validation")
    if split == "validation" and not data.validation and not data.validation_fraction:
        return ()
    parts = source_splits(data, schema, split)
    prepared = (_prepare(part, tokenizer, progress, number) for number, part in enumerate(parts))
    stores = tuple(store for store in prepared if len(store))
    if not stores:
        sources = ", ".join(part.source for part in parts)
        problem = f"data.validation_fraction {data.validation_fraction} holds out none of the documents of {sources}"
        raise ValueError(f"{problem}; raise it, or name data.validation sources")
    return stores


def source_splits(data: DataConfig, schema: Schema, split: Split) -> list[SourceSplit]:
    """The split of each source, as `prepare` makes it."""
    sources = data.validation if split == "validation" and data.validation else data.train
    held_out = 0.0 if data.validation else data.validation_fraction
    return [
        SourceSplit(own_data, own_schema, source, pair_field, split, held_out)
        for source, (own_schema, own_data, pair_field) in zip(sources, _of_sources(data, schema, sources), strict=True)
    ]


def _prepare(part: SourceSplit, tokenizer: Tokenizer, progress: bool, number: int) -> Store:
    name = _find_address(part, tokenizer)
    folder = cache_folder(part.data) / "rows"  # rows for an object store are made here and copied when complete
    target = _target(part.data, name)

    def report(line: str) -> None:
        if progress:
            print(line, flush=True)

    is_new = False
    try:
        if not exists(target):
            with entry_lock(folder, name, lambda: report(f"Waiting for another process that prepares {part}")):
                if not exists(target):
                    with _temporary_entry(folder, name) as temporary:
                        _write(part, tokenizer, temporary, progress)
                        if is_remote(target):
                            _upload(temporary, target)
                        else:
                            _publish(temporary, Path(target), exists)
                    is_new = True
    except OSError as error:
        if not _is_cache_error(error, folder):
            raise
        problem = f"cannot write prepared rows to {folder}: {error.strerror or type(error).__name__}"
        raise OSError(f"{problem}; set data.cache to a folder with room") from error
    store = Store(target, number)
    summary = f"Prepared {part}: {len(store)} rows" if is_new else f"Reusing {len(store)} rows of {part}"
    report(f"{summary} in {target}{_format_labels(part, store)}")
    return store


def _target(data: DataConfig, name: str) -> str:
    """Where the rows of an address lie."""
    if is_remote(data.cache):
        return join(join(data.cache, "rows"), name)
    return str(cache_folder(data) / "rows" / name)


def _find_address(part: SourceSplit, tokenizer: Tokenizer) -> str:
    """The address of rows; for values that of rows whose labels turned out to be values, if there are such."""
    if part.schema.has_values:
        inferred = _address(replace(part, schema=TEXTS), tokenizer)
        target = _target(part.data, inferred)
        if exists(target) and Store(target).meta["label_kind"] == "value":
            return inferred
    return _address(part, tokenizer)


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
    if data.text_limit != data.row_length:
        identity["text_limit"] = data.text_limit
    if data.pairs != "none":
        identity["pairs"] = [data.pairs, data.short_pair_probability, sentences.ICU_VERSION]
    if part.schema.name:
        identity["schema"] = [part.schema.name, data.overlap]
    if data.long_texts != "truncate":
        identity["long"] = [data.long_texts, data.overlap]
    if part.is_balanced:
        identity["balance"] = data.balance
    if data.label_field:
        # Without names, classes are those of all training sources. The first word changes with the way labels are read.
        identity["labels"] = ["marks of no label", data.labels or [*map(fingerprint, data.train)]]
    readable = re.sub(r"[^A-Za-z0-9]+", "-", part.source)[-40:].strip("-")
    return f"{readable}-{part.split}-{_digest(identity, sort_keys=True)}"


def _is_cache_error(error: OSError, folder: Path) -> bool:
    """Whether writing to the cache failed, rather than reading a source."""
    if error.filename is None:
        return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    path = Path(os.fsdecode(error.filename))
    return path == folder or folder in path.parents or path in folder.parents


def _format_labels(part: SourceSplit, store: Store) -> str:
    if not part.data.label_field or not (part.schema.names_classes or part.schema.has_values):
        return ""
    kind, unlabeled = store.meta["label_kind"], store.meta.get("unlabeled", 0)
    labels = Labels("class" if kind == "token" else kind, tuple(store.meta["labels"])).describe()
    return f"; {labels}" + (f"; left out {unlabeled} records that have no label" if unlabeled else "")


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
        content = "lists of classes" if kind == "classes" else "values"
        problem = f"data.balance is {data.balance}, but the labels of {part.source} are {content}"
        raise ValueError(f"{problem}; set it to 0")
    builder = RowBuilder(part, tokenizer, labels)
    writer = Writer(folder, data.row_length, tokenizer.vocab_size, data.paired, kind, len(names))
    quiet = not progress or not sys.stderr.isatty()
    with tqdm.tqdm(desc=str(part), unit=" documents", disable=quiet) as bar:
        for row in builder.rows():
            writer.add(row)
            bar.update(builder.documents - bar.n)
    if not writer.rows and (part.split == "train" or not part.held_out):
        if builder.unlabeled:
            raise ValueError(f"none of the {builder.unlabeled} records of {part.source} has a label; name other data")
        if not builder.documents:
            advice = f"lower data.validation_fraction ({part.held_out})"
            raise ValueError(f"{part.source} leaves no document to train on; {advice}")
        problem = f"its {builder.documents} documents hold nothing that the tokenizer knows"
        raise ValueError(f"{part.source} yields no tokens: {problem}")
    counts = {"documents": builder.documents, "token_counts": builder.token_counts.tolist()}
    vocabulary = {"tokenizer": tokenizer.fingerprint, "vocab_size": tokenizer.vocab_size, "pad_id": tokenizer.pad_id}
    classes: dict[str, Any] = {"labels": list(names), "label_kind": kind}
    if builder.unlabeled:
        classes["unlabeled"] = builder.unlabeled
    writer.close(counts | vocabulary | classes | {"source": part.source, "split": part.split})


def cache_folder(data: DataConfig) -> Path:
    """The local folder of prepared rows and trained tokenizers, the default one if data.cache is an object store."""
    return Path(data.cache) if data.cache and not is_remote(data.cache) else default_cache_folder()


def _digest(settings: Any, sort_keys: bool = False) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=sort_keys).encode()).hexdigest()[:24]


@contextlib.contextmanager
def entry_lock(folder: Path, name: str, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Let one process at a time build an entry, and remove the temporary folders of processes that died."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder / f".{name}.lock")
    try:
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            on_wait()
            lock.acquire()
    except NotImplementedError:
        # Without locks two processes may do the same work; the first to rename its folder wins.
        yield
        return
    try:
        for path in folder.glob(f".{name}.*.*"):
            # Locks need not reach other hosts, whose folders are left alone until they are surely abandoned.
            is_local = path.name.startswith(f".{name}.{socket.gethostname()}.")
            with contextlib.suppress(FileNotFoundError):
                if is_local or time.time() - path.stat().st_mtime > _ABANDONED_SECONDS:
                    shutil.rmtree(path, ignore_errors=True)
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def _temporary_entry(folder: Path, name: str) -> Iterator[Path]:
    """A temporary folder in which to build an entry; it is removed at the end unless `_publish` has renamed it."""
    part = Path(tempfile.mkdtemp(prefix=f".{name}.{socket.gethostname()}.", dir=folder))
    try:
        yield part
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _publish(part: Path, target: Path, is_complete: Callable[[Path], bool]) -> None:
    """Rename a finished folder to its final name; OSError unless another host has published the same entry."""
    if target.exists() and not is_complete(target):
        shutil.rmtree(target)  # someone has deleted a part of it
    try:
        part.chmod(0o755)  # temporary folders are closed to others
        os.replace(part, target)
    except OSError:
        if not is_complete(target):
            raise
