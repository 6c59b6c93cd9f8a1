"""What a worker does: it makes the shard of one part after another, whatever engine calls it."""

import hashlib
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyarrow as pa

from jaxencoder.bulk.config import BulkConfig, identity
from jaxencoder.bulk.embedder import Embedder
from jaxencoder.bulk.plan import Part
from jaxencoder.bulk.scan import SourceFile, read_records, record_columns
from jaxencoder.bulk.shards import OutputFolder, embedding_column
from jaxencoder.inference.options import COLUMN, EmbedOptions
from jaxencoder.text.messages import first_line
from jaxencoder.text.sources import Record
from jaxencoder.text.sources.files import is_parquet


@dataclass(frozen=True)
class Job:
    """What all workers of a command are given; small, and pickled to each."""

    model: str
    options: EmbedOptions
    config: BulkConfig
    schema: pa.Schema  # of the columns before the vectors
    output: str
    model_identity: str | None  # of the shards that are there already; None: there are none


class Made(NamedTuple):
    """The shard of a part."""

    part: Part
    model_identity: str
    truncated: int  # texts
    is_new: bool  # False: the shard was there, and its records have not changed


class Worker:
    """Makes shards. The model is opened at the first part."""

    def __init__(self, job: Job):
        self._job, self._folder = job, OutputFolder(job.output)
        self._embedder = Embedder(job.model, job.options, job.config.text_field)
        self._reader = PartReader(job.config)
        self._identity: str | None = None

    def __call__(self, part: Part) -> Made:
        """Make the shard of a part.

        Raises:
            ValueError: the model is not that of the shards in the folder, or the input has changed since the plan.
            OSError: the input cannot be read, or the shard cannot be written.
        """
        if self._identity is None:
            self._identity = self._embedder.identity()
        check_identity(self._job.model, self._job.output, self._job.model_identity, self._identity)
        records = self._reader.read(part)
        content = content_digest(records)
        if content == part.content:
            return Made(part, self._identity, 0, is_new=False)
        vectors, truncated = self._embedder.embed([record[self._job.config.text_field] for record in records])
        columns = record_columns(part.file, self._job.config, part.start, records)
        self._folder.write(part.shard, self._table(part, columns, vectors), self._origin(part, content))
        return Made(part, self._identity, truncated, is_new=True)

    def _table(self, part: Part, columns: dict[str, list], vectors: Any) -> pa.Table:
        try:
            table = pa.table(columns, schema=self._job.schema)
        except (pa.ArrowException, OverflowError) as error:
            problem = f"{part.file.path}: the fields {', '.join(columns)} have other types than the plan found"
            raise ValueError(f"{problem} ({first_line(error)}); let nothing change it meanwhile") from error
        return table.append_column(COLUMN, embedding_column(vectors))

    def _origin(self, part: Part, content: str) -> dict[str, Any]:
        return {
            "settings": identity(self._job.config, self._job.options),
            "model": self._identity,
            "source": part.file._asdict() | {"start": part.start, "stop": part.stop},
            "content": content,
        }


class PartReader:
    """The records of parts. Going forward in a file, it is read once; only Parquet files are read from their middle."""

    def __init__(self, config: BulkConfig):
        self._config = config
        self._file: SourceFile | None = None
        self._next = 0  # number of the record that comes next
        self._records: Iterator[Record] = iter(())

    def read(self, part: Part) -> list[Record]:
        """The records of a part; ValueError if the file has fewer."""
        skipped = part.start - self._next
        if self._file != part.file or skipped < 0 or (skipped and is_parquet(part.file.path)):
            self._file, skipped = part.file, 0
            self._records = read_records(part.file, self._config, part.start)
        self._next = part.stop
        records = list(itertools.islice(self._records, skipped, skipped + part.size))
        if len(records) < part.size:
            raise ValueError(f"{part.file.path} has become shorter since it was counted; embed it again")
        return records


def content_digest(records: list[Record]) -> str:
    """A digest of all that a shard holds of its records, their texts included."""
    return hashlib.blake2b(json.dumps(records, default=str).encode(), digest_size=16).hexdigest()


def check_identity(model: str, output: str, old: str | None, new: str) -> None:
    """ValueError if the shards of a folder come from another model, or another kind of device."""
    if old not in (None, new):
        problem = f"{output} holds vectors of another model, or of other devices, than {model}: {old}, not {new}"
        raise ValueError(f"{problem}; give another folder, or the same model")
