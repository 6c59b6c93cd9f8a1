"""Entities and their metrics equal to seqeval's; long texts are tagged whole, and every word has its tag."""

import json
import random
import re

import numpy as np
import pyarrow.parquet as pq
import pytest

from jaxencoder.api import load
from jaxencoder.evaluation.evaluate import evaluate
from jaxencoder.inference.predict import predict, predict_file
from jaxencoder.tasks.token_classification import predict as module
from jaxencoder.tasks.token_classification.data import SCHEMA
from jaxencoder.tasks.token_classification.entities import entities
from jaxencoder.tasks.token_classification.metrics import tag_metrics
from jaxencoder.tasks.token_classification.predict import tag_name, tag_words
from jaxencoder.text.config import WindowConfig
from tests.tasks.conftest import write_records

SCHEMES = {
    "BIO": ("O", "B-x", "I-x", "B-y", "I-y"),
    "IOB1": ("O", "I-x", "I-y", "B-x"),
    "BIOES": ("O", "B-x", "I-x", "E-x", "S-x", "S-y"),
}


@pytest.mark.parametrize("tags", SCHEMES.values(), ids=SCHEMES)
def test_equal_to_seqeval(tags):
    seqeval = pytest.importorskip("seqeval.metrics")
    rng = random.Random(0)
    true = [[rng.choice(tags) for _ in range(rng.randrange(1, 12))] for _ in range(200)]
    said = [[t if rng.random() < 0.7 else rng.choice(tags) for t in text] for text in true]
    for text in true:
        theirs = seqeval.sequence_labeling.get_entities(text)
        assert entities(text) == [(kind, start, end + 1) for kind, start, end in theirs]
    found = tag_metrics(true, said)
    report = seqeval.classification_report(true, said, output_dict=True, zero_division=0)
    for name, theirs in (("precision", "precision"), ("recall", "recall"), ("f1", "f1-score")):
        assert found[name] == pytest.approx(report["micro avg"][theirs])
        for kind in ("x", "y"):
            assert found["classes"][kind][name] == pytest.approx(report[kind][theirs])
    assert found["macro_f1"] == pytest.approx(report["macro avg"]["f1-score"])
    assert found["accuracy"] == pytest.approx(seqeval.accuracy_score(true, said))


def test_tags_without_entities():
    found = tag_metrics([["NOUN", "VERB"], ["NOUN"]], [["NOUN", "NOUN"], ["NOUN"]])
    assert found["accuracy"] == pytest.approx(2 / 3) and "entities" not in found
    assert found["classes"]["VERB"] == {"precision": 0, "recall": 0, "f1": 0, "examples": 1}
    assert tag_metrics([["O", "O"]], [["O", "O"]])["f1"] == 0  # no entity to find
    with pytest.raises(ValueError, match="the tags NOUN, VERB do not tell of entities"):
        entities(["NOUN", "VERB"])


def test_the_tags_of_a_model_decide_what_is_measured():
    """Not those that happen to occur: of one model the metrics are always the same ones."""
    names = ["O", "B-x", "I-x"]
    true, said = [["B-x", "I-x", "O"], ["B-x"]], [["B-x", "I-x", "O"], ["O"]]
    found = tag_metrics(true, said, names)
    assert (found["precision"], found["recall"], found["entities"]) == (1, 0.5, 2)
    stray = tag_metrics([["B-x", "I-x", "X"], ["B-x"]], said, names)  # a word that is wrong, and no entity
    assert stray == found | {"accuracy": 0.5}
    unseen = tag_metrics([["B-x", "I-x", "B-y"], ["B-x"]], said, names)
    assert unseen["recall"] == pytest.approx(1 / 3) and unseen["classes"]["y"]["examples"] == 1
    for tags in (["B-x", "O"], ["X", "O"], ["O", "O"]):
        found = tag_metrics([["B-x", "O"]], [tags], [*names, "X"])
        assert "entities" not in found and found["classes"]["B-x"]["recall"] == (tags[0] == "B-x")


def test_a_run_is_evaluated_as_it_was_trained(token_classifier):
    result = evaluate(token_classifier.folder)
    for name in ("accuracy", "f1"):
        assert result[name] == pytest.approx(token_classifier.result[name], abs=1e-6)
    assert result["f1"] > 0.5 and set(result["classes"]) == {"x"}


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


def test_tags_that_are_numbers():
    names = ("O", "B-x")
    tags = (1, True, "0", "B-x", "B-y", 7)
    assert [tag_name(tag, names, "a") for tag in tags] == ["B-x", "B-x", "O", "B-x", "B-y", "7"]
    assert tag_name(1, ("0", "1"), "a") == "1"


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


@pytest.mark.parametrize("tag", [None, 1.5, ["O"]])
def test_tags_that_are_neither_text_nor_numbers(token_classifier, tmp_path, tag):
    source = write_records(tmp_path / "a.jsonl", [{"tokens": ["the", "Elbe"], "tags": [0, x]} for x in (1, tag)])
    with pytest.raises(ValueError, match=rf"a\.jsonl, record 2: tag {re.escape(str(tag))} is neither text nor"):
        evaluate(token_classifier.folder, data=source)


def test_a_tag_that_training_never_saw(token_classifier, tmp_path):
    source = write_records(tmp_path / "a.jsonl", [{"tokens": ["the", "Elbe", "a"], "tags": ["O", "B-x", "X"]}])
    result = evaluate(token_classifier.folder, data=source)
    assert (result["entities"], result["f1"], result["accuracy"]) == (1, 1, pytest.approx(2 / 3))


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
