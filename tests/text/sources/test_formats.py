"""Published formats give their records, and errors name the place of the damage."""

import csv
import gzip
import io
import json

import pytest

from jaxencoder.text.sources import field_names, read

SQUAD = {
    "version": "1.1",
    "data": [
        {
            "title": "Rivers",
            "paragraphs": [
                {
                    "context": "The Elbe is long.",
                    "qas": [
                        {"id": "a", "question": "What is long?", "answers": [{"text": "The Elbe", "answer_start": 0}]},
                        {"id": "b", "question": "What is short?", "answers": [], "is_impossible": True},
                    ],
                }
            ],
        }
    ],
}


@pytest.mark.parametrize("indent", [None, 1])
def test_squad(write, indent):
    records = list(read(write("a.json", json.dumps(SQUAD, indent=indent)), text_field="question"))
    assert [record["id"] for record in records] == ["a", "b"]
    assert records[0]["answers"] == {"text": ["The Elbe"], "answer_start": [0]}
    assert records[1]["answers"] == {"text": [], "answer_start": []} and records[1]["title"] == "Rivers"


def test_half_characters_in_squad(write):
    """The error names the question with half a character; two halves are a character."""
    text = json.dumps(SQUAD).replace("What is short?", r"What is \ud83d\ude00?")
    questions = [record["question"] for record in read(write("a.json", text), text_field="question")]
    assert questions == ["What is long?", "What is \N{GRINNING FACE}?"]
    with pytest.raises(ValueError, match=r"a\.json, record 1, question 'b': '\\ud83d' is half a character"):
        list(read(write("a.json", text.replace(r"\ude00", "")), text_field="question"))


def test_a_json_file_may_hold_a_list_or_lines(write):
    records = [{"version": 1, "text": "a"}, {"version": 2, "text": "b"}]
    lines = "\n".join(map(json.dumps, records))
    assert list(read(write("a.json", json.dumps(records, indent=2)))) == records
    assert list(read(write("b.json", lines))) == records
    assert list(read(write("c.json", json.dumps({"data": records})))) == records
    for several in (1, 2):  # a field that is called so
        lines = '{"data": "the film", "label": 1}\n' * several
        assert list(read(write("e.json", lines), text_field="data")) == [{"data": "the film", "label": 1}] * several
    assert list(read(write("d.json.gz", gzip.compress(json.dumps(records).encode())))) == records


def test_csv_as_python_writes_it(write):
    texts = ['a "b", c', "two\nlines", "", "Größe 你好", "x" * 200_000]
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(["text", "label"])
    writer.writerows([text, i] for i, text in enumerate(texts))
    path = write("a.csv", b"\xef\xbb\xbf" + out.getvalue().encode())
    assert list(read(path)) == [{"text": text, "label": str(i)} for i, text in enumerate(texts)]
    assert field_names(path) == ("text", "label")


def test_tsv_has_no_quotation_marks(write):
    path = write("a.tsv", 'text\tlabel\n"so\t1\nit" goes\t0\n')
    assert [record["text"] for record in read(path)] == ['"so', 'it" goes']


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "text,label\na,1\nb\n", r"a\.csv:3: 1 columns, but 2 names"),
        ("a.csv", "text,text\na,1\n", r"a\.csv:1: the columns are text, text; give each a different name"),
        ("a.csv", 'text\n"a', r"a\.csv:2: not CSV"),
        ("a.csv", b"text\ncaf\xe9\n", r"a\.csv: text after line \d is not UTF-8"),
        ("a.csv", "text,label\n", r"a\.csv is empty"),
        ("a.csv", "", r"a\.csv is empty"),
        ("a.json", '[{"text": "a"}, 3]', r"a\.json, record 2: int, not a JSON object"),
        ("a.json", '[{"text": "a"}', r"a\.json: not JSON \(Expecting"),
        ("a.json", '{"data": 3}', r"a\.json, record 1: no field 'text' among data"),
        ("a.json", r'[{"text": "a"}, {"text": "b\ud83d c"}]', r"a\.json, record 2: '\\ud83d' is half a character"),
        ("a.json", '{"data": [\n' + r'{"text": "b\uDe00 c"}]}', r"a\.json, record 1: '\\ude00' is half a character"),
        ("a.json", '{"data": [{"paragraphs": [{"qas": [{}]}]}]}', r"a\.json, record 1 does not have SQuAD's structure"),
    ],
)
def test_one_clear_sentence(write, name, content, message):
    with pytest.raises(ValueError, match=message) as error:
        list(read(write(name, content), text_field="text"))
    assert "\n" not in str(error.value)
