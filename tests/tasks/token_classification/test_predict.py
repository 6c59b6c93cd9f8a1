"""Long texts are tagged whole, and every word has its tag."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from jaxencoder.api import load
from jaxencoder.inference.predict import predict, predict_file
from jaxencoder.tasks.token_classification import predict as module
from jaxencoder.tasks.token_classification.data import SCHEMA
from jaxencoder.tasks.token_classification.predict import tag_words
from jaxencoder.text.config import WindowConfig
from tests.tasks.conftest import write_records


def test_long_texts_and_words_of_nothing(token_classifier):
    model = load(token_classifier.folder)
    words = next(iter(SCHEMA.validation_records(model.config.data)))[1]["tokens"]
    long = words * 12
    assert len(long) > model.max_length
    one, two, three = tag_words(model, [words, long, []])
    assert len(two.tags) == len(long) and three.tags == [] and (two.probabilities > 0).all()
    assert two.tags[: len(words) - 2] == one.tags[: len(words) - 2]  # what follows changes little
    (found,) = tag_words(model, [["\u0007", words[0], ""]])
    assert found.tags[0] == found.tags[2] == "O" and found.probabilities[[0, 2]].tolist() == [0, 0]
    np.testing.assert_allclose(found.probabilities[1], tag_words(model, [words[:1]])[0].probabilities[0], atol=1e-5)


def test_a_model_without_tags(masked):
    with pytest.raises(ValueError, match="was not trained for token classification"):
        tag_words(load(masked.folder), [["a"]])


def test_predictions_for_records(token_classifier, tmp_path):
    text = "Die Elbe, the Spree"
    records = [{"id": 1, "tokens": ["the", "Elbe", "in", "Oder"]}, {"id": 2, "tokens": text}, {"id": 3, "tokens": ""}]
    source = write_records(tmp_path / "a.jsonl", records)
    assert predict_file(token_classifier.folder, source, tmp_path / "b.jsonl") == 3
    one, two, three = (json.loads(line) for line in (tmp_path / "b.jsonl").read_text().splitlines())
    assert one["tags"] == ["O", "B-x", "O", "B-x"] and "words" not in one and one["id"] == 1
    listed = [(x["type"], x["text"], x["start"], x["end"]) for x in one["entities"]]
    assert listed == [("x", "Elbe", 1, 2), ("x", "Oder", 3, 4)]
    assert two["words"] == ["Die", "Elbe", ",", "the", "Spree"] and len(two["tags"]) == 5
    for entity in two["entities"]:
        assert text[entity["start"] : entity["end"]] == entity["text"] and 0.2 < entity["probability"] <= 1
    assert {"Elbe", "Spree"} <= {entity["text"] for entity in two["entities"]}
    assert three["tags"] == three["entities"] == []
    with pytest.raises(ValueError, match="windows is WindowConfig.*, which is no option of token classification"):
        list(predict(token_classifier.folder, records, windows=WindowConfig()))
    with pytest.raises(ValueError, match="field 'tokens' is int, not text"):
        list(predict(token_classifier.folder, write_records(tmp_path / "a.jsonl", [{"tokens": 3}])))


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"token": ["a"]}, "record 2: no field 'tokens' among token; did you mean 'token'"),
        ({"tokens": None}, "record 2: field 'tokens' is NoneType, not text or a list of words"),
        ({"tokens": 5}, "record 2: field 'tokens' is int, not text or a list of words"),
        ({"tokens": ["a", 5]}, "record 2: field 'tokens' is list, not text or a list of words"),
    ],
)
def test_records_without_words(token_classifier, record, message):
    with pytest.raises(ValueError, match=message):
        list(predict(token_classifier.folder, [{"tokens": ["a"]}, record]))


def test_a_table_whose_first_records_have_no_entity(token_classifier, tmp_path, monkeypatch):
    monkeypatch.setattr("jaxencoder.tasks.records._CHUNK_TEXTS", 1)
    texts = ([], ["the", "river"], ["the", "Elbe"])
    source = write_records(tmp_path / "a.jsonl", [{"tokens": words} for words in texts])
    assert predict_file(token_classifier.folder, source, tmp_path / "b.parquet") == 3
    lines = pq.read_table(tmp_path / "b.parquet").to_pylist()
    assert lines == list(predict(token_classifier.folder, source))
    assert [len(line["entities"]) for line in lines] == [0, 0, 1]


def test_a_word_is_tagged_where_most_is_around_it(token_classifier, monkeypatch):
    """Long texts are read in pieces; here what stands near the end of a piece is called an entity."""
    model = load(token_classifier.folder)
    edge = 3

    def near_an_end(encoder, compute, head, params, rows):
        positions, segments = np.asarray(rows["positions"]), np.asarray(rows["segment_ids"])
        left = [[(ids[i:] == ids[i]).sum() for i in range(len(ids))] for ids in segments]
        near = (positions <= edge) | (np.array(left) <= edge)
        return np.where((near[..., None]) == (np.array(model.labels) == "B-x"), 1.0, 0.0)

    monkeypatch.setattr(module, "_probabilities", near_an_end)
    (found,) = tag_words(model, [["the", "river"] * 60])
    assert set(found.tags[edge:-edge]) == {"O"} and found.tags[0] == found.tags[-1] == "B-x"
