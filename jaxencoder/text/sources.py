"""Streams of records from every place text comes from, in an order that never changes and in bounded memory.

A source is one string:

    pydocs                              the running interpreter's documentation: nothing to download
    tfds:imdb_reviews/plain_text:train  a split of a data set of tensorflow.org/datasets, read without TensorFlow
    novels.jsonl.xz  books/*.txt  data  a file, a glob or a folder of .jsonl .json .txt .parquet .csv .tsv .conll
                                        .conllu (and SQuAD's .json), plain or .gz .xz .zst
    gs://bucket/*.jsonl.zst  s3://...   the same on a file system that fsspec knows
    aligned:news.de.gz|news.en.gz       two text files, of any extension, whose lines are translations of each other
    reviews.jsonl[:5000]                the first 5,000 records of any of them, as TFDS has it of a split
"""

import contextlib
import functools
import glob
import hashlib
import importlib.util
import itertools
import json
import os
import re
import sys
import sysconfig
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxencoder.text import files, pydocs
from jaxencoder.text.config import ALIGNED, DataConfig
from jaxencoder.text.formats import TEXT_UNITS, Record, Unit, as_is, closest, listed, sentence, utf8

# The field of the second text of aligned files.
_SECOND = "pair"
_FIRST = re.compile(r"(?!tfds:)(?P<source>.+)\[:(?P<number>[1-9]\d*)\]")
_TFDS = re.compile(r"tfds:(?P<name>[^:]+(?::\d[\w.*]*)?):(?P<split>.+)")


class MissingField(ValueError):
    """A record lacks a field; `settings` are those of reading that may name another."""

    def __init__(self, where: str, name: str, record: Record, of_text: bool):
        super().__init__(f"{where}: no field {name!r} among {listed(record)}{closest(name, record)}")
        self.settings = ("text_field",) if of_text else ("pair_field", "label_field")


def read(
    source: str,
    *,
    text_field: str = "text",
    fields: Sequence[str] | None = None,
    required: Sequence[str] = (),
    text_unit: str = "line",
    shard: tuple[int, int] | None = None,
    words: bool | None = False,
) -> Iterator[Record]:
    """Stream the records of a source.

    Args:
        source: what to read, as in the docstring of this module.
        text_field: the field that holds the text; plain text and pydocs put theirs there, and aligned files their
            first one: the second has the field "pair".
        fields: the other fields that every record must have, and the only ones kept; None keeps all and asks for none.
        required: other fields that every record must have, kept beside all others where `fields` is None.
        text_unit: what one document of a .txt file is: a "line", a "paragraph" (between blank lines) or a "file".
        shard: (i, n) gives records i, i + n, i + 2n, ...: n shards are disjoint and together are the source.
        words: the field of the text holds a list of words; None: that or text.

    Returns:
        Dicts with a str under `text_field`, or a list of them; numbers and lists as Python objects. Blank lines are no
        documents.

    Raises:
        FileNotFoundError: no such file, folder or dataset, or a glob matches nothing; raised by the call itself.
        MissingField: a record lacks a field.
        ValueError: the source is empty, or a record cannot be read; the message names the file and the line.
    """
    if text_unit not in TEXT_UNITS:
        raise ValueError(f"text_unit {text_unit!r} is not one of {', '.join(TEXT_UNITS)}")
    index, count = shard or (0, 1)
    if not 0 <= index < count:
        raise ValueError(f"shard {shard} is not (i, n) with 0 <= i < n")
    # Outside the generator: a missing file is an error here and now.
    wanted = (text_field, *(fields or ()), *required)
    return _records(source, _units(source, text_field, text_unit), wanted, fields is None, index, count, words)


def field_names(source: str, text_field: str = "text") -> tuple[str, ...]:
    """The names of the fields that the first record of a source has, read as by `read`; raises what that does."""
    where, raw, parse = _first(source, _units(source, text_field, "line"))
    return tuple(parse(raw, where))


def _units(source: str, text_field: str, text_unit: str) -> Iterator[Unit]:
    if first := _FIRST.fullmatch(source):
        return itertools.islice(_units(first["source"], text_field, text_unit), int(first["number"]))
    if source == "pydocs":
        return _pydocs_units(text_field)
    if source.startswith("tfds:"):
        return _tfds_units(source)
    if source.startswith(ALIGNED):
        if text_field == _SECOND:
            raise ValueError(f"{source}: the second text has the field {_SECOND!r}; give another text_field")
        return files.aligned_units(_aligned_paths(source), (text_field, _SECOND))
    paths = files.find(source)
    return itertools.chain.from_iterable(files.units(path, text_field, text_unit) for path in paths)


def _first(source: str, units: Iterator[Unit]) -> Unit:
    first = next(units, None)
    if first is None:
        raise ValueError(f"{source} is empty: it holds no document to read")
    return first


def _records(source, units, wanted, keep_all, index, count, words) -> Iterator[Record]:
    first = _first(source, units)
    text_field = wanted[0]
    for where, raw, parse in itertools.islice(itertools.chain((first,), units), index, None, count):
        record = {name: _plain(value, where, name in wanted) for name, value in parse(raw, where).items()}
        for name in wanted:
            if name not in record:
                raise MissingField(where, name, record, of_text=name == text_field)
        text = record[text_field]
        listed_words = isinstance(text, list) and all(isinstance(x, str) for x in text)
        if not ((listed_words and words is not False) or (isinstance(text, str) and not words)):
            kind = "a list of words" if words else "text"
            raise ValueError(
                f"{where}: field {text_field!r} is {type(text).__name__}, not {kind}; "
                "name another field or drop the record"
            )
        yield record if keep_all else {name: record[name] for name in wanted}


def pair_fields(data: DataConfig) -> dict[str, str]:
    """Of each source the field that holds the second text of its pairs; empty where it holds single texts.

    Aligned files hold pairs, others where their first record has data.pair_field. All of them must have it if there are
    labels, and if otherwise no training source had any.

    Raises:
        FileNotFoundError, ValueError: as `read` does.
    """

    def field(source: str) -> str:
        if source.startswith(ALIGNED):
            return _SECOND
        if not data.pair_field or data.label_field:
            return data.pair_field
        first = next(read(source, text_field=data.text_field, text_unit=data.text_unit))
        return data.pair_field if data.pair_field in first else ""

    found = {source: field(source) for source in (*data.train, *data.validation)}
    if not any(found[source] for source in data.train):
        return dict.fromkeys(found, data.pair_field)
    return found


def fingerprint(source: str, content: bool = False) -> str:
    """A sha256 hex digest that changes when the content of a source does; the settings of reading are not in it.

    Of files, aligned ones too: the path, size, and ETag or time of change of each. Of pydocs: the interpreter. Of TFDS:
    the version of the dataset and the files of the split, which is prepared first if need be.

    Args:
        content: of local files, if they have at most a GiB, it is what they hold instead: a copy has the same.

    Raises:
        FileNotFoundError, ValueError: as `read` does, for a source that is missing or not understood.
    """
    if first := _FIRST.fullmatch(source):
        found = [fingerprint(first["source"], content), first["number"]]
    elif source == "pydocs":
        found = [sys.version, sysconfig.get_path("stdlib")]
    elif source.startswith("tfds:"):
        builder, split = _tfds_builder(source)
        info = builder.info.splits[split]
        found = [builder.info.full_name, split, info.num_examples, [str(item) for item in info.file_instructions]]
    else:
        paths = _aligned_paths(source) if source.startswith(ALIGNED) else files.find(source)
        found = files.contents(paths) if content else [files.identity(path) for path in paths]
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()


def mixture_weights(sizes: Sequence[float], weights: Sequence[float] = (), temperature: float = 1.0) -> np.ndarray:
    """How often a mixture draws from each of its sources.

    Args:
        sizes: rows or tokens of each source.
        weights: weights chosen by hand, one a source; empty takes size ** (1 / temperature).
        temperature: 1 draws in proportion to size, larger is flatter (XLM-R, arXiv 1911.02116: alpha = 1/temperature).

    Returns:
        float64 [sources] summing to 1.

    Raises:
        ValueError: a number out of range, or a weight on a source that holds nothing.
    """
    sizes = np.asarray(sizes, np.float64)
    if not (np.isfinite(sizes).all() and (sizes >= 0).all() and sizes.any()):
        raise ValueError(f"sizes of sources {sizes.tolist()} must be finite, not negative, and not all zero")
    if not temperature > 0:
        raise ValueError(f"temperature {temperature} must be greater than 0")
    if not len(weights):
        # Divided by the largest first, so that no power overflows; an empty source stays at 0 however flat.
        chosen = np.where(sizes > 0, (sizes / sizes.max()) ** (1 / temperature), 0.0)
        return chosen / chosen.sum()
    chosen = np.asarray(weights, np.float64)
    if chosen.shape != sizes.shape:
        raise ValueError(f"{len(chosen)} weights for {len(sizes)} sources; give one weight per source")
    if not (np.isfinite(chosen).all() and (chosen >= 0).all() and chosen.any()):
        raise ValueError(f"weights {chosen.tolist()} must be finite, not negative, and not all zero")
    if temperature != 1:
        raise ValueError(
            f"temperature {temperature} has no effect beside weights {chosen.tolist()}; set one of the two"
        )
    if (chosen[sizes == 0] > 0).any():
        raise ValueError(
            f"weights {chosen.tolist()} draw from a source without content: the sizes are {sizes.tolist()}"
        )
    return chosen / chosen.sum()


# Sources that are not files


def _pydocs_units(text_field: str) -> Iterator[Unit]:
    for name, text in pydocs.documents():
        yield Unit(f"pydocs {name}", {text_field: text, "name": name}, as_is)


def _aligned_paths(source: str) -> tuple[str, str]:
    paths = source.removeprefix(ALIGNED).split("|")
    if len(paths) != 2 or not all(paths):
        raise ValueError(f"{source}: write {ALIGNED}FILE|FILE, two text files with as many lines")
    return files.existing(paths[0]), files.existing(paths[1])


def _tfds_builder(source: str):
    """(the builder of a dataset that lies prepared on disk, the name of the split)."""
    match = _TFDS.fullmatch(source)
    if match is None:
        raise ValueError(f"{source}: write tfds:NAME/CONFIG:SPLIT, such as tfds:imdb_reviews/plain_text:train")
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ValueError(f"{source} needs tensorflow_datasets ({error}); pip install tensorflow_datasets") from error
    name, split = match["name"], match["split"]
    try:
        # TFRecord, the default, can only be read by TensorFlow; array_record needs none.
        builder = tfds.builder(name, file_format="array_record")
        with _files_without_tensorflow():
            builder.download_and_prepare()
    except tfds.core.DatasetNotFoundError as error:
        near = closest(name.split("/")[0], tfds.list_builders(with_community_datasets=False))
        raise FileNotFoundError(f"{source}: TFDS has no dataset {name!r}{near}") from error
    except Exception as error:  # a builder downloads and runs code of its own: anything can be raised
        raise ValueError(f"{source} could not be prepared by TFDS: {sentence(error)}") from error
    try:
        builder.info.splits[split]
    except Exception as error:
        known = listed(builder.info.splits)
        raise ValueError(f"{source}: no split {split!r} among {known}{closest(split, builder.info.splits)}") from error
    return builder, split


@contextlib.contextmanager
def _files_without_tensorflow() -> Iterator[None]:
    """TFDS opens archives by tf.io.gfile, and so do many of its builders: Python's own functions stand in for it.

    Preparing imdb_reviews needs no more of TensorFlow than this. The stand-in goes where TFDS keeps the module that it
    imports late, and not into sys.modules: what TFDS finds there it takes for the whole TensorFlow.
    """
    from tensorflow_datasets.core.utils import lazy_imports_utils

    if importlib.util.find_spec("tensorflow"):
        yield
        return

    def missing(name: str):
        raise AttributeError(f"preparing this data set needs tf.{name}: install tensorflow once, to prepare it")

    tensorflow = types.ModuleType("tensorflow")
    tensorflow.__getattr__ = missing
    tensorflow.compat = types.SimpleNamespace(as_text=os.fsdecode)
    tensorflow.io = types.SimpleNamespace(
        gfile=types.SimpleNamespace(
            GFile=lambda path, mode="r": Path(path).open(mode, encoding=None if "b" in mode else "utf-8"),  # noqa: SIM115 - TFDS closes it
            exists=os.path.exists,
            isdir=os.path.isdir,
            listdir=os.listdir,
            glob=glob.glob,
            makedirs=functools.partial(os.makedirs, exist_ok=True),
        )
    )
    late = vars(lazy_imports_utils.tensorflow)
    late["_module"] = tensorflow
    try:
        yield
    finally:
        del late["_module"]


def _tfds_units(source: str) -> Iterator[Unit]:
    builder, split = _tfds_builder(source)
    examples = builder.as_data_source(split)
    return (Unit(f"{source}[{i}]", i, lambda i, _: dict(examples[i])) for i in range(len(examples)))


def _plain(value: Any, where: str, is_text: bool) -> Any:
    """What is numpy's as Python's; the bytes of a wanted field as text, of any other if they are text."""
    if isinstance(value, np.ndarray | list):
        return [_plain(item, where, is_text) for item in value]
    if isinstance(value, dict):
        return {name: _plain(item, where, is_text) for name, item in value.items()}
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bytes):
        if is_text:
            return utf8(value, where)
        with contextlib.suppress(UnicodeDecodeError):
            return value.decode()
    return value
