"""Documents in files: found, opened, decompressed and parsed in bounded memory, on any file system that fsspec knows.

Formats: one JSON object a line (jsonlines.org), UTF-8 text and Parquet, plain or .gz, .xz or .zst. Remote paths:
filesystem-spec.readthedocs.io. Bytes that cannot be read are an error that says where, never a replacement character.
"""

import contextlib
import difflib
import gzip
import io
import itertools
import json
import lzma
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO, NamedTuple

Record = dict[str, Any]
TEXT_UNITS = ("line", "paragraph", "file")
KINDS = (".jsonl", ".json", ".txt", ".parquet")
COMPRESSIONS = (".gz", ".xz", ".zst")

# A longer document is taken for a damaged file: without a bound, one missing newline would fill the memory.
LONGEST_DOCUMENT = 1 << 28  # bytes
_BUFFER = 1 << 20  # bytes
_PARQUET_ROWS = 256
_BOM = b"\xef\xbb\xbf"  # what Windows editors put before UTF-8


class Unit(NamedTuple):
    """One document before it is decoded, so that a shard pays only for its own."""

    where: str
    raw: Any
    parse: Callable[[Any, str], Record]


def as_is(record: Record, where: str) -> Record:
    """The parser of what needs no parsing."""
    return record


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
    kind = _kind(path)[0]
    with _open(path) as stream:
        if kind == ".parquet":
            yield from _parquet_units(path, stream)
            return

        def text(raw: bytes, where: str) -> Record:
            return {text_field: utf8(raw, where)}

        split, parse = (_SPLITS[text_unit], text) if kind == ".txt" else (_lines, _json)
        for number, raw in split(path, stream):
            yield Unit(f"{path}:{number}", raw, parse)


def aligned_units(paths: tuple[str, str], fields: tuple[str, str]) -> Iterator[Unit]:
    """Line by line the texts of two files, under two fields; not where one of them is blank.

    Raises:
        ValueError: one file has more lines than the other.
    """

    def parse(lines: tuple[bytes, bytes], where: str) -> Record:
        number = where.rpartition(":")[2]
        return {f: utf8(line, f"{p}:{number}") for f, p, line in zip(fields, paths, lines, strict=True)}

    with _open(paths[0]) as first, _open(paths[1]) as second:
        lines = itertools.zip_longest(_every_line(paths[0], first), _every_line(paths[1], second))
        for number, pair in enumerate(lines, 1):
            if None in pair:
                shorter, longer = paths if pair[0] is None else paths[::-1]
                raise ValueError(
                    f"{shorter} ends after line {number - 1}, but {longer} goes on; "
                    "aligned files have the same text in each line"
                )
            if all(pair):
                yield Unit(f"{paths[0]}:{number}", pair, parse)


def _lines(path: str, stream: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """(number from 1, line without its end) of the lines that are not blank."""
    return ((number, line) for number, line in enumerate(_every_line(path, stream), 1) if line)


def _every_line(path: str, stream: BinaryIO) -> Iterator[bytes]:
    """The lines without their ends; those of spaces alone are empty."""
    for number in itertools.count(1):
        line = stream.readline(LONGEST_DOCUMENT + 1)
        _check_size(len(line), path, number)
        if not line:
            return
        yield (line.removeprefix(_BOM) if number == 1 else line).rstrip()


def _paragraphs(path: str, stream: BinaryIO) -> Iterator[tuple[int, bytes]]:
    start, lines, size = 0, [], 0
    for number, line in _lines(path, stream):
        if lines and number != start + len(lines):  # a blank line was passed over
            yield start, b"\n".join(lines)
            lines, size = [], 0
        if not lines:
            start = number
        lines.append(line)
        size += len(line) + 1
        _check_size(size, path, start)
    if lines:
        yield start, b"\n".join(lines)


def _whole(path: str, stream: BinaryIO) -> Iterator[tuple[int, bytes]]:
    text = stream.read(LONGEST_DOCUMENT + 1)
    _check_size(len(text), path, 1)
    if text.strip():
        yield 1, text.removeprefix(_BOM).rstrip()


_SPLITS = {"line": _lines, "paragraph": _paragraphs, "file": _whole}


def _check_size(size: int, path: str, number: int) -> None:
    if size > LONGEST_DOCUMENT:
        most = LONGEST_DOCUMENT >> 20
        raise ValueError(f"{path}:{number}: a document of more than {most} MiB; split it over several lines or files")


def utf8(raw: bytes, where: str) -> str:
    """The text, or a ValueError that names the line and column of the first byte that is not UTF-8."""
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        path, _, number = where.rpartition(":")
        if number.isdigit():  # a document of several lines: name the line of the byte
            line = int(number) + raw.count(b"\n", 0, error.start)
            where = f"{path}:{line}"
        column = error.start - raw.rfind(b"\n", 0, error.start)
        problem = f"byte 0x{raw[error.start]:02x} at column {column} is not UTF-8"
        raise ValueError(
            f"{where}: {problem}; convert the text (iconv -f latin1 -t utf-8) or drop the record"
        ) from None


def _json(raw: bytes, where: str) -> Record:
    text = utf8(raw, where)
    try:
        record = json.loads(text)
        if "\\ud" in text or "\\uD" in text:  # half of a surrogate pair can be written in JSON but not in UTF-8
            json.dumps(record, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{where}: {error.object[error.start]!a} is half a character and not UTF-8; drop it") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: not JSON ({sentence(error)}); write one object on each line") from None
    if not isinstance(record, dict):
        raise ValueError(f"{where}: a {type(record).__name__}, not a JSON object; write one object on each line")
    return record


def _parquet_units(path: str, stream: BinaryIO) -> Iterator[Unit]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with contextlib.ExitStack() as stack:
        if _kind(path)[1]:  # Parquet is read from its end, which a compressed stream cannot do
            whole = stack.enter_context(tempfile.TemporaryFile())
            shutil.copyfileobj(stream, whole, _BUFFER)
            stream = whole
        row = 0
        try:
            table = stack.enter_context(pq.ParquetFile(stream, buffer_size=_BUFFER, pre_buffer=False))
            for batch in table.iter_batches(_PARQUET_ROWS):
                names = batch.schema.names
                for values in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                    row += 1
                    yield Unit(f"{path} row {row}", dict(zip(names, values, strict=True)), as_is)
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: text after row {row} is not UTF-8 ({sentence(error)}); write it again") from None
        except (pa.ArrowException, OSError) as error:
            if getattr(error, "errno", None) is not None:
                raise
            raise ValueError(f"{path} is not a whole Parquet file ({sentence(error)}); fetch it again") from error


def listed(names: Iterable[str]) -> str:
    """Names for a message."""
    return ", ".join(names) or "none"


def closest(name: str, names: Iterable[str]) -> str:
    """The end of a message: which name was probably meant, or nothing."""
    near = difflib.get_close_matches(name, [str(n) for n in names], n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def sentence(error: BaseException) -> str:
    """The first line of a library's message, which may run to pages."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:300].rstrip(" .;:")
