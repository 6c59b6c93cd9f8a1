"""The output: a folder of Parquet files, each of which appears complete, and a manifest that is written last.

A shard's metadata says what it was made of, so that a later command continues a folder, or refuses to.
"""

import contextlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import filelock
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jaxencoder.files import write_atomic
from jaxencoder.inference.writers import vector_column
from jaxencoder.text.sources.files import filesystem, remote_errors

MANIFEST = "_manifest.json"  # readers of folders of Parquet pass over names that begin with _ or .
EXTENSION = ".parquet"
_LOCK = ".lock"
_METADATA = b"jaxencoder"


class Shard(NamedTuple):
    """A shard on disk: what it was made of, and what is in it."""

    origin: dict[str, Any]  # as written by `write`
    rows: int
    schema: pa.Schema  # with the vectors last


class OutputFolder:
    """A local folder, or a prefix of an object store that fsspec supports."""

    def __init__(self, url: str):
        is_local = "://" not in url or url.startswith("file://")
        self.url = str(Path(url.removeprefix("file://")).expanduser().absolute()) if is_local else url.rstrip("/")
        self.is_local = is_local
        self._fs, self._path = filesystem(self.url)

    def shards(self) -> list[str]:
        """The names of the files that are or may be shards."""
        with remote_errors(self.url):
            self._fs.invalidate_cache()
            if not self._fs.isdir(self._path):
                return []
            names = [path.rstrip("/").rpartition("/")[2] for path in self._fs.ls(self._path, detail=False)]
        return sorted(name for name in names if name.endswith(EXTENSION) and name[0] not in "._")

    def read(self, name: str) -> Shard | None:
        """What a file is; None if it is no complete shard."""
        try:
            with remote_errors(self.url), self._fs.open(self._join(name), "rb") as stream, pq.ParquetFile(stream) as x:
                schema, rows = x.schema_arrow, x.metadata.num_rows
                origin = json.loads((schema.metadata or {})[_METADATA])
        except (pa.ArrowException, KeyError, ValueError):
            return None
        except OSError as error:
            if getattr(error, "errno", None) is not None:
                raise
            return None  # pyarrow's, for a file without its end
        return Shard(origin, rows, schema.remove_metadata())

    def write(self, name: str, table: pa.Table, origin: dict[str, Any]) -> None:
        """Write a table as a shard; it replaces one of the same name."""
        content = io.BytesIO()
        table = table.replace_schema_metadata({_METADATA: json.dumps(origin)})
        pq.write_table(table, content, compression="zstd")
        self._put(name, content.getvalue())

    def write_manifest(self, content: dict[str, Any]) -> None:
        self._put(MANIFEST, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())

    def remove_manifest(self) -> None:
        """From now on the folder is not complete."""
        with remote_errors(self.url, "written"), contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(self._join(MANIFEST))

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Create the folder and keep other commands out of it; OSError if one is there. No lock in object stores."""
        if not self.is_local:
            yield
            return
        folder = Path(self.url)
        folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(folder / _LOCK)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            raise OSError(f"another command is writing to {self.url}; wait until it ends") from None
        except NotImplementedError:  # a file system without locks: two commands would write the same shards twice
            yield
            return
        try:
            for path in folder.glob(f".*{EXTENSION}.*"):  # unfinished, of a command that was killed
                path.unlink(missing_ok=True)
            yield
        finally:
            lock.release()

    def _join(self, name: str) -> str:
        return f"{self._path.rstrip('/')}/{name}"

    def _put(self, name: str, content: bytes) -> None:
        if self.is_local:
            write_atomic(Path(self.url) / name, content)
            return
        with remote_errors(self.url, "written"):
            self._fs.pipe_file(self._join(name), content)  # an object appears once its upload is complete


def embedding_column(vectors: np.ndarray | list[Any]) -> pa.Array:
    """A column of `Embedder.embed`'s vectors, matrices, or lists of tokens and weights."""
    if isinstance(vectors, np.ndarray) or (vectors and isinstance(vectors[0], np.ndarray)):
        return vector_column(vectors)
    kind = pa.list_(pa.struct([("token", pa.string()), ("weight", pa.float64())]))
    return pa.array(vectors, kind)
