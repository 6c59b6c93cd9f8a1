"""Files found, opened and decompressed in bounded memory, on any file system of fsspec.

Plain or compressed as .gz, .xz or .zst; `formats` parses them. Remote paths: filesystem-spec.readthedocs.io.
"""

import contextlib
import gzip
import hashlib
import io
import itertools
import lzma
import os
import re
import zlib
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from fsspec.utils import glob_translate

from jaxencoder.text.config import ALIGNED
from jaxencoder.text.messages import first_line, listed
from jaxencoder.text.sources import columns, formats
from jaxencoder.text.sources.class_names import ClassNames, check_same_names
from jaxencoder.text.sources.formats import Records, every_line, utf8

EXTENSIONS = (*formats.EXTENSIONS, *columns.EXTENSIONS)
COMPRESSIONS = (".gz", ".xz", ".zst")
_READABLE = f"{listed(EXTENSIONS)}, plain or with {listed(COMPRESSIONS)}"
_BUFFER = 1 << 20  # bytes
_PEEKED = 1 << 12  # bytes that tell a table from tagged words
_MAX_DIGESTED_BYTES = 1 << 30  # about a second of reading


def find_files(source: str) -> list[str]:
    """The files of a path, glob or folder, sorted; folders are searched recursively for readable extensions."""
    if not source:
        raise ValueError("a source is empty; name pydocs, tfds:NAME/CONFIG:SPLIT, or a file, glob or folder")
    fs, inner = filesystem(source)
    fs.invalidate_cache()  # an old listing would hide newer files
    with remote_errors(source):
        if fs.isdir(inner):
            # Names that begin with . or _, as those of temporary files do, are hidden.
            visible = (path for path in fs.find(inner) if not re.search(r"/[._]", "/" + path.removeprefix(inner)))
            paths = [path for path in visible if _extension(path)[0] in EXTENSIONS]
            if not paths:
                raise ValueError(f"folder {source} holds no file of {_READABLE}")
        elif fs.exists(inner):
            paths = [inner]
        elif any(letter in source for letter in "*?["):
            paths = [path for path, info in fs.glob(inner, detail=True).items() if info["type"] != "directory"]
            if not paths:
                raise FileNotFoundError(f"no file matches {source}")
        else:
            hint = "" if os.sep in source else "; other sources are pydocs and tfds:NAME/CONFIG:SPLIT"
            raise FileNotFoundError(f"no such file or folder: {source}{hint}")
    for path in paths:
        if _extension(path)[0] not in EXTENSIONS:
            raise ValueError(f"{path}: unknown extension; write {_READABLE}")
    return sorted(fs.unstrip_protocol(path) if "://" in source else path for path in paths)


def finds(source: str, path: str) -> bool:
    """Whether `find_files` of a folder or glob would find a readable file at this path, if it were there."""
    fs, pattern = filesystem(source)
    other, inner = filesystem(path)
    if type(fs) is not type(other):
        return False
    with remote_errors(source):
        if fs.isdir(pattern):
            return inner.startswith(pattern.rstrip("/") + "/")
    return re.fullmatch(glob_translate(pattern), inner) is not None


def aligned_files(source: str) -> tuple[str, str]:
    """The two files of a source aligned:FILE|FILE, whatever their extensions."""
    paths = source.removeprefix(ALIGNED).split("|")
    if len(paths) != 2 or not all(paths):
        raise ValueError(f"{source}: write {ALIGNED}FILE|FILE, two text files with the same number of lines")
    for path in paths:
        fs, inner = filesystem(path)
        with remote_errors(path):
            if fs.isdir(inner):
                raise ValueError(f"{path} is a folder; name a file")
            if not fs.exists(inner):
                raise FileNotFoundError(f"no such file: {path}")
    return paths[0], paths[1]


def file_version(path: str) -> list[str]:
    """A file's path, size, and ETag or time of change, which change when its content does."""
    fs, inner = filesystem(path)
    with remote_errors(path):
        info = fs.info(inner)
    # File systems differ in their keys; the first two, mostly the size and an ETag or a time, are enough.
    keys = ("size", "ETag", "etag", "md5Hash", "mtime", "LastModified", "last_modified", "created")
    values = [f"{key}={info[key]}" for key in keys if info.get(key) is not None]
    return [path, *values[:2]]


def content_digests(paths: Sequence[str]) -> list[str] | list[list[str]]:
    """A hash of each file's content, equal for copies: a list of strings.

    If a file is remote, or all together exceed a GiB, none is read: a list with the `file_version` of each instead.
    """
    inner = [filesystem(path)[1] for path in paths]
    if any("://" in path for path in paths) or sum(map(os.path.getsize, inner)) > _MAX_DIGESTED_BYTES:
        return [file_version(path) for path in paths]
    digests = []
    for path in inner:
        with open(path, "rb") as file:
            digests.append(hashlib.file_digest(file, "blake2b").hexdigest())
    return digests


def records(
    path: str, text_field: str, text_unit: str, fields: Collection[str] | None = None, start: int = 0
) -> Records:
    """The records of one file in order.

    Args:
        text_field, text_unit: of .txt files alone; see `formats.records`.
        fields: those that are used; of a Parquet file no others are read. None: all.
        start: skip this many records. Only a Parquet file is read from its middle.
    """
    extension, compression = _extension(path)
    with _open(path) as stream:
        if extension == ".parquet":
            yield from formats.parquet_records(path, stream, not compression, fields, start)
            return
        if extension in columns.EXTENSIONS or (extension == ".tsv" and columns.is_columns(stream.peek(_PEEKED))):
            located = columns.records(extension, path, stream)
        else:
            located = formats.records(extension, path, stream, text_field, text_unit)
        next(itertools.islice(located, start, start), None)
        yield from located  # which also closes it before its stream


def is_parquet(path: str) -> bool:
    """Whether a file is Parquet, which has a schema and can be read from its middle unless it is compressed again."""
    return _extension(path) == (".parquet", "")


def parquet_schema(path: str) -> tuple[int, Any]:
    """The number of rows of a Parquet file, and its pyarrow.Schema."""
    with _open(path) as stream:
        return formats.parquet_schema(path, stream, is_parquet(path))


def relative_names(source: str, paths: Sequence[str]) -> list[str]:
    """Names of the files that `find_files` has found: their paths from the folder of the source.

    The folder of a glob is the one before its first wildcard, and that of a file the one it is in.
    """
    fs, inner = filesystem(source)
    with remote_errors(source):
        if not fs.isdir(inner):
            inner = (inner if fs.exists(inner) else re.split(r"[*?[]", inner)[0]).rpartition("/")[0]
    return [os.path.relpath(filesystem(path)[1], inner or "/").replace(os.sep, "/") for path in paths]


def class_names(paths: Sequence[str]) -> ClassNames:
    """The class names in the metadata of Parquet files; ValueError if two disagree."""
    names: ClassNames = {}
    for path in paths:
        extension, compression = _extension(path)
        if extension == ".parquet":
            with _open(path) as stream:
                file_names = formats.parquet_class_names(path, stream, not compression)
            check_same_names(names, file_names, path)
            names |= file_names
    return names


def aligned_records(paths: tuple[str, str], fields: tuple[str, str]) -> Records:
    """The lines of two files as pairs, under two field names; pairs with a blank line are skipped."""
    with _open(paths[0]) as first, _open(paths[1]) as second:
        lines = itertools.zip_longest(every_line(paths[0], first), every_line(paths[1], second))
        for number, pair in enumerate(lines, 1):
            if None in pair:
                shorter, longer = paths if pair[0] is None else paths[::-1]
                problem = f"{shorter} ends after line {number - 1}, but {longer} goes on"
                raise ValueError(f"{problem}; aligned files have the same text in each line")
            if all(pair):
                places = [f"{path}:{number}" for path in paths]
                yield places[0], dict(zip(fields, map(utf8, pair, places), strict=True))


def filesystem(path: str) -> tuple[Any, str]:
    """(fsspec.AbstractFileSystem, the path inside it)."""
    import fsspec  # late, for it is slow to import

    if "://" not in path:  # url_to_fs would interpret "::" in a name
        return fsspec.filesystem("file"), os.path.abspath(os.path.expanduser(path))
    try:
        return fsspec.core.url_to_fs(path)
    except (ImportError, ValueError) as error:
        raise ValueError(f"{path}: {first_line(error)}") from error


def _extension(path: str) -> tuple[str, str]:
    """(".jsonl", ".gz") of "a/b.JSONL.gz"."""
    stem, last = os.path.splitext(path.lower())
    return (os.path.splitext(stem)[1], last) if last in COMPRESSIONS else (last, "")


@contextlib.contextmanager
def remote_errors(path: str, done: str = "read") -> Iterator[None]:
    """Raise OSError for the exceptions of remote clients, whose types are not those of Python."""
    try:
        yield
    except (OSError, ValueError):
        raise
    except Exception as error:
        if "://" not in path:
            raise
        raise OSError(f"{path} could not be {done}: {first_line(error)}") from error


@contextlib.contextmanager
def _open(path: str) -> Iterator[io.BufferedReader]:
    """The decompressed bytes of a file; a damaged file raises ValueError."""
    compression = _extension(path)[1]
    fs, inner = filesystem(path)
    try:
        with remote_errors(path), fs.open(inner, "rb") as raw:
            stream: Any = raw
            if compression == ".gz":
                stream = gzip.GzipFile(fileobj=raw)
            elif compression == ".xz":
                stream = lzma.LZMAFile(raw)  # noqa: SIM115 - closed with the buffer below
            elif compression == ".zst":
                import pyarrow as pa  # unlike zstandard's reader it reads every frame, and notices a missing end

                stream = pa.CompressedInputStream(pa.PythonFile(raw, "r"), "zstd")
            with io.BufferedReader(stream, _BUFFER) as buffered:
                yield buffered
    except (EOFError, zlib.error, lzma.LZMAError, OSError) as error:
        # Errors of the operating system have an errno, those of decompressors have none.
        if not compression or getattr(error, "errno", None) is not None:
            raise
        raise ValueError(f"{path} is damaged or truncated ({first_line(error)}); fetch or compress it again") from error


def source_names(sources: Sequence[str]) -> list[str]:
    """A short name for each source: that of its file or files, numbered if two are equal."""
    files = [source.removeprefix(ALIGNED).split("|") for source in sources]  # aligned texts have two
    names = ["-".join(Path(path).name.partition(".")[0] or path for path in paths) for paths in files]
    return [name if names.count(name) == 1 else f"{name}_{number}" for number, name in enumerate(names)]
