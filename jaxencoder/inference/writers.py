"""Records, with vectors or without, into a file that appears when it is whole: Parquet, JSON lines or a numpy array."""

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from jaxencoder.text.sources import Record

COLUMN = "embedding"


Write = Callable[..., None]


@contextlib.contextmanager
def open_writer(path: Path, vectors: bool = True, items: Record | None = None) -> Iterator[Write]:
    """A function that appends n records to a file of the kind its extension names, with vectors [n, D] float32 if any.

    The file takes its name when the block ends without an error; until then it is a hidden one beside it.

    Args:
        vectors: whether there will be any; a numpy array can be nothing else.
        items: by the name of a field an example of what its lists hold, which a table must know where the first ones
            are empty; not needed of text.

    Raises:
        ValueError: an unknown extension.
        OSError: the folder is missing, cannot be written or is full; names `path`.
    """
    kinds = {".parquet": partial(ParquetWriter, items=items or {}), ".jsonl": JsonWriter}
    kinds |= {".npy": NumpyWriter} if vectors else {}
    if path.suffix not in kinds:
        raise ValueError(f"{path} has no extension that can be written; use {', '.join(kinds)}")
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    writer = None

    def write(records: Sequence[Record], vectors: np.ndarray | None = None) -> None:
        with _named(path):
            writer.write(records, vectors)

    try:
        with _named(path):
            writer = kinds[path.suffix](part)
        yield write
        with _named(path):
            writer.close()
            os.replace(part, path)
    except BaseException:
        with contextlib.suppress(Exception):  # what cannot be flushed is thrown away
            writer.close()
        raise
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Errors of the system name the user's file, not the hidden one, and say it as the system does."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from error


class ParquetWriter:
    """The columns of the records and, of vectors, a column "embedding" of fixed-size lists of float32.

    The first chunk decides the columns and their types. What it leaves open is as `items` has it, or else text.
    """

    def __init__(self, path: Path, items: Record):
        self._path, self._items, self._writer = path, items, None
        path.touch()  # a folder that cannot be written is known at once

    def write(self, records: Sequence[Record], vectors: np.ndarray | None) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        schema = None if self._writer is None else self._writer.schema
        if vectors is not None:
            refuse_fields(records, (COLUMN,), "write .npy")
            schema = schema and schema.remove(len(schema) - 1)
        known = set(schema.names) if schema is not None else set()
        names = dict.fromkeys(name for record in records for name in record)
        if schema is not None and (new := [name for name in names if name not in known]):
            raise ValueError(f"field {new[0]!r} first appears late in the source; write .jsonl, or drop that field")
        try:
            if schema is None:
                table = pa.Table.from_pylist([{name: record.get(name) for name in names} for record in records])
                items = ((field, pa.scalar(self._items.get(field.name, "")).type) for field in table.schema)
                table = table.cast(pa.schema([field.with_type(_known(field.type, item)) for field, item in items]))
            else:
                table = pa.Table.from_pylist(records, schema=schema)
        except (pa.ArrowException, OverflowError) as error:
            problem = " ".join(str(error).split())[:200]
            raise ValueError(
                f"the records do not make one table ({problem}); write .jsonl, or give each field one type"
            ) from error
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
    """The vectors alone, [N, D] float32."""

    def __init__(self, path: Path):
        self._file, self._shape = path.open("wb"), None

    def write(self, records: Sequence[Record], vectors: np.ndarray) -> None:
        if self._shape is None:
            self._shape = (0, vectors.shape[1])
            self._header()
        self._file.write(np.ascontiguousarray(vectors, "<f4").tobytes())
        self._shape = (self._shape[0] + len(vectors), vectors.shape[1])

    def _header(self) -> None:
        # numpy leaves room in a header for the first axis to grow, so that it can be written again in place.
        header = {"descr": "<f4", "fortran_order": False, "shape": self._shape}
        np.lib.format.write_array_header_1_0(self._file, header)

    def close(self) -> None:
        with self._file:
            if self._shape is not None:
                self._file.seek(0)
                self._header()


class JsonWriter:
    """One JSON object a line: the record's fields and, of vectors, "embedding" as a list of numbers."""

    def __init__(self, path: Path):
        self._file = path.open("w", encoding="utf-8")

    def write(self, records: Sequence[Record], vectors: np.ndarray | None) -> None:
        if vectors is not None:
            refuse_fields(records, (COLUMN,), "write .npy")
            records = [record | {COLUMN: x.tolist()} for record, x in zip(records, vectors, strict=True)]
        for record in records:
            self._file.write(json.dumps(record, ensure_ascii=False, default=str) + "\n")

    def close(self) -> None:
        self._file.close()


def refuse_fields(records: Sequence[Record], names: Sequence[str], otherwise: str = "drop it") -> None:
    """ValueError where a record has a field already that is to be added."""
    if found := [name for name in names if any(name in record for record in records)]:
        raise ValueError(f"the records have a field {found[0]!r} already; rename it, or {otherwise}")


def _known(kind, item):
    """A column's type with that of `item` where only nulls, or lists of nothing, have been seen."""
    import pyarrow as pa

    if pa.types.is_list(kind):
        return pa.list_(_known(kind.value_type, item))
    return item if pa.types.is_null(kind) else kind
