"""Documents and examples in the formats that they are published in, from an open stream to records.

Text, one JSON object a line (jsonlines.org) or one list of them, SQuAD's JSON (Rajpurkar et al. 2016,
arXiv:1606.05250), CSV (RFC 4180) and TSV, Parquet, the columns of CoNLL-2003 and CoNLL-U. Bytes that cannot be read are
an error that says where, never a replacement character.
"""

import contextlib
import csv
import difflib
import io
import itertools
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO, NamedTuple

Record = dict[str, Any]
TEXT_UNITS = ("line", "paragraph", "file")
KINDS = (".jsonl", ".json", ".txt", ".parquet", ".csv", ".tsv", ".conll", ".conllu")

# A longer document is taken for a damaged file: without a bound, one missing newline would fill the memory.
LONGEST_DOCUMENT = 1 << 28  # bytes
_BUFFER = 1 << 20  # bytes
_PARQUET_ROWS = 256
_BOM = b"\xef\xbb\xbf"  # what Windows editors put before UTF-8
_WHOLE_JSON = re.compile(rb'\s*(\[|\{\s*"(data|version)"\s*:)')  # how a file begins that is one value
_CONLLU = {"tokens": 1, "lemmas": 2, "upos": 3, "xpos": 4, "deprel": 7}  # of its ten columns


class Unit(NamedTuple):
    """One document before it is decoded, so that a shard pays only for its own."""

    where: str
    raw: Any
    parse: Callable[[Any, str], Record]


def as_is(record: Record, where: str) -> Record:
    """The parser of what needs no parsing."""
    return record


def units(kind: str, path: str, stream: BinaryIO, seekable: bool, text_field: str, text_unit: str) -> Iterator[Unit]:
    """The documents of a stream in order.

    Args:
        kind: one of KINDS.
        path: for messages.
        stream: buffered bytes; of Parquet, `seekable` or copied.
        text_field: of text, the field to fill.
        text_unit: of text, what a document is: see TEXT_UNITS.

    Raises:
        ValueError: what cannot be read, with its place.
    """
    if kind in _READERS:
        yield from _READERS[kind](path, stream)
    elif kind == ".parquet":
        yield from _parquet_units(path, stream, seekable)
    elif kind == ".txt":
        for number, raw in _SPLITS[text_unit](path, stream):
            yield Unit(f"{path}:{number}", raw, lambda raw, where: {text_field: utf8(raw, where)})
    else:
        yield from _json_lines(path, stream)


def _lines(path: str, stream: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """(number from 1, line without its end) of the lines that are not blank."""
    return ((number, line) for number, line in enumerate(every_line(path, stream), 1) if line)


def every_line(path: str, stream: BinaryIO) -> Iterator[bytes]:
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


def _json_lines(path: str, stream: BinaryIO) -> Iterator[Unit]:
    for number, raw in _lines(path, stream):
        yield Unit(f"{path}:{number}", raw, _json)


def _json_units(path: str, stream: BinaryIO) -> Iterator[Unit]:
    """Of a .json file: a list of records, SQuAD's nest of them, or one record a line after all."""
    if not _WHOLE_JSON.match(stream.peek(256)[:256].removeprefix(_BOM)):
        yield from _json_lines(path, stream)
        return
    raw = stream.read(LONGEST_DOCUMENT + 1)
    _check_size(len(raw), path, 1)
    try:
        text = utf8(raw.removeprefix(_BOM), f"{path}:1")
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        if b"\n" not in raw.strip() or isinstance(error, RecursionError) or "UTF-8" in str(error):
            raise ValueError(f"{path}: not JSON ({sentence(error)}); fetch it again") from None
        yield from _json_lines(path, io.BytesIO(raw))
        return
    nest = found if isinstance(found, list) else found.get("data")
    records = nest if isinstance(nest, list) else [found]  # "data" may be a field like others
    parse = _whole_characters if _may_hold_halves(text) else as_is
    for number, record in enumerate(records, 1):
        where = f"{path}, record {number}"
        if not isinstance(record, dict):
            raise ValueError(f"{where}: {type(record).__name__}, not a JSON object; give a list of objects")
        if isinstance(record.get("paragraphs"), list):
            yield from _squad_units(where, record, parse)
        else:
            yield Unit(where, record, parse)


def _squad_units(where: str, article: Record, parse: Callable[[Record, str], Record]) -> Iterator[Unit]:
    """The questions of an article, with the fields that TFDS gives them."""
    try:
        for paragraph in article["paragraphs"]:
            for question in paragraph["qas"]:
                answers = question.get("answers") or []
                record = {
                    "id": str(question.get("id", "")),
                    "title": article.get("title", ""),
                    "context": paragraph["context"],
                    "question": question["question"],
                    "answers": {name: [answer[name] for answer in answers] for name in ("text", "answer_start")},
                }
                yield Unit(f"{where}, question {record['id'] or record['question'][:40]!r}", record, parse)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{where} is not as SQuAD has it ({type(error).__name__}: {error})") from None


def _csv_units(path: str, stream: BinaryIO) -> Iterator[Unit]:
    yield from _separated(path, stream, delimiter=",")


def _tsv_units(path: str, stream: BinaryIO) -> Iterator[Unit]:
    yield from _separated(path, stream, delimiter="\t", quoting=csv.QUOTE_NONE)


def _separated(path: str, stream: BinaryIO, **dialect: Any) -> Iterator[Unit]:
    """The lines below one with the names of the columns; of TSV, quotation marks are characters like others."""
    csv.field_size_limit(LONGEST_DOCUMENT)
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")
    rows = csv.reader(text, strict=True, **dialect)
    try:
        names = next(rows, [])
        if len(set(names)) < len(names) or not all(names):
            raise ValueError(f"{path}:1: the columns are {listed(names)}; give each a name of its own")
        for row in filter(None, rows):
            where = f"{path}:{rows.line_num}"
            if len(row) != len(names):
                raise ValueError(f"{where}: {len(row)} columns, but {len(names)} names in the first line")
            yield Unit(where, dict(zip(names, row, strict=True)), as_is)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: text after line {rows.line_num} is not UTF-8 ({sentence(error)}); convert it"
        ) from None
    except csv.Error as error:
        raise ValueError(f"{path}:{rows.line_num}: not CSV ({sentence(error)})") from None
    finally:
        text.detach()  # whoever opened the stream closes it


def _conll_units(path: str, stream: BinaryIO) -> Iterator[Unit]:
    """Sentences of lines with a token first and its tag last, between blank lines."""
    for where, rows in _sentences(path, stream, None, b"# id "):  # MultiCoNER's line before a sentence
        rows = [row for row in rows if row[0] != "-DOCSTART-"]
        if rows:
            yield Unit(where, {"tokens": [row[0] for row in rows], "ner_tags": [row[-1] for row in rows]}, as_is)


def _conllu_units(path: str, stream: BinaryIO) -> Iterator[Unit]:
    """Sentences of Universal Dependencies: their words, without the spans of joined ones and the empty nodes."""
    for where, rows in _sentences(path, stream, b"\t", b"#"):
        words = [row for row in rows if row[0].isdigit()]
        if any(len(row) != 10 for row in words):
            raise ValueError(f"{where}: a line does not have the ten columns of CoNLL-U")
        if words:
            yield Unit(where, {name: [row[column] for row in words] for name, column in _CONLLU.items()}, as_is)


def _sentences(
    path: str, stream: BinaryIO, separator: bytes | None = None, comment: bytes | None = None
) -> Iterator[tuple[str, list[list[str]]]]:
    """(place, columns of each line) of every sentence."""
    for number, raw in _paragraphs(path, stream):
        rows = []
        for offset, line in enumerate(raw.split(b"\n")):
            where = f"{path}:{number + offset}"
            if comment and line.startswith(comment):
                continue
            row = [utf8(column, where) for column in line.split(separator)]  # bytes part at ASCII spaces alone
            if len(row) < 2:
                raise ValueError(f"{where}: one column, {row[0]!r}; give a token and its tag on each line")
            rows.append(row)
        if rows:
            yield f"{path}:{number}", rows


def _json(raw: bytes, where: str) -> Record:
    text = utf8(raw, where)
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: not JSON ({sentence(error)}); write one object on each line") from None
    if not isinstance(record, dict):
        raise ValueError(f"{where}: a {type(record).__name__}, not a JSON object; write one object on each line")
    return _whole_characters(record, where) if _may_hold_halves(text) else record


def _may_hold_halves(text: str) -> bool:
    """Whether JSON can hold half of a surrogate pair, which can be written there but not in UTF-8."""
    return "\\ud" in text or "\\uD" in text


def _whole_characters(record: Record, where: str) -> Record:
    """A record without half characters, or a ValueError."""
    try:
        json.dumps(record, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{where}: {error.object[error.start]!a} is half a character and not UTF-8; drop it") from None
    return record


def _parquet_units(path: str, stream: BinaryIO, seekable: bool) -> Iterator[Unit]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with contextlib.ExitStack() as stack:
        if not seekable:  # Parquet is read from its end, which a compressed stream cannot do
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


_READERS = {
    ".json": _json_units,
    ".csv": _csv_units,
    ".tsv": _tsv_units,
    ".conll": _conll_units,
    ".conllu": _conllu_units,
}


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
