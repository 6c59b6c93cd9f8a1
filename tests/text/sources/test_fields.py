"""Usual names of fields are inferred, and never replace fields that the settings name."""

import json

import pytest

from jaxencoder.text.config import DataConfig
from jaxencoder.text.sources.fields import format_fields, infer_fields, infer_source_fields


def inferred(tmp_path, names, **settings):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(dict.fromkeys(names, "x")) + "\n")
    data = infer_fields(DataConfig(train=(str(path),), **{"label_field": "label"} | settings))
    return data.text_field, data.pair_field, data.label_field


@pytest.mark.parametrize(
    ("names", "want"),
    [
        (["text", "label"], ("text", "", "label")),
        (["idx", "sentence", "label"], ("sentence", "", "label")),
        (["sentence1", "sentence2", "label"], ("sentence1", "sentence2", "label")),
        (["premise", "hypothesis", "label"], ("premise", "hypothesis", "label")),
        (["question", "sentence", "label"], ("question", "sentence", "label")),
        (["text", "sentence1", "sentence2", "label"], ("text", "", "label")),
        (["text", "text_pair", "score"], ("text", "text_pair", "score")),
        (["review", "category"], ("review", "", "category")),
        (["a", "b"], ("text", "", "label")),  # reading says what is missing
    ],
)
def test_usual_names(tmp_path, names, want):
    assert inferred(tmp_path, names) == want


def test_named_fields_stay(tmp_path):
    names = ["sentence1", "sentence2", "label", "gold"]
    assert inferred(tmp_path, names, text_field="sentence2") == ("sentence2", "", "label")
    assert inferred(tmp_path, names, text_field="sentence2", pair_field="sentence1")[:2] == ("sentence2", "sentence1")
    assert inferred(tmp_path, names, label_field="gold")[2] == "gold"
    assert inferred(tmp_path, ["sentence"], label_field="")[0] == "text"  # unlabeled


def test_words_and_answers(tmp_path):
    word, span = {"label_unit": "word"}, {"label_unit": "span", "text_field": "question", "pair_field": "context"}
    assert inferred(tmp_path, ["words", "upos"], text_field="tokens", label_field="ner_tags", **word) == (
        "words",
        "",
        "upos",
    )
    assert inferred(tmp_path, ["question", "context", "answers"], **span)[2] == "answers"


@pytest.mark.parametrize(
    ("names", "read", "want"),
    [
        (["sentence", "label"], {}, ("sentence", "", "label")),
        (["text", "class"], {}, ("text", "", "class")),
        (["text"], {}, ("text", "", "label")),  # without labels
        (["label", "content"], {"label_field": "content"}, ("sentence", "", "content")),
        (["a", "b"], {}, ("sentence", "", "label")),  # reading says what is missing
        (
            ["premise", "hypothesis", "label"],
            {"text_field": "a", "pair_field": "b"},
            ("premise", "hypothesis", "label"),
        ),
        (["words", "upos"], {"label_unit": "word", "text_field": "tokens"}, ("words", "", "upos")),
        (["text", "upos"], {"label_unit": "word", "text_field": "tokens"}, ("tokens", "", "upos")),
        (["text"], {"label_unit": "span", "text_field": "q", "pair_field": "c"}, ("q", "c", "label")),
    ],
)
def test_another_source_may_have_other_names(tmp_path, caplog, names, read, want):
    path = tmp_path / "b.jsonl"
    path.write_text(json.dumps(dict.fromkeys(names, "x")) + "\n")
    data = DataConfig(train=("absent.jsonl",), **{"text_field": "sentence", "label_field": "label"} | read)
    fields = infer_source_fields(str(path), data)
    assert (fields.text_field, fields.pair_field, fields.label_field) == want
    changed = sum(getattr(data, name) != getattr(fields, name) for name in ("text_field", "pair_field", "label_field"))
    assert len(caplog.records) == changed
    unchanged = infer_source_fields(str(path), data, ["text_field", "label_field"])
    assert unchanged == data


def test_another_source_says_what_is_read(tmp_path, caplog):
    (tmp_path / "b.jsonl").write_text('{"text": "x"}\n')
    (tmp_path / "c.txt").write_text("x\n")
    source, data = str(tmp_path / "b.jsonl"), DataConfig(text_field="sentence", label_field="label")
    assert infer_source_fields(source, data, ["label_field"]).text_field == "text"
    assert caplog.messages == [f"{source} has no field 'sentence'; reading 'text' instead."]
    tagger = DataConfig(text_field="tokens", label_field="tags", label_unit="word")
    assert infer_source_fields(source, tagger, ["label_field"]).text_field == "text"  # which is cut into words
    assert (
        infer_source_fields(str(tmp_path / "c.txt"), data, ["label_field"]) == data
    )  # a .txt file takes any field name
    assert len(caplog.messages) == 2


def test_described():
    data = DataConfig(text_field="a", pair_field="b", label_field="c")
    assert format_fields(data) == "Fields: text 'a' and 'b', label 'c'"
    assert format_fields(DataConfig(label_field="c")) == "Fields: text 'text', label 'c'"
