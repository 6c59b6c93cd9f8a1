"""Fields of published sets are found by their usual names, and never where the settings name others."""

import json

import pytest

from jaxencoder.text.config import DataConfig
from jaxencoder.text.fields import described, with_fields


def found(tmp_path, names, **settings):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(dict.fromkeys(names, "x")) + "\n")
    data = with_fields(DataConfig(train=(str(path),), **{"label_field": "label"} | settings))
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
    assert found(tmp_path, names) == want


def test_named_fields_stay(tmp_path):
    names = ["sentence1", "sentence2", "label", "gold"]
    assert found(tmp_path, names, text_field="sentence2") == ("sentence2", "", "label")
    assert found(tmp_path, names, text_field="sentence2", pair_field="sentence1")[:2] == ("sentence2", "sentence1")
    assert found(tmp_path, names, label_field="gold")[2] == "gold"
    assert found(tmp_path, ["sentence"], label_field="")[0] == "text"  # unlabelled


def test_words_and_answers(tmp_path):
    word, span = {"label_unit": "word"}, {"label_unit": "span", "text_field": "question", "pair_field": "context"}
    assert found(tmp_path, ["words", "upos"], text_field="tokens", label_field="ner_tags", **word) == (
        "words",
        "",
        "upos",
    )
    assert found(tmp_path, ["question", "context", "answers"], **span)[2] == "answers"


def test_described():
    data = DataConfig(text_field="a", pair_field="b", label_field="c")
    assert described(data) == "Fields: text 'a' and 'b', label 'c'"
    assert described(DataConfig(label_field="c")) == "Fields: text 'text', label 'c'"
