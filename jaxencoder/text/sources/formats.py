"""Records of files in published formats: from an open stream to dictionaries.

Text, JSON Lines (jsonlines.org), JSON lists, SQuAD's JSON (Rajpurkar et al. 2016, arXiv:1606.05250), CSV (RFC 4180),
TSV and Parquet; `columns` has words with tags. Bytes that cannot be decoded raise an error that names the line; they
never become replacement characters.
"""

import contextlib
import io
import itertools
import json
import re
import shutil
import tempfile
from collections.abc import Collection, Iterator
from functools import partial
from typing import Any, BinaryIO

from jaxencoder.text.messages import first_line
from jaxencoder.text.sources import separated
from jaxencoder.text.sources.class_names import ClassNames, schema_class_names

Record = dict[str, Any]
Records = Iterator[tuple[str, Record]]  # each with its place for messages
TEXT_UNITS = ("line", "paragraph", "file")
EXTENSIONS = (".jsonl", ".json", ".txt", ".parquet", ".csv", ".tsv")

MAX_DOCUMENT_BYTES = 1 << 28  # a longer document means a damaged file: one missing newline would fill the memory
_BUFFER = 1 << 20  # bytes
_PARQUET_ROWS = 256
_BOM = b"\xef\xbb\xbf"  # written before UTF-8 by Windows editors
_ONE_JSON_VALUE = re.compile(rb'\s*(\[|\{\s*"(data|version)"\s*:)')  # the beginning of a file that is one value
_SURROGATE = re.compile(r"\\u[dD]")  # half of a surrogate pair, which JSON can write and UTF-8 cannot


def records(extension: str, path: str, stream: io.BufferedReader, text_field: str, text_unit: str) -> Records:
    """The records of a stream in order; ValueError, which names the line, for one that cannot be read.

    Args:
        extension, path: one of EXTENSIONS but Parquet's, and the name for messages.
        text_field, text_unit: of .txt files, the field of a text and what one document is (TEXT_UNITS).
    """
    if extension in _READERS:
        yield from _READERS[extension](path, stream)
    else:
        for number, raw in _SPLITS[text_unit](path, stream):
            where = f"{path}:{number}"
            yield where, {text_field: utf8(raw, where)}


def every_line(path: str, stream: BinaryIO) -> Iterator[bytes]:
    """Lines without their ends; blank lines are empty."""
    for number in itertools.count(1):
        if not (line := stream.readline(MAX_DOCUMENT_BYTES + 1)):
            return
        _check_size(len(line), path, number)
        yield (line.removeprefix(_BOM) if number == 1 else line).rstrip()


def _lines(path: str, stream: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """(number from 1, line without its end) of the lines that are not blank."""
    return ((number, line) for number, line in enumerate(every_line(path, stream), 1) if line)


def paragraphs(path: str, stream: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """(number of the first line, lines joined) of the lines between blank ones."""
    numbered = enumerate(every_line(path, stream), 1)
    for has_text, group in itertools.groupby(numbered, lambda item: item[1] != b""):
        start, lines, size = 0, [], 0
        for number, line in group if has_text else ():
            start, size = start or number, size + len(line) + 1
            _check_size(size, path, start)
            lines.append(line)
        if lines:
            yield start, b"\n".join(lines)


def _read_all(path: str, stream: BinaryIO) -> bytes:
    content = stream.read(MAX_DOCUMENT_BYTES + 1)
    _check_size(len(content), path, 1)
    return content.removeprefix(_BOM)


def _file(path: str, stream: BinaryIO) -> Iterator[tuple[int, bytes]]:
    if text := _read_all(path, stream).rstrip():
        yield 1, text


_SPLITS = {"line": _lines, "paragraph": paragraphs, "file": _file}


def _check_size(size: int, path: str, number: int) -> None:
    if size > MAX_DOCUMENT_BYTES:
        problem = f"a document of more than {MAX_DOCUMENT_BYTES >> 20} MiB"
        raise ValueError(f"{path}:{number}: {problem}; split it over several lines or files")


def utf8(raw: bytes, where: str) -> str:
    """Decode a text; ValueError names the line and column of the first byte that is not UTF-8."""
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        path, _, number = where.rpartition(":")
        if number.isdigit():  # `where` names the first line of the document
            line = int(number) + raw.count(b"\n", 0, error.start)
            where = f"{path}:{line}"
        column = error.start - raw.rfind(b"\n", 0, error.start)
        problem = f"{where}: byte 0x{raw[error.start]:02x} at column {column} is not UTF-8"
        raise ValueError(f"{problem}; convert the text (iconv -f latin1 -t utf-8) or drop the record") from None


def json_lines(path: str, stream: BinaryIO) -> Records:
    """The records of JSON Lines, each with its place for messages; blank lines are none."""
    for number, raw in _lines(path, stream):
        where = f"{path}:{number}"
        text = utf8(raw, where)
        try:
            record = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{where}: not JSON ({first_line(error)}); write one object on each line") from None
        if not isinstance(record, dict):
            raise ValueError(f"{where}: {type(record).__name__}, not a JSON object; write one object on each line")
        if _SURROGATE.search(text):
            _check_surrogates(where, record)
        yield where, record


def _check_surrogates(where: str, record: Record) -> None:
    try:
        json.dumps(record, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{where}: {error.object[error.start]!a} is half a character and not UTF-8; drop it") from None


def _json(path: str, stream: io.BufferedReader) -> Records:
    """A .json file: a list of records, SQuAD's nested lists, or JSON Lines after all."""
    if not _ONE_JSON_VALUE.match(stream.peek(256)[:256].removeprefix(_BOM)):
        yield from json_lines(path, stream)
        return
    raw = _read_all(path, stream)
    try:
        text = utf8(raw, f"{path}:1")
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        if b"\n" not in raw.strip() or isinstance(error, RecursionError) or "UTF-8" in str(error):
            raise ValueError(f"{path}: not JSON ({first_line(error)}); fetch it again") from None
        yield from json_lines(path, io.BytesIO(raw))
        return
    nested = value if isinstance(value, list) else value.get("data")
    items = nested if isinstance(nested, list) else [value]  # "data" may be an ordinary field
    has_surrogates = _SURROGATE.search(text)
    for number, record in enumerate(items, 1):
        where = f"{path}, record {number}"
        if not isinstance(record, dict):
            raise ValueError(f"{where}: {type(record).__name__}, not a JSON object; give a list of objects")
        is_article = isinstance(record.get("paragraphs"), list)
        for located in _squad(where, record) if is_article else [(where, record)]:
            if has_surrogates:
                _check_surrogates(*located)
            yield located


def _squad(where: str, article: Record) -> Records:
    """The questions of an article, with the field names of TFDS; "is_impossible" stays where SQuAD 2.0 has it."""
    try:
        for paragraph in article["paragraphs"]:
            for question in paragraph["qas"]:
                answers = question.get("answers") or []
                if isinstance(answers, list) and all(isinstance(answer, dict) for answer in answers):
                    answers = {name: [answer.get(name) for answer in answers] for name in ("text", "answer_start")}
                record = {
                    "id": str(question.get("id", "")),
                    "title": article.get("title", ""),
                    "context": paragraph["context"],
                    "question": question["question"],
                    "answers": answers,
                }
                if "is_impossible" in question:
                    record["is_impossible"] = question["is_impossible"]
                yield f"{where}, question {record['id'] or record['question'][:40]!r}", record
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{where} does not have SQuAD's structure ({type(error).__name__}: {error})") from None


@contextlib.contextmanager
def _parquet_file(path: str, stream: BinaryIO, seekable: bool) -> Iterator[Any]:
    """An open pyarrow.parquet.ParquetFile; ValueError for a damaged file."""
    import pyarrow as pa  # late, for it is slow to import
    import pyarrow.parquet as pq

    with contextlib.ExitStack() as stack:
        if not seekable:  # Parquet is read from its end
            copy = stack.enter_context(tempfile.TemporaryFile())
            shutil.copyfileobj(stream, copy, _BUFFER)
            stream = copy
        try:
            yield stack.enter_context(pq.ParquetFile(stream, buffer_size=_BUFFER, pre_buffer=False))
        except (pa.ArrowException, OSError) as error:
            if getattr(error, "errno", None) is not None:
                raise
            raise ValueError(f"{path} is not a complete Parquet file ({first_line(error)}); fetch it again") from error


def parquet_class_names(path: str, stream: BinaryIO, seekable: bool) -> ClassNames:
    """The class names in a Parquet file's metadata."""
    with _parquet_file(path, stream, seekable) as table:
        return schema_class_names(table.schema_arrow.metadata)


def parquet_schema(path: str, stream: BinaryIO, seekable: bool) -> tuple[int, Any]:
    """The number of rows of a Parquet file, and its pyarrow.Schema."""
    with _parquet_file(path, stream, seekable) as table:
        return table.metadata.num_rows, table.schema_arrow


def parquet_records(
    path: str, stream: BinaryIO, seekable: bool, fields: Collection[str] | None = None, start: int = 0
) -> Records:
    """The rows of a Parquet file in order.

    Args:
        seekable: the file is copied first if its stream is not seekable.
        fields: read these columns alone if the file has all of them, or else all, which a message can name.
        start: skip this many rows, without reading the row groups before them.
    """
    with _parquet_file(path, stream, seekable) as table:
        has_all = fields is not None and set(fields) <= set(table.schema_arrow.names)
        columns = list(fields or ()) if has_all else None
        group, row = 0, start
        while group < table.num_row_groups and start >= (size := table.metadata.row_group(group).num_rows):
            group, start = group + 1, start - size
        groups = range(group, table.num_row_groups)
        try:
            for batch in table.iter_batches(_PARQUET_ROWS, groups, columns):
                skipped = min(start, batch.num_rows)
                start, batch = start - skipped, batch.slice(skipped)
                names = batch.schema.names
                for values in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                    row += 1
                    yield f"{path} row {row}", dict(zip(names, values, strict=True))
        except UnicodeDecodeError as error:
            problem = f"text after row {row} is not UTF-8 ({first_line(error)})"
            raise ValueError(f"{path}: {problem}; write it again") from None


_READERS = {
    ".jsonl": json_lines,
    ".json": _json,
    ".csv": partial(separated.records, separator=","),
    ".tsv": partial(separated.records, separator="\t"),
}
