"""Files found, opened and decompressed in bounded memory, on any file system that fsspec knows.

Plain or .gz, .xz or .zst; what is in them, `formats` knows. Remote paths: filesystem-spec.readthedocs.io.
"""

import contextlib
import gzip
import hashlib
import io
import itertools
import lzma
import os
import zlib
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from jaxencoder.text import formats
from jaxencoder.text.formats import KINDS, Record, Unit, every_line, listed, sentence, utf8

COMPRESSIONS = (".gz", ".xz", ".zst")
_BUFFER = 1 << 20  # bytes
_DIGESTED = 1 << 30  # bytes: about a second of reading


def find(source: str) -> list[str]:
    """The files of a path, glob or folder (searched to its depth), sorted; of a folder only those that can be read.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: an extension that is not known, a folder without a readable file, or a file system not known.
    """
    if not source:
        raise ValueError("a source is empty; name pydocs, tfds:NAME/CONFIG:SPLIT, or a file, glob or folder")
    fs, inner = _filesystem(source)
    fs.invalidate_cache()  # a listing remembered from before would hide files written since
    with _one_sentence(source):
        if fs.isdir(inner):
            found = [path for path in fs.find(inner) if not _hidden(path, inner) and _kind(path)[0] in KINDS]
            if not found:
                raise ValueError(f"folder {source} holds no {listed(KINDS)} file, plain or {listed(COMPRESSIONS)}")
        elif fs.exists(inner):
            found = [inner]
        elif any(letter in source for letter in "*?["):
            found = [path for path, info in fs.glob(inner, detail=True).items() if info["type"] != "directory"]
            if not found:
                raise FileNotFoundError(f"no file matches {source}")
        else:
            hint = "" if os.sep in source else "; other sources are pydocs and tfds:NAME/CONFIG:SPLIT"
            raise FileNotFoundError(f"no such file or folder: {source}{hint}")
    for path in found:
        if _kind(path)[0] not in KINDS:
            raise ValueError(f"{path}: unknown extension; write {listed(KINDS)}, plain or with {listed(COMPRESSIONS)}")
    return sorted(fs.unstrip_protocol(path) if "://" in source else path for path in found)


def identity(path: str) -> list[str]:
    """What changes when the content of a file does: its path, its size, and its ETag or time of change."""
    fs, inner = _filesystem(path)
    with _one_sentence(path):
        info = fs.info(inner)
    keys = ("size", "ETag", "etag", "md5Hash", "mtime", "LastModified", "last_modified", "created")
    changes = [f"{key}={info[key]}" for key in keys if info.get(key) is not None]
    return [path, *changes[:2]]


def contents(paths: Sequence[str]) -> list[str] | list[list[str]]:
    """What changes when the content of files does, and with nothing else, such as a copy or a touch.

    Remote files, and those of more than a GiB together, are not read: of these it is the identity of each.
    """
    if any("://" in path for path in paths):
        return [identity(path) for path in paths]
    inner = [_filesystem(path)[1] for path in paths]
    if sum(map(os.path.getsize, inner)) > _DIGESTED:
        return [identity(path) for path in paths]
    digests = []
    for path in inner:
        with open(path, "rb") as file:
            digests.append(hashlib.file_digest(file, "blake2b").hexdigest())
    return digests


def existing(path: str) -> str:
    """The path of one file, whatever its extension.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: a folder, or a file system not known.
    """
    fs, inner = _filesystem(path)
    with _one_sentence(path):
        if fs.isdir(inner):
            raise ValueError(f"{path} is a folder; name a file")
        if not fs.exists(inner):
            raise FileNotFoundError(f"no such file: {path}")
    return path


def _filesystem(path: str):
    """(fsspec file system, the path inside it)."""
    import fsspec

    if "://" not in path:  # not through url_to_fs, which gives "::" in a name a meaning
        return fsspec.filesystem("file"), os.path.abspath(os.path.expanduser(path))
    try:
        return fsspec.core.url_to_fs(path)
    except (ImportError, ValueError) as error:
        raise ValueError(f"{path}: {sentence(error)}") from error


def _kind(path: str) -> tuple[str, str]:
    """(".jsonl", ".gz") of "a/b.JSONL.gz"."""
    stem, last = os.path.splitext(path.lower())
    return (os.path.splitext(stem)[1], last) if last in COMPRESSIONS else (last, "")


def _hidden(path: str, root: str) -> bool:
    return any(part.startswith((".", "_")) for part in path.removeprefix(root).split("/"))


@contextlib.contextmanager
def _one_sentence(path: str) -> Iterator[None]:
    """The clients of remote file systems raise types of their own, for credentials or the network: now OSError."""
    try:
        yield
    except (OSError, ValueError):
        raise
    except Exception as error:
        if "://" not in path:
            raise
        raise OSError(f"{path} could not be read: {sentence(error)}") from error


@contextlib.contextmanager
def _open(path: str) -> Iterator[BinaryIO]:
    """The bytes of a file, decompressed on the way; damage becomes one sentence."""
    compression = _kind(path)[1]
    fs, inner = _filesystem(path)
    try:
        with _one_sentence(path), fs.open(inner, "rb") as raw:
            stream = raw
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
        if not compression or getattr(error, "errno", None) is not None:
            raise
        raise ValueError(f"{path} is damaged or cut short ({sentence(error)}); fetch or compress it again") from error


def units(path: str, text_field: str, text_unit: str) -> Iterator[Unit]:
    """The documents of one file in order; only for .txt is there a `text_unit`, and a `text_field` to fill."""
    kind, compression = _kind(path)
    with _open(path) as stream:
        yield from formats.units(kind, path, stream, not compression, text_field, text_unit)


def aligned_units(paths: tuple[str, str], fields: tuple[str, str]) -> Iterator[Unit]:
    """Line by line the texts of two files, under two fields; not where one of them is blank.

    Raises:
        ValueError: one file has more lines than the other.
    """

    def parse(lines: tuple[bytes, bytes], where: str) -> Record:
        number = where.rpartition(":")[2]
        return {f: utf8(line, f"{p}:{number}") for f, p, line in zip(fields, paths, lines, strict=True)}

    with _open(paths[0]) as first, _open(paths[1]) as second:
        lines = itertools.zip_longest(every_line(paths[0], first), every_line(paths[1], second))
        for number, pair in enumerate(lines, 1):
            if None in pair:
                shorter, longer = paths if pair[0] is None else paths[::-1]
                raise ValueError(
                    f"{shorter} ends after line {number - 1}, but {longer} goes on; "
                    "aligned files have the same text in each line"
                )
            if all(pair):
                yield Unit(f"{paths[0]}:{number}", pair, parse)
