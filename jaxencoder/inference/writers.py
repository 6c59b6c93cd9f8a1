"""Write records, and vectors if any, to Parquet, JSON lines or a numpy array; a file appears once it is complete."""

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from jaxencoder.tasks.records import check_new_fields
from jaxencoder.text.sources import Record

COLUMN = "embedding"


@contextlib.contextmanager
def open_writer(path: Path, vectors: bool = True, items: Record | None = None) -> Iterator[Callable[..., None]]:
    """Open a file in the format of its extension; ValueError for an unknown one, OSError that names `path`.

    Yields a function that appends n records, with vectors [n, D] float32 if any. A hidden file is written, which gets
    its name when the block ends without an error.

    Args:
        vectors: whether records come with vectors; .npy needs them.
        items: field -> example of the items of its lists, unless they are texts: types for Parquet if the first lists
            are empty.
    """
    kinds = {".parquet": partial(ParquetWriter, items=items or {}), ".jsonl": JsonWriter}
    kinds |= {".npy": NumpyWriter} if vectors else {}
    if path.suffix not in kinds:
        raise ValueError(f"{path} has no extension that can be written; use {', '.join(kinds)}")
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    writer: Any = None

    def write(records: Sequence[Record], vectors: np.ndarray | None = None) -> None:
        with _errors_name(path):
            writer.write(records, vectors)

    try:
        with _errors_name(path):
            writer = kinds[path.suffix](part)
        yield write
        with _errors_name(path):
            writer.close()
            os.replace(part, path)
    except BaseException:
        with contextlib.suppress(Exception):  # a failed flush must not hide the first error
            writer.close()
        raise
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def _errors_name(path: Path) -> Iterator[None]:
    """Make errors of the system name the user's file, not the hidden one."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from error


class ParquetWriter:
    """The records' fields as columns, and vectors as a column "embedding" of fixed-size lists of float32.

    The first chunk decides columns and types. Types that it leaves open are those of `items`, otherwise text.
    """

    def __init__(self, path: Path, items: Record):
        self._path, self._items, self._writer = path, items, None
        path.touch()  # fails at once in a folder that cannot be written

    def write(self, records: Sequence[Record], vectors: np.ndarray | None) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        schema = None if self._writer is None else self._writer.schema
        if vectors is not None:
            check_new_fields(records, (COLUMN,), "write .npy")
            schema = schema and schema.remove(len(schema) - 1)
        names = dict.fromkeys(name for record in records for name in record)
        if schema is not None and (new := [name for name in names if name not in schema.names]):
            raise ValueError(f"field {new[0]!r} first appears late in the source; write .jsonl, or drop that field")
        try:
            if schema is None:
                table = pa.Table.from_pylist([{name: record.get(name) for name in names} for record in records])
                items = ((field, pa.scalar(self._items.get(field.name, "")).type) for field in table.schema)
                table = table.cast(pa.schema([field.with_type(_fill_nulls(field.type, item)) for field, item in items]))
            else:
                table = pa.Table.from_pylist(records, schema=schema)
        except (pa.ArrowException, OverflowError) as error:
            problem = f"the records do not form one table ({' '.join(str(error).split())[:200]})"
            raise ValueError(f"{problem}; write .jsonl, or give each field one type") from error
        if vectors is not None:
            flat = pa.array(np.ascontiguousarray(vectors, np.float32).reshape(-1))
            table = table.append_column(COLUMN, pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1]))
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._path, table.schema, compression="zstd")
        self._writer.write_table(table)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


class NumpyWriter:
    """Only the vectors, [N, D] float32."""

    def __init__(self, path: Path):
        self._file, self._shape = path.open("wb"), None

    def write(self, records: Sequence[Record], vectors: np.ndarray) -> None:
        if self._shape is None:
            self._shape = (0, vectors.shape[1])
            self._header()
        self._file.write(np.ascontiguousarray(vectors, "<f4").tobytes())
        self._shape = (self._shape[0] + len(vectors), vectors.shape[1])

    def _header(self) -> None:
        # numpy's header leaves room for the first axis to grow, so that it can be rewritten in place.
        header = {"descr": "<f4", "fortran_order": False, "shape": self._shape}
        np.lib.format.write_array_header_1_0(self._file, header)

    def close(self) -> None:
        with self._file:
            if self._shape is not None:
                self._file.seek(0)
                self._header()


class JsonWriter:
    """One JSON object per line: the record's fields, and a vector as the list "embedding"."""

    def __init__(self, path: Path):
        self._file = path.open("w", encoding="utf-8")

    def write(self, records: Sequence[Record], vectors: np.ndarray | None) -> None:
        if vectors is not None:
            check_new_fields(records, (COLUMN,), "write .npy")
            records = [record | {COLUMN: x.tolist()} for record, x in zip(records, vectors, strict=True)]
        for record in records:
            self._file.write(json.dumps(record, ensure_ascii=False, default=str) + "\n")

    def close(self) -> None:
        self._file.close()


def _fill_nulls(kind, item):
    """A column's type, with that of `item` where only nulls or empty lists have been seen."""
    import pyarrow as pa

    if pa.types.is_list(kind):
        return pa.list_(_fill_nulls(kind.value_type, item))
    return item if pa.types.is_null(kind) else kind
