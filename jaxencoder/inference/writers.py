"""Write records, and vectors if any, to Parquet, JSON lines or numpy arrays; a file appears once it is complete."""

import contextlib
import json
import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from jaxencoder.inference.options import COLUMN
from jaxencoder.tasks.records import check_new_fields
from jaxencoder.text.sources import Record

Vectors = np.ndarray | list[np.ndarray]  # of records: float32 [n, D], or for each a matrix [t, D]


def check_extension(path: Path, has_matrices: bool, is_sparse: bool = False) -> None:
    """ValueError if a numpy file does not hold what is written: a vector for each record, or a matrix."""
    if is_sparse and path.suffix in (".npy", ".npz"):
        raise ValueError(f"{path} cannot hold the model's sparse vectors; give .parquet or .jsonl")
    if path.suffix in (".npy", ".npz") and has_matrices != (path.suffix == ".npz"):
        contents = "a matrix for each text; give .npz" if has_matrices else "a vector for each text; give .npy"
        raise ValueError(f"{path} cannot hold the model's vectors, {contents}, .parquet or .jsonl")


@contextlib.contextmanager
def open_writer(path: Path, vectors: bool = True, items: Record | None = None) -> Iterator[Callable[..., None]]:
    """Open a file in the format of its extension; ValueError for an unknown one, OSError that names `path`.

    Yields a function that appends n records, with vectors if any: [n, D] float32, or for each record a matrix [t, D].
    A hidden file is written, which gets its name when the block ends without an error.

    Args:
        vectors: whether records come with vectors; .npy and .npz need them.
        items: field -> example of the items of its lists, unless they are texts: types for Parquet if the first lists
            are empty.
    """
    kinds = {".parquet": partial(ParquetWriter, items=items or {}), ".jsonl": JsonWriter}
    kinds |= {".npy": NumpyWriter, ".npz": MatrixWriter} if vectors else {}
    if path.suffix not in kinds:
        raise ValueError(f"{path} has no extension that can be written; use {', '.join(kinds)}")
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    writer: Any = None

    def write(records: Sequence[Record], vectors: Vectors | None = None) -> None:
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


def vector_column(vectors: Vectors) -> Any:
    """A pyarrow array of n vectors, as fixed-size lists of float32; of n matrices, as lists of such lists."""
    import pyarrow as pa

    joined = np.concatenate(vectors) if isinstance(vectors, list) else vectors
    flat = pa.array(np.ascontiguousarray(joined, np.float32).reshape(-1))
    column = pa.FixedSizeListArray.from_arrays(flat, joined.shape[1])
    if not isinstance(vectors, list):
        return column
    ends = np.cumsum([0, *map(len, vectors)], dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(ends), column)


class ParquetWriter:
    """The records' fields as columns, and vectors as a column "embedding" of fixed-size lists of float32.

    Matrices are lists of such lists.

    The first chunk decides columns and types. Types that it leaves open are those of `items`, otherwise text.
    """

    def __init__(self, path: Path, items: Record):
        self._path, self._items, self._writer = path, items, None
        path.touch()  # fails at once in a folder that cannot be written

    def write(self, records: Sequence[Record], vectors: Vectors | None) -> None:
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
                table = table.cast(pa.schema([field.with_type(fill_nulls(field.type, item)) for field, item in items]))
            else:
                table = pa.Table.from_pylist(records, schema=schema)
        except (pa.ArrowException, OverflowError) as error:
            problem = f"the records do not form one table ({' '.join(str(error).split())[:200]})"
            raise ValueError(f"{problem}; write .jsonl, or give each field one type") from error
        if vectors is not None:
            table = table.append_column(COLUMN, vector_column(vectors))
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


class MatrixWriter:
    """Only the matrices: "vectors", [all rows, D] float32 one after another, and "lengths", their rows, int64 [N]."""

    def __init__(self, path: Path):
        self._path, self._lengths = path, []
        self._vectors = path.with_name(f"{path.name}.vectors")
        path.touch()
        self._writer = NumpyWriter(self._vectors)

    def write(self, records: Sequence[Record], vectors: list[np.ndarray]) -> None:
        self._writer.write(records, np.concatenate(vectors))
        self._lengths += map(len, vectors)

    def close(self) -> None:
        self._writer.close()
        try:
            with zipfile.ZipFile(self._path, "w") as archive:  # without compression, which would gain little
                archive.write(self._vectors, "vectors.npy")
                with archive.open("lengths.npy", "w") as file:
                    np.lib.format.write_array(file, np.array(self._lengths, np.int64))
        finally:
            self._vectors.unlink(missing_ok=True)


class JsonWriter:
    """One JSON object per line: the record's fields, and a vector as the list "embedding", or a list of them."""

    def __init__(self, path: Path):
        self._file = path.open("w", encoding="utf-8")

    def write(self, records: Sequence[Record], vectors: Vectors | None) -> None:
        if vectors is not None:
            check_new_fields(records, (COLUMN,), "write .npy")
            records = [record | {COLUMN: x.tolist()} for record, x in zip(records, vectors, strict=True)]
        for record in records:
            self._file.write(json.dumps(record, ensure_ascii=False, default=str) + "\n")

    def close(self) -> None:
        self._file.close()


def fill_nulls(kind, item):
    """A column's type, with that of `item` where only nulls or empty lists have been seen."""
    import pyarrow as pa

    if pa.types.is_list(kind):
        return pa.list_(fill_nulls(kind.value_type, item))
    return item if pa.types.is_null(kind) else kind
