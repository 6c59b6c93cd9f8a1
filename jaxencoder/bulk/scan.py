"""What must be known of all records before the first is embedded: their number, their ids, their columns' types."""

import itertools
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from jaxencoder.bulk.config import ID, BulkConfig
from jaxencoder.inference.writers import fill_nulls
from jaxencoder.text.messages import first_line
from jaxencoder.text.sources import EmptySource, Record, read
from jaxencoder.text.sources.files import is_parquet, parquet_schema, records

_TYPED_RECORDS = 4096  # records whose values are typed at once


class SourceFile(NamedTuple):
    """A file of the input, or a source that is no file."""

    path: str  # a source of `jaxencoder.text.sources`
    name: str  # the path in the input, without the input's folder
    version: str  # changes with the content


def read_records(file: SourceFile, config: BulkConfig, start: int = 0) -> Iterator[Record]:
    """The records of a file from a number on: text, id and kept fields, and of a Parquet file no other column."""
    fields = [name for name in (config.id_field, *config.columns) if name]
    return read(file.path, text_field=config.text_field, fields=fields, start=start)


def column_names(config: BulkConfig) -> tuple[str, ...]:
    """The columns of a shard before the vectors, the id first."""
    return tuple(dict.fromkeys((config.id_field or ID, *config.columns)))


def record_columns(file: SourceFile, config: BulkConfig, start: int, batch: Sequence[Record]) -> dict[str, list]:
    """The columns of consecutive records, of which the first is number `start` of the file."""
    columns = {name: [record.get(name) for record in batch] for name in column_names(config)}
    if not config.id_field:
        columns[ID] = [f"{file.name}:{number}" for number in range(start, start + len(batch))]
    return columns


class Scan:
    """The schema of the input's ids and kept fields, and a hash of each id.

    Of Parquet files the ids and the schema are read, and of the texts the first one; all other files are read from
    beginning to end. Each id takes 8 bytes of memory.
    """

    def __init__(self, config: BulkConfig):
        self._config = config
        self._types: dict[str, pa.DataType] = {}  # by column
        self._hashes = array("q")

    def add(self, file: SourceFile) -> int:
        """Read a file and return the number of its records; ValueError for a missing field or a value of no type."""
        if is_parquet(file.path):
            return self._add_parquet(file)
        size, located = 0, read_records(file, self._config)
        try:
            while batch := list(itertools.islice(located, _TYPED_RECORDS)):
                columns = record_columns(file, self._config, size, batch)
                if self._config.id_field:
                    self._hashes.extend(map(hash, _checked_ids(file, self._config, columns[self._config.id_field])))
                for name, values in columns.items():
                    self._add_type(file, name, _type_of(file, name, values))
                size += len(batch)
        except EmptySource:  # one file of several may be
            pass
        return size

    def _add_parquet(self, file: SourceFile) -> int:
        size, schema = parquet_schema(file.path)
        if size:
            next(read_records(file, self._config))  # the fields exist, and the first text is one
            self._hashes.extend(map(hash, _ids(file, self._config)))
            for name in column_names(self._config):
                kind = _type_of(file, name, [""]) if not self._config.id_field and name == ID else None
                self._add_type(file, name, kind or schema.field(name).type)
        return size

    def _add_type(self, file: SourceFile, name: str, kind: pa.DataType) -> None:
        if (previous := self._types.setdefault(name, kind)) == kind:
            return
        schemas = [pa.schema([(name, x)]) for x in (previous, kind)]
        try:
            self._types[name] = pa.unify_schemas(schemas, promote_options="permissive").field(name).type
        except pa.ArrowException as error:
            problem = f"{file.path}: field {name!r} holds {kind} here and {previous} before"
            raise ValueError(f"{problem}; give it one type, or leave it out of columns") from error

    @property
    def schema(self) -> pa.Schema:
        """The columns' types; text where there are only nulls."""
        return pa.schema([(name, fill_nulls(kind, pa.string())) for name, kind in self._types.items()])

    def check_ids(self, files: Iterable[SourceFile]) -> None:
        """ValueError, which names it, for an id of two records; records of equal hashes are read again."""
        hashes = np.frombuffer(self._hashes, np.int64)
        hashes.sort()
        repeated = set(hashes[1:][hashes[1:] == hashes[:-1]].tolist())
        places: dict[str | int, str] = {}
        for file in files if repeated else ():
            for number, value in enumerate(_ids(file, self._config)):
                if hash(value) not in repeated:
                    continue
                place = f"{file.path}, record {number}"
                if (first := places.setdefault(value, place)) != place:
                    problem = f"{self._config.id_field} {value!r} is that of {first} and of {place}"
                    raise ValueError(f"{problem}; give each record its own, or name another id field; '' makes ids")


def _ids(file: SourceFile, config: BulkConfig) -> Iterator[str | int]:
    """The ids of a file's records; none if they are made."""
    if not (name := config.id_field):
        return
    if is_parquet(file.path):
        raw = (record[name] for _, record in records(file.path, config.text_field, "line", [name]))
    else:
        raw = (record[name] for record in read_records(file, config))
    try:
        yield from _checked_ids(file, config, raw)
    except EmptySource:
        return


def _checked_ids(file: SourceFile, config: BulkConfig, values: Iterable[Any]) -> Iterator[str | int]:
    for value in values:
        if not isinstance(value, str | int) or isinstance(value, bool):
            problem = f"{file.path}: field {config.id_field!r} of a record is {value!r}"
            raise ValueError(f"{problem}; an id is text or a whole number, so name another id field; '' makes ids")
        yield value


def _type_of(file: SourceFile, name: str, values: list) -> pa.DataType:
    """The common type of values."""
    try:
        return pa.array(values).type
    except (pa.ArrowException, OverflowError) as error:
        problem = f"{file.path}: the values of field {name!r} have no common type ({first_line(error)})"
        raise ValueError(f"{problem}; leave it out of columns") from error
