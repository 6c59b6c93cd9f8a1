"""Usual names of fields are inferred, and never replace fields that the settings name."""

import json

import pytest

from jaxencoder.tasks.question_answering.data import SCHEMA as ANSWERS
from jaxencoder.tasks.token_classification.data import SCHEMA as WORDS
from jaxencoder.text.config import DataConfig
from jaxencoder.text.schema import TEXTS
from jaxencoder.text.sources.fields import format_fields, infer_fields, infer_source_fields


def inferred(tmp_path, names, schema=TEXTS, **settings):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(dict.fromkeys(names, "x")) + "\n")
    data = infer_fields(DataConfig(train=(str(path),), **{"label_field": "label"} | settings), schema)
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
    fields = inferred(tmp_path, ["words", "upos"], WORDS, text_field="tokens", label_field="ner_tags")
    assert fields == ("words", "", "upos")
    names = {"text_field": "question", "pair_field": "context"}
    assert inferred(tmp_path, ["question", "context", "answers"], ANSWERS, **names)[2] == "answers"


@pytest.mark.parametrize(
    ("names", "read", "want", "schema"),
    [
        (["sentence", "label"], {}, ("sentence", "", "label"), TEXTS),
        (["text", "class"], {}, ("text", "", "class"), TEXTS),
        (["text"], {}, ("text", "", "label"), TEXTS),  # without labels
        (["label", "content"], {"label_field": "content"}, ("sentence", "", "content"), TEXTS),
        (["a", "b"], {}, ("sentence", "", "label"), TEXTS),  # reading says what is missing
        (["text1", "text2", "label"], {"text_field": "a", "pair_field": "b"}, ("text1", "text2", "label"), TEXTS),
        (["words", "upos"], {"text_field": "tokens"}, ("words", "", "upos"), WORDS),
        (["text", "upos"], {"text_field": "tokens"}, ("tokens", "", "upos"), WORDS),
        (["text"], {"text_field": "q", "pair_field": "c"}, ("q", "c", "label"), ANSWERS),
    ],
)
def test_another_source_may_have_other_names(tmp_path, caplog, names, read, want, schema):
    path = tmp_path / "b.jsonl"
    path.write_text(json.dumps(dict.fromkeys(names, "x")) + "\n")
    data = DataConfig(train=("absent.jsonl",), **{"text_field": "sentence", "label_field": "label"} | read)
    fields = infer_source_fields(str(path), data, schema)
    assert (fields.text_field, fields.pair_field, fields.label_field) == want
    changed = sum(getattr(data, name) != getattr(fields, name) for name in ("text_field", "pair_field", "label_field"))
    assert len(caplog.records) == changed
    unchanged = infer_source_fields(str(path), data, schema, ["text_field", "label_field"])
    assert unchanged == data


def test_another_source_says_what_is_read(tmp_path, caplog):
    (tmp_path / "b.jsonl").write_text('{"text": "x"}\n')
    (tmp_path / "c.txt").write_text("x\n")
    source, data = str(tmp_path / "b.jsonl"), DataConfig(text_field="sentence", label_field="label")
    assert infer_source_fields(source, data, TEXTS, ["label_field"]).text_field == "text"
    assert caplog.messages == [f"{source} has no field 'sentence'; reading 'text' instead."]
    token_data = DataConfig(text_field="tokens", label_field="tags")
    assert (
        infer_source_fields(source, token_data, WORDS, ["label_field"]).text_field == "text"
    )  # which is cut into words
    assert (
        infer_source_fields(str(tmp_path / "c.txt"), data, TEXTS, ["label_field"]) == data
    )  # a text has the name that it is given
    assert len(caplog.messages) == 2


def test_described():
    data = DataConfig(text_field="a", pair_field="b", label_field="c")
    assert format_fields(data) == "Fields: text 'a' and 'b', label 'c'"
    assert format_fields(DataConfig(label_field="c")) == "Fields: text 'text', label 'c'"
