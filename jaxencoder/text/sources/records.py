"""Records of a source, whatever holds them, and what identifies its content."""

import contextlib
import hashlib
import itertools
import json
import re
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from jaxencoder.text.config import ALIGNED, DataConfig
from jaxencoder.text.messages import closest, listed
from jaxencoder.text.sources import files, pydocs, tfds
from jaxencoder.text.sources.class_names import ClassNames
from jaxencoder.text.sources.formats import TEXT_UNITS, Record, Records, utf8

ALIGNED_FIELD = "pair"  # of the second text of aligned files, unless the settings name another
_FIRST_RECORDS = re.compile(r"(?!tfds:)(?P<source>.+)\[:(?P<number>[1-9]\d*)\]")
_PLAIN = frozenset((str, int, float, bool, type(None)))  # types of Python's own; subclasses may be NumPy's


class EmptySource(ValueError):
    """A source has no record."""


class MissingField(ValueError):
    """A record lacks a field; `settings` are the settings that may name another field."""

    def __init__(self, where: str, name: str, record: Record, is_text: bool):
        super().__init__(f"{where}: no field {name!r} among {listed(record)}{closest(name, record)}")
        self.settings = ("text_field",) if is_text else ("pair_field", "label_field")


def read(
    source: str,
    *,
    text_field: str = "text",
    fields: Sequence[str] | None = None,
    required: Sequence[str] = (),
    text_unit: str = "line",
    words: bool | None = False,
    pair_field: str = ALIGNED_FIELD,
    start: int = 0,
) -> Iterator[Record]:
    """Stream the records of a source.

    Args:
        source: as in the docstring of `jaxencoder.text.sources`.
        text_field: field of the text. Plain text, pydocs and the first of two aligned files are given this name.
        fields: other fields that every record must have; all others are dropped. None keeps all fields.
        required: other fields that every record must have, for use with fields=None.
        text_unit: one document of a .txt file: a "line", a "paragraph" (between blank lines) or a "file".
        words: the text field holds a list of words (True), text (False), or either (None).
        pair_field: the name that the second of two aligned files is given.
        start: skip this many records. Those of a single Parquet file are not read.

    Returns:
        Dicts with a str, or a list of words, under `text_field`; other values as Python objects. Blank lines are
        skipped.

    Raises:
        FileNotFoundError: no such file, folder or dataset, or no match of a glob; raised by the call itself.
        MissingField: a record lacks a field.
        ValueError: the source is empty, or a record cannot be read; names the file and the line.
    """
    if start < 0:
        raise ValueError(f"start is {start}; give at least 0")
    if text_unit not in TEXT_UNITS:
        raise ValueError(f"text_unit {text_unit!r} is not one of {', '.join(TEXT_UNITS)}")
    # Outside the generator: a missing file raises here and not at the first record.
    needed = (text_field, *(fields or ()), *required)
    located = _located_records(source, text_field, text_unit, pair_field, None if fields is None else needed, start)

    def records() -> Iterator[Record]:
        for where, raw in itertools.chain((_first(source, located, start),), located):
            yield _checked(where, raw, needed, words, keeps_others=fields is None)

    return records()


def field_names(source: str, text_field: str = "text", pair_field: str = ALIGNED_FIELD) -> tuple[str, ...]:
    """The field names of the first record of a source, read as by `read`, which raises the same errors."""
    return tuple(_first(source, _located_records(source, text_field, "line", pair_field))[1])


def class_names(source: str) -> ClassNames:
    """The names of the classes that numbers stand for, by field and in order of id, as a source's metadata has them.

    Parquet files of Hugging Face's datasets and TFDS have them; other sources have none. Raises as `read` does.
    """
    if first := _FIRST_RECORDS.fullmatch(source):
        return class_names(first["source"])
    if source.startswith("tfds:"):
        return tfds.class_names(source)
    return {} if source == "pydocs" or source.startswith(ALIGNED) else files.class_names(files.find_files(source))


def pair_fields(data: DataConfig) -> dict[str, str]:
    """The field of the second text in each source; empty for sources of single texts.

    Aligned files hold pairs, other sources if their first record has data.pair_field. All sources must have that field
    if there are labels, or if no training source has it.
    """

    def field(source: str) -> str:
        if source.startswith(ALIGNED):
            return data.pair_field or ALIGNED_FIELD
        if not data.pair_field or data.label_field:
            return data.pair_field
        first = next(read(source, text_field=data.text_field, text_unit=data.text_unit))
        return data.pair_field if data.pair_field in first else ""

    fields = {source: field(source) for source in (*data.train, *data.validation)}
    if not any(fields[source] for source in data.train):
        return dict.fromkeys(fields, data.pair_field)
    return fields


def fingerprint(source: str, content: bool = False) -> str:
    """A sha256 hex digest that changes with the content of a source, whatever the settings of reading.

    It covers the path, size, and ETag or time of change of files, the interpreter of pydocs, and the dataset's version
    and the split's files of TFDS.

    Args:
        content: digest the content of local files of at most a GiB instead, so that a copy has the same fingerprint.
    """
    if first := _FIRST_RECORDS.fullmatch(source):
        version = [fingerprint(first["source"], content), first["number"]]
    elif source == "pydocs":
        version = [sys.version, sysconfig.get_path("stdlib")]
    elif source.startswith("tfds:"):
        version = tfds.version(source)
    else:
        paths = files.aligned_files(source) if source.startswith(ALIGNED) else files.find_files(source)
        version = files.content_digests(paths) if content else [files.file_version(path) for path in paths]
    return hashlib.sha256(json.dumps(version).encode()).hexdigest()


def is_files(source: str) -> bool:
    """Whether a source is a file, folder or glob, as for `files.find_files`."""
    return not (source == "pydocs" or source.startswith(("tfds:", ALIGNED)) or _FIRST_RECORDS.fullmatch(source))


def _located_records(
    source: str,
    text_field: str,
    text_unit: str,
    pair_field: str,
    fields: Sequence[str] | None = None,
    start: int = 0,
) -> Records:
    """The records from the number `start`; those of Parquet files have `fields` alone, if they have all of them."""
    if first := _FIRST_RECORDS.fullmatch(source):
        records = _located_records(first["source"], text_field, text_unit, pair_field, fields, start)
        return itertools.islice(records, max(0, int(first["number"]) - start))
    if not is_files(source):
        return itertools.islice(_other_records(source, text_field, pair_field), start, None)
    paths = files.find_files(source)
    if len(paths) == 1:
        return files.records(paths[0], text_field, text_unit, fields, start)
    records = itertools.chain.from_iterable(files.records(path, text_field, text_unit, fields) for path in paths)
    return itertools.islice(records, start, None)


def _other_records(source: str, text_field: str, pair_field: str) -> Records:
    """The records of a source that is no file, folder or glob."""
    if source == "pydocs":
        return ((f"pydocs {name}", {text_field: text, "name": name}) for name, text in pydocs.documents())
    if source.startswith("tfds:"):
        return tfds.records(source)
    if text_field == pair_field:
        raise ValueError(f"{source}: the second text has the field {pair_field!r}; give another text_field")
    return files.aligned_records(files.aligned_files(source), (text_field, pair_field))


def _first(source: str, records: Records, start: int = 0) -> tuple[str, Record]:
    if first := next(records, None):
        return first
    problem = f"has no record after the first {start}" if start else "is empty: it holds no document to read"
    raise EmptySource(f"{source} {problem}")


def _checked(where: str, raw: Record, needed: Sequence[str], words: bool | None, keeps_others: bool) -> Record:
    """The fields of a record as Python objects; it must have all needed ones, the first of which is the text."""
    text_field = needed[0]
    for name in needed:
        if name not in raw:
            raise MissingField(where, name, raw, name == text_field)
    record = {name: _to_python(raw[name], where, name in needed) for name in (raw if keeps_others else needed)}
    text = record[text_field]
    is_words = isinstance(text, list) and {str}.issuperset(map(type, text))
    if not ((is_words and words is not False) or (isinstance(text, str) and not words)):
        kind = "a list of words" if words else "text"
        problem = f"field {text_field!r} is {type(text).__name__}, not {kind}"
        advice = ", or rename a file of columns to .conll" if words else ""
        raise ValueError(f"{where}: {problem}; name another field or drop the record{advice}")
    return record


def _to_python(value: Any, where: str, is_text: bool) -> Any:
    """Python objects from numpy's; bytes are decoded in a needed field, and in others if they are UTF-8."""
    if type(value) in _PLAIN or (type(value) is list and _PLAIN.issuperset(map(type, value))):
        return value
    if isinstance(value, np.ndarray | list):
        return [_to_python(item, where, is_text) for item in value]
    if isinstance(value, dict):
        return {name: _to_python(item, where, is_text) for name, item in value.items()}
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bytes):
        if is_text:
            return utf8(value, where)
        with contextlib.suppress(UnicodeDecodeError):
            return value.decode()
    return value
