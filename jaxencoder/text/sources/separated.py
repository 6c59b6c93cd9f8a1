"""Tables of CSV (RFC 4180) and TSV files as spreadsheets, pandas and published data sets write them.

The beginning of a file decides what the formats leave open: the encoding, the separator, and how fields are quoted.
"""

import codecs
import csv
import io
import re
from collections.abc import Iterator, Sequence
from typing import Any

from jaxencoder.text.messages import first_line, listed

_MAX_FIELD = 1 << 28  # characters
_SAMPLE = 1 << 20  # bytes of the beginning
_OTHER_SEPARATORS = ";\t|"  # of CSV whose header has no comma; spreadsheets write ; where the comma is decimal
_ESCAPED = re.compile(r"\\.", re.DOTALL)
_ENCLOSED = re.compile(r'"(?:[^"\\]++|""|\\"?)*"')  # quotes within are doubled or escaped
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)

Dialect = dict[str, Any]  # options of `csv.reader`


def records(path: str, stream: io.BufferedReader, separator: str) -> Iterator[tuple[str, dict[str, str]]]:
    """The rows below a header of column names, each with its place for messages.

    Columns without a name are left out if they are the first one, pandas' index, or empty. ValueError, which names the
    line, for what cannot be read.
    """
    csv.field_size_limit(_MAX_FIELD)
    beginning = stream.peek(_SAMPLE)[:_SAMPLE]
    encoding = "utf-16" if beginning.startswith(_UTF16) else "utf-8-sig"
    sample = beginning.decode(encoding, errors="ignore")
    text = io.TextIOWrapper(stream, encoding=encoding, newline="")
    first, is_tsv = 0, separator == "\t"
    if sample.startswith("sep="):  # a line that spreadsheets read as a setting
        first, separator = 1, text.readline().rstrip("\r\n").removeprefix("sep=") or separator
        sample = sample.partition("\n")[2]
    rows = csv.reader(text, **_dialect(sample, separator, is_tsv))
    try:
        yield from _records(path, rows, first)
    except UnicodeDecodeError as error:
        name = "UTF-16" if encoding == "utf-16" else "UTF-8"
        problem = f"text after line {rows.line_num + first} is not {name} ({first_line(error)})"
        raise ValueError(f"{path}: {problem}; convert it") from None
    except csv.Error as error:
        raise ValueError(f"{path}:{rows.line_num + first}: not CSV ({first_line(error)})") from None
    finally:
        text.detach()  # leaves closing the stream to its owner


def _records(path: str, rows: Any, first: int) -> Iterator[tuple[str, dict[str, str]]]:
    names = [name.strip() for name in next(rows, [])]
    named = [i for i, name in enumerate(names) if name]
    unnamed = [i for i, name in enumerate(names) if not name and i > 0]
    if len({names[i] for i in named}) < len(named) or (names and not named):
        raise ValueError(f"{path}:{first + 1}: the columns are {listed(names)}; give each a different name")
    for row in filter(None, rows):
        where = f"{path}:{rows.line_num + first}"
        if len(row) != len(names):
            raise ValueError(f"{where}: {len(row)} columns, but {len(names)} names in the first line")
        if row == names:
            raise ValueError(f"{where}: the names of the columns again; two files were joined, leave this line out")
        if filled := [row[i] for i in unnamed if row[i]]:
            raise ValueError(f"{where}: {filled[0][:40]!r} is in a column without a name; give the column one")
        yield where, {names[i]: row[i] for i in named}


def _dialect(sample: str, separator: str, is_tsv: bool) -> Dialect:
    """Options of `csv.reader` for a file that begins with this text."""
    header = sample.partition("\n")[0]
    if separator == "," and "," not in header:
        separator = next((other for other in _OTHER_SEPARATORS if other in header), separator)
    doubled: Dialect = {"delimiter": separator, "strict": True}
    raw = doubled | {"quoting": csv.QUOTE_NONE}
    quoted, rows = doubled, _parsed(sample, doubled)
    if '\\"' in sample:
        # With doublequote=False, csv accepts text after a closing quote, so that escapes would fit nearly any file.
        unescaped = _parsed(_ESCAPED.sub("__", sample), doubled)
        if _is_table(unescaped) and len(unescaped) >= len(rows):
            quoted, rows = doubled | {"escapechar": "\\", "doublequote": False}, unescaped
    return raw if separator == "\t" and not _is_quoted(rows, _parsed(sample, raw), is_tsv) else quoted


def _is_quoted(rows: Sequence[Sequence[str]], lines: Sequence[Sequence[str]], is_tsv: bool) -> bool:
    """Whether quotes enclose fields separated by tabs; in TSV they are mostly ordinary characters, in CSV they are not.

    `rows` are those of a sample if quotes enclose fields, `lines` those with quotes as characters.
    """
    if not _is_table(rows) or not _is_table(lines):
        return _is_table(rows)
    if 2 * len(rows) < len(lines):  # an ordinary quote encloses the following lines
        return False
    if not is_tsv:
        return True
    # pandas can enclose all texts of a column. Where only some are enclosed, as in GLUE's QQP, the published texts keep
    # the quotes.
    columns = list(zip(*lines[1:], strict=True))
    return len(lines) > 2 and any(all(map(_ENCLOSED.fullmatch, column)) for column in columns)


def _parsed(sample: str, dialect: Dialect) -> list[list[str]]:
    """The complete rows of a sample; none if the dialect does not fit."""
    lines = io.StringIO(sample[: sample.rfind("\n") + 1] or sample, newline="")
    reader, rows = csv.reader(lines, **dialect), []
    try:
        rows.extend(filter(None, reader))
    except csv.Error as error:
        if "unexpected end" not in str(error):  # of the sample, within a field
            return []
    return rows


def _is_table(rows: Sequence[Sequence[str]]) -> bool:
    return bool(rows) and len(set(map(len, rows))) == 1
