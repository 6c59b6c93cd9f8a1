"""Tables as spreadsheets, pandas and published data sets write them."""

import csv
import io

import pytest

from jaxencoder.text.sources import read

TEXTS = ["the cat, sat", 'dog "ran"', "two\nlines\tand tabs", "", '"all of it"', "a;b"]
LABELS = ["01", " 1", "+1", "1.0", "NA", "x"]
ROWS = [{"text": text, "label": label} for text, label in zip(TEXTS, LABELS, strict=True)]


def written(header=("text", "label"), index=False, behind=(), encoding="utf-8", **dialect) -> bytes:
    out = io.StringIO(newline="")
    writer = csv.writer(out, **dialect)
    writer.writerow([*([""] if index else []), *header, *behind])
    writer.writerows([*([i] if index else []), *row.values(), *behind] for i, row in enumerate(ROWS))
    return out.getvalue().encode(encoding)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", written()),
        ("a.csv", written(index=True)),  # pandas
        ("a.csv", written(behind=["", ""])),
        ("a.csv", written((" text", "label "))),
        ("a.csv", written(delimiter=";")),
        ("a.csv", written(delimiter="\t")),
        ("a.csv", written(quoting=csv.QUOTE_ALL)),
        ("a.csv", written(escapechar="\\", doublequote=False)),
        ("a.csv", written(escapechar="\\", doublequote=False, quoting=csv.QUOTE_ALL)),
        ("a.csv", written(encoding="utf-8-sig")),
        ("a.csv", written(encoding="utf-16", delimiter=";")),
        ("a.csv", b"sep=;\r\n" + written(delimiter=";")),
        ("a.csv", b"sep=\t\r\n" + written(delimiter="\t")),
        ("a.tsv", written(delimiter="\t")),
        ("a.tsv", written(delimiter="\t", quoting=csv.QUOTE_NONNUMERIC)),
        ("a.tsv", written(delimiter="\t", escapechar="\\", doublequote=False, quoting=csv.QUOTE_ALL)),
        ("a.tsv", written(encoding="utf-16", delimiter="\t")),  # Unicode text of spreadsheets
    ],
)
def test_dialects(write, name, content):
    assert list(read(write(name, content))) == ROWS


@pytest.mark.parametrize(
    ("name", "dialect"),
    [
        ("a.csv", {}),
        ("a.csv", {"quoting": csv.QUOTE_ALL}),
        ("a.csv", {"delimiter": "\t"}),
        ("a.tsv", {"delimiter": "\t", "quoting": csv.QUOTE_ALL}),
    ],
)
@pytest.mark.parametrize(
    "text",
    [
        "C:\\dir\\",
        'a \\"b"',
        'say \\"hi\\" there',
        '{"k": "a \\"b\\" c"}',
        'ends in \\"',
        'a \\", b',
        'no "\\',
        'a "b" c',
    ],
)
def test_backslashes_that_are_text(write, text, name, dialect):
    out = io.StringIO(newline="")
    csv.writer(out, **dialect).writerows([["text", "label"], [text, "0"], ["plain", "1"], [text, "0"]])
    assert [record["text"] for record in read(write(name, out.getvalue()))] == [text, "plain", text]


def test_pandas(tmp_path):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(ROWS)
    for name, options in (
        ("a.csv", {}),
        ("b.csv", {"index": False}),
        ("c.tsv", {"sep": "\t"}),
        ("d.csv", {"sep": ";"}),
    ):
        frame.to_csv(tmp_path / name, **options)
        assert list(read(str(tmp_path / name))) == ROWS


@pytest.mark.parametrize("more", [0, 1100])  # over a MiB, which tells how fields are quoted
@pytest.mark.parametrize(
    "texts",
    [
        ['"so', 'it" goes', '"quoted" and not', "plain", '"all of it"'],
        ['He said \\"hi\\" 90\\/10', "plain"],
        ['""', "plain"],
        ['"What does ""this"" mean?"', "plain"],  # QQP of GLUE
    ],
)
def test_quotes_of_published_tsv_are_characters(write, texts, more):
    texts = [*texts, *["a longer text " * 64 + "."] * more, 'a "stray', '"stray']
    content = "text\tlabel\n" + "".join(f"{text}\t0\n" for text in texts)
    assert [record["text"] for record in read(write("a.tsv", content))] == texts


def test_quotes_of_a_long_tsv(write):
    texts = [f"{i} two\nlines" for i in range(5000)]
    content = "text\tlabel\n" + "".join(f'"{text}"\t0\n' for text in texts)
    assert [record["text"] for record in read(write("a.tsv", content))] == texts


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text,label\na,0\ntext,label\n", r"a\.csv:3: the names of the columns again"),
        ("text,,label\na,b,0\n", r"a\.csv:2: 'b' is in a column without a name"),
        (",\na,0\n", r"a\.csv:1: the columns are"),
        ("sep=;\ntext;label\na;0;1\n", r"a\.csv:3: 3 columns, but 2 names"),
        (b"\xff\xfet\x00e\x00x\x00t\x00\n\x00\x00\xd8a\x00", r"a\.csv: text after line \d is not UTF-16"),
    ],
)
def test_one_clear_sentence(write, content, message):
    with pytest.raises(ValueError, match=message):
        list(read(write("a.csv", content)))
