"""Records that tasks read, add predictions to and evaluate on: checked, and in chunks of bounded size."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from jaxencoder.text.config import DataConfig
from jaxencoder.text.messages import closest, listed
from jaxencoder.text.schema import Schema
from jaxencoder.text.sources.records import ALIGNED_FIELD, Record, read

T = TypeVar("T")

_CHUNK_TEXTS = 16384  # texts that are sorted by length together ...
_CHUNK_CHARACTERS = 1 << 24  # ... and their characters at most, which bounds memory


def numbered(
    source: str | Iterable[Record],
    text_field: str,
    required: Sequence[str] = (),
    text_unit: str = "line",
    words: bool | None = False,
    pair_field: str = ALIGNED_FIELD,
) -> Iterator[tuple[str, Record]]:
    """Yield records, or those of a source (see `jaxencoder.text.sources.read`), each with its name for messages."""
    where = "record"
    if isinstance(source, str):
        where = f"{source}, record"
        source = read(
            source, text_field=text_field, required=required, text_unit=text_unit, words=words, pair_field=pair_field
        )
    for number, record in enumerate(source, 1):
        yield f"{where} {number}", record


def labeled_records(
    schema: Schema, data: DataConfig, source: str | None, classes: Sequence[str] | None = None
) -> Iterator[tuple[str, Record]]:
    """Yield the records of a source with the fields of `data`, or for None those that the run has held out.

    `classes` are as in `Schema.validation_records`. Each record comes with its name for messages. Raises ValueError if
    there are none, or as that method does.
    """
    if source is not None:
        data = dataclasses.replace(data, validation=(source,))
    is_empty = True
    for named_record in schema.validation_records(data, classes):
        is_empty = False
        yield named_record
    if is_empty:
        raise ValueError(f"data.validation_fraction {data.validation_fraction} has held no record out; name a source")


def with_texts(record: Record, names: Sequence[str], where: str, words: bool = False) -> Record:
    """Return the record; ValueError unless each field of these names holds a text or, with `words`, a list of words.

    Empty names are ignored.
    """
    for name in filter(None, names):
        if name not in record:
            near = closest(name, record) or "; give its name as text_field or pair_field"
            raise ValueError(f"{where}: no field {name!r} among {listed(record)}{near}")
        value = record[name]
        is_list = isinstance(value, list | tuple) and all(isinstance(word, str) for word in value)
        if not (isinstance(value, str) or (words and is_list)):
            kind = "text or a list of words" if words else "text"
            raise ValueError(
                f"{where}: field {name!r} is {type(value).__name__}, not {kind}; name another field or drop the record"
            )
    return record


def paired_records(
    source: str | Iterable[Record],
    data: DataConfig,
    text_field: str | None,
    pair_field: str | None,
    added: Sequence[str],
) -> Iterator[tuple[list[Record], list[str], list[str]]]:
    """Yield chunks of records to which fields are to be added, with their first and their second texts.

    Fields that are None are those of `data`. ValueError for a record that lacks its texts or has one of the fields of
    these `added` names.
    """
    fields = text_field or data.text_field, pair_field or data.pair_field
    if not fields[1]:
        problem = "two texts are compared, but the model was trained on single ones"
        raise ValueError(f"{problem}; name the field of the second text with pair_field")
    read_records = numbered(source, fields[0], fields[1:], data.text_unit, pair_field=fields[1])
    records = (with_texts(record, fields, where) for where, record in read_records)
    for chunk in chunks(records, lambda record: sum(len(record[name]) for name in fields)):
        check_new_fields(chunk, added)
        first, second = ([record[name] for record in chunk] for name in fields)
        yield chunk, first, second


def check_new_fields(records: Sequence[Record], names: Sequence[str], otherwise: str = "drop it") -> None:
    """Raise ValueError if a record already has a field that is to be added."""
    if present := [name for name in names if any(name in record for record in records)]:
        raise ValueError(f"the records already have a field {present[0]!r}; rename it, or {otherwise}")


def chunks(items: Iterable[T], size: Callable[[T], int]) -> Iterator[list[T]]:
    """Yield the items, such as records, in lists of bounded size; `size` is the number of characters of an item."""
    chunk: list[T] = []
    characters = 0
    for item in items:
        chunk.append(item)
        characters += size(item)
        if len(chunk) >= _CHUNK_TEXTS or characters >= _CHUNK_CHARACTERS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk
