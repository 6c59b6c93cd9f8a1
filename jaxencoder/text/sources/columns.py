"""Words with tags in columns: a word on each line, and a blank line between sentences.

Columns are separated by tabs if the first line has one, and then words may hold spaces; else by spaces. All lines have
as many. The first sentences of a file tell its layout, which decides the columns of words and tags:

    CoNLL-2000, 2002, 2003, WNUT 17    the word first, its tag last
    GermEval 2014, UniversalNER        the word's number, the word, then columns of tags: ner_tags, inner_tags
    CoNLL-2012 (OntoNotes)             columns 4, 5 and 11: word, part of speech, names in parentheses, given as BIO
    CoNLL-U, CoNLL-U Plus, CoNLL-X     ten columns, or those of "# global.columns ="; universaldependencies.org/format

Tags are in another column than the last one if that is a placeholder, or if the first of two holds tags such as B-PER.
All other columns are the fields column_2, column_3 and so on. Lines of -DOCSTART-, comments, multiword tokens ("1-2"),
empty nodes ("1.1") and words without text are left out.
"""

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import BinaryIO, NamedTuple

from jaxencoder.text.messages import listed
from jaxencoder.text.sources.formats import Records, paragraphs, utf8

EXTENSIONS = (".conll", ".conllu")

_TOKENS, _TAGS, _INNER_TAGS = "tokens", "ner_tags", "inner_tags"
_CONLLU = ("", _TOKENS, "lemmas", "upos", "xpos", "", "", "deprel", "", "")  # columns without a name are left out
_CONLLU_PLUS = {"ID": "", "FORM": _TOKENS, "LEMMA": "lemmas", "UPOS": "upos", "XPOS": "xpos", "DEPREL": "deprel"}
_ONTONOTES = ("", "", "", _TOKENS, "pos_tags", "", "", "", "", "", _TAGS)  # predicates and coreference follow
_FIRST_SENTENCES = 100  # they tell the layout

_DOCUMENT_START = b"-DOCSTART-"
_GLOBAL_COLUMNS = re.compile(rb"# *global\.columns *= *(.+)")
# Comments in a file whose words may begin with "#": of MultiCoNER, CoNLL-2012 and CoNLL-U.
_COMMENT = re.compile(rb"#( id |(begin|end) document| ?[\w.:]+( [\w.:]+)* =( |$))")
_TAG = re.compile(r"O|[BIESLUMW][-_]\S+", re.IGNORECASE)
_ID = re.compile(r"\d+([-.]\d+)?")
# The first lines of a .tsv file without names of columns: GermEval's comment, or rows whose last column is a tag. One
# such row that is no sentence may hold the names of a table's columns: "name" and "E-mail".
_TAG_LAST = rb"([^\t\r\n]*\t)+(O|[BIES]-[\w-]+)(\r?\n|\Z)"
_TAGGED_ROWS = re.compile(rb"(\xef\xbb\xbf)?(#[^\n]*\n1\t|(?!\t)" + _TAG_LAST + rb"(\r?\n|\Z|" + _TAG_LAST + rb"))")

_Lines = list[tuple[str, bytes]]  # (place for messages, line)
_Rows = list[tuple[str, list[str]]]  # (place for messages, columns)


class _Layout(NamedTuple):
    """How the lines of a file are read."""

    separator: bytes | None  # None: spaces and tabs
    names: tuple[str, ...]  # fields of the columns
    is_numbered: bool = False  # the first column has numbers; then no word begins with "#"
    is_ontonotes: bool = False  # sentences differ in their columns, and names are in parentheses


def is_columns(first_bytes: bytes) -> bool:
    """Whether a .tsv file surely holds words with tags rather than a table with names of columns."""
    return _TAGGED_ROWS.match(first_bytes) is not None


def records(extension: str, path: str, stream: BinaryIO) -> Records:
    """The sentences of a file; ValueError, which names the line, for one that has more or fewer columns."""
    sentences = (
        [(f"{path}:{number + i}", line) for i, line in enumerate(raw.split(b"\n"))]
        for number, raw in paragraphs(path, stream)
    )
    first = list(itertools.islice(sentences, _FIRST_SENTENCES))
    layout = _find_layout(extension, first)
    token = layout.names.index(_TOKENS)
    for lines in itertools.chain(first, sentences):
        rows = _check_rows(list(_rows(lines, layout.separator, layout.is_numbered)), layout)
        words = [cells for _, cells in rows if cells[token].strip()]
        if layout.is_numbered:
            words = [cells for cells in words if cells[0].isdecimal()]
        if not words:
            continue
        record = {name: [cells[i] for cells in words] for i, name in enumerate(layout.names) if name}
        if layout.is_ontonotes:
            record[_TAGS] = _bio_of_parentheses(record[_TAGS])
        yield rows[0][0], record


def _rows(
    lines: Iterable[tuple[str, bytes]], separator: bytes | None, is_numbered: bool
) -> Iterator[tuple[str, list[str]]]:
    """(place, columns) of each line that is neither a comment nor the start of a document."""
    for where, line in lines:
        if line.startswith(b"#"):
            is_text = separator is not None and separator not in line and line[:2] in (b"#", b"# ")
            if is_numbered or is_text or _COMMENT.match(line):
                continue
        if line.startswith(_DOCUMENT_START) and line.split()[0] == _DOCUMENT_START:
            continue
        # Bytes split at ASCII spaces only.
        yield where, utf8(b"\t".join(line.split()) if separator is None else line, where).split("\t")


def _check_rows(rows: _Rows, layout: _Layout) -> _Rows:
    """Return the rows of a sentence; ValueError unless each has all columns."""
    count = len(rows[0][1]) if rows and layout.is_ontonotes else len(layout.names)
    for where, cells in rows:
        if len(cells) < 2:
            raise ValueError(f"{where}: one column, {cells[0][:40]!r}; give a token and its tag on each line")
        if len(cells) != count:
            advice = "give each line as many" if layout.separator else "separate them by tabs if words hold spaces"
            raise ValueError(f"{where}: {len(cells)} columns, but {count} in other lines; {advice}")
        if layout.is_numbered and not _ID.fullmatch(cells[0]):
            raise ValueError(f"{where}: the first column is {cells[0][:40]!r}, not the number of a word")
    return rows


def _find_layout(extension: str, sentences: Sequence[_Lines]) -> _Layout:
    """The layout that some sentences tell."""
    lines = [line for sentence in sentences for _, line in sentence]
    if named := next(filter(None, map(_GLOBAL_COLUMNS.match, lines)), None):
        columns = named[1].decode(errors="replace").split()
        names = tuple(_CONLLU_PLUS.get(name, name.lower()) for name in columns)
        if _TOKENS not in names:
            raise ValueError(f"{sentences[0][0][0]}: global.columns are {listed(columns)}; one must be FORM, the word")
        return _Layout(b"\t", names, is_numbered=columns[0] == "ID")
    if extension == ".conllu":
        return _Layout(b"\t", _CONLLU, is_numbered=True)
    words = (line for line in lines if not line.startswith((b"#", _DOCUMENT_START)))
    separator = b"\t" if b"\t" in next(words, b"") else None
    tables = [[cells for _, cells in _rows(sentence, separator, True)] for sentence in sentences]
    rows = [row for table in tables for row in table]
    has_several = any(len(table) > 1 for table in tables)
    if any(_are_numbered(tables, 0, i) or (has_several and _is_numbered(rows, 0, i)) for i in (0, 1)):
        return _Layout(separator, _numbered_names(rows), is_numbered=True)
    if _are_numbered(tables, 2, 0) and min(map(len, rows)) > len(_ONTONOTES):
        return _Layout(separator, _ONTONOTES, is_ontonotes=True)
    rows = [cells for sentence in sentences for _, cells in _rows(sentence, separator, False)]
    return _Layout(separator, _plain_names(rows) if rows else (_TOKENS, _TAGS))


def _are_numbered(tables: Iterable[Sequence[Sequence[str]]], column: int, start: int) -> bool:
    """Whether a column has the numbers of the words in most sentences of several words."""
    numbered = [_is_numbered(rows, column, start) for rows in tables if len(rows) > 1]
    return 2 * sum(numbered) > len(numbered)


def _is_numbered(rows: Sequence[Sequence[str]], column: int, start: int) -> bool:
    """Whether a column has the numbers of the words, from `start`, and others follow it."""
    if any(len(row) < column + 3 for row in rows):
        return False
    numbers = [row[column] for row in rows if "-" not in row[column] and "." not in row[column]]
    return len(numbers) > 1 and numbers == [str(i) for i in range(start, start + len(numbers))]


def _numbered_names(rows: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """Names of columns of which the first has the numbers of words."""
    names, tags = _column_names(rows)
    if len(names) == len(_CONLLU) and not tags:
        return _CONLLU
    names[:2] = "", _TOKENS
    if len(names) == 3:
        names[2] = _TAGS
    for i, name in zip((i for i in tags if i > 1), (_TAGS, _INNER_TAGS), strict=False):
        names[i] = name
    return tuple(names)


def _plain_names(rows: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """Names of columns of which one has words, one tags."""
    names, tags = _column_names(rows)
    marked = [i for i in tags if {tag.upper() for tag in tags[i]} != {"O"}]
    token, tag, last = 0, len(names) - 1, {row[-1] for row in rows}
    if tag not in tags and len(marked) == 1 and (len(names) == 2 or len(last) == 1):
        tag = marked[0]
        token = 1 if tag == 0 else 0
    names[tag], names[token] = _TAGS, _TOKENS
    return tuple(names)


def _column_names(rows: Sequence[Sequence[str]]) -> tuple[list[str], dict[int, set[str]]]:
    """column_1, column_2 ..., and the values of the columns that hold nothing but tags such as O and B-PER."""
    count = len(rows[0])
    values = [set(column) for column in zip(*(row for row in rows if len(row) == count), strict=True)]
    tags = {i: column for i, column in enumerate(values) if all(map(_TAG.fullmatch, column))}
    return [f"column_{i + 1}" for i in range(count)], tags


def _bio_of_parentheses(cells: Sequence[str]) -> list[str]:
    """["(GPE)", "(ORG*", "*)", "*"] -> ["B-GPE", "B-ORG", "I-ORG", "O"]."""
    tags, kind = [], ""
    for cell in cells:
        if opened := re.search(r"\(([^()*]+)", cell):
            kind = opened[1]
        tags.append(f"B-{kind}" if opened else f"I-{kind}" if kind else "O")
        if ")" in cell:
            kind = ""
    return tags
