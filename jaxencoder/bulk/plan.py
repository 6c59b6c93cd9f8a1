"""The plan: which records of the input become which shard.

A shard holds consecutive records of one file, at most `shard_records`, so that its bytes depend on that file alone: not
on other files, nor on who embeds it.
"""

import hashlib
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import NamedTuple

import pyarrow as pa

from jaxencoder.bulk.config import ID, BulkConfig
from jaxencoder.bulk.scan import Scan, SourceFile
from jaxencoder.text.sources import field_names, fingerprint, is_files
from jaxencoder.text.sources.files import find_files, relative_names


class Part(NamedTuple):
    """Consecutive records of a file, which become a shard."""

    file: SourceFile
    start: int
    stop: int
    shard: str  # name of the shard's file
    content: str | None = None  # of a shard that may be valid: the digest of the records that it was made of

    @property
    def size(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Plan:
    """The parts of the input in order, and the columns of ids and kept fields."""

    parts: tuple[Part, ...]
    config: BulkConfig  # with the id_field that is used, "" for ids that are made
    schema: pa.Schema

    @property
    def records(self) -> int:
        return sum(part.size for part in self.parts)


def make_plan(source: str, config: BulkConfig) -> Plan:
    """Divide the records into parts; see `Scan` for what is read to know them.

    Raises:
        ValueError: the input is empty, a field is missing or of the wrong type, or two records have the same id.
        OSError: the input cannot be read.
    """
    names = field_names(source, config.text_field)
    if config.id_field is None:
        config = replace(config, id_field=ID if ID in names else "")
    files, scan = source_files(source), Scan(config)
    sizes = [scan.add(file) for file in files]
    scan.check_ids(files)
    parts = (divide(file, size, config.shard_records) for file, size in zip(files, sizes, strict=True))
    return Plan(tuple(itertools.chain.from_iterable(parts)), config, scan.schema)


def source_files(source: str) -> list[SourceFile]:
    """The files of a source, sorted; a source that is no file, folder or glob is taken as one file."""
    if not is_files(source):
        return [SourceFile(source, source, fingerprint(source))]
    paths = find_files(source)
    names = relative_names(source, paths)
    return [SourceFile(path, name, fingerprint(path)) for path, name in zip(paths, names, strict=True)]


def divide(file: SourceFile, size: int, shard_records: int) -> Iterator[Part]:
    """The parts of a file of `size` records; a shard keeps its name while the file grows."""
    stem = re.sub(r"[^A-Za-z0-9]+", "-", PurePosixPath(file.name).name.partition(".")[0])[:40].strip("-")
    digest = hashlib.sha256(file.name.encode()).hexdigest()[:8]  # names may differ in their folders alone
    for number, start in enumerate(range(0, size, shard_records)):
        shard = "-".join(filter(None, ("part", stem, digest, f"{number:06}.parquet")))
        yield Part(file, start, min(start + shard_records, size), shard)
