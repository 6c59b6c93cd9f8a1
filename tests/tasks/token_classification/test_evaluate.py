"""Tags of the data mean what they are called; those that a model does not know are named, and -100 is none."""

import dataclasses
import json
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jaxencoder.api import load
from jaxencoder.evaluation.evaluate import evaluate
from jaxencoder.tasks.token_classification.data import SCHEMA
from jaxencoder.tasks.token_classification.evaluate import evaluate_tags, tag_name
from jaxencoder.text.config import DataConfig
from tests.tasks.conftest import write_records

WORDS, TAGS = ["the", "Elbe", "and", "Spree"], ["O", "B-x", "O", "B-x"]


def measured(token_classifier, tmp_path, *tags):
    records = [{"tokens": WORDS[: len(x)], "tags": x} for x in tags]
    return evaluate(token_classifier.folder, data=write_records(tmp_path / "a.jsonl", records))


def named_tags(path, names, tags):
    """A Parquet file of Hugging Face's datasets."""
    feature = {"feature": {"names": names, "_type": "ClassLabel"}, "_type": "Sequence"}
    metadata = {"huggingface": json.dumps({"info": {"features": {"ner_tags": feature}}})}
    pq.write_table(pa.table({"tokens": [WORDS], "ner_tags": [tags]}).replace_schema_metadata(metadata), path)
    return str(path)


def test_a_run_is_evaluated_as_it_was_trained(token_classifier):
    result = evaluate(token_classifier.folder)
    for name in ("accuracy", "f1"):
        assert result[name] == pytest.approx(token_classifier.result[name], abs=1e-6)
    assert result["f1"] > 0.5 and set(result["classes"]) == {"x"}


def test_tags_that_are_numbers():
    names = ("O", "B-x")
    tags = (1, True, "0", "B-x", "B-y", 1.0)
    assert [tag_name(tag, names, "a") for tag in tags] == ["B-x", "B-x", "O", "B-x", "B-y", "B-x"]
    assert tag_name(1, ("0", "1"), "a") == "1"
    assert [tag_name(tag, ("1", "0"), "a") for tag in ("01", 1.0, 0, 2)] == ["1", "1", "0", "2"]  # names, no ids


@pytest.mark.parametrize("tag", [None, 1.5, ["O"], ""])
def test_tags_that_are_neither_text_nor_numbers(token_classifier, tmp_path, tag):
    message = rf"a\.jsonl, record 2: tag {re.escape(repr(str(tag)))} is neither text nor"
    with pytest.raises(ValueError, match=message):
        measured(token_classifier, tmp_path, [0, 1], [0, tag])


@pytest.mark.parametrize("tag", [-1, "-1", 7, "7"])
def test_numbers_that_are_no_ids(token_classifier, tmp_path, tag):
    with pytest.raises(ValueError, match=rf"record 2: tag {tag} is not among the ids 0 to 1 of the model's tags"):
        measured(token_classifier, tmp_path, [0, 1], [0, tag])


def test_unknown_tags_are_named(token_classifier, tmp_path, caplog):
    result = measured(token_classifier, tmp_path, ["O", "B-x", "X"])
    assert (result["entities"], result["f1"], result["accuracy"]) == (1, 1, pytest.approx(2 / 3))
    assert "tags that the model does not know: X. Its answers for these 1 words" in caplog.text
    assert measured(token_classifier, tmp_path, ["O", "B-x", "B-y"])["recall"] == 0.5
    with pytest.raises(ValueError, match="tags that the model does not know: B-y, I-y; it knows none but .*B-x"):
        measured(token_classifier, tmp_path, ["O", "B-y", "I-y"])


def test_other_schemes_are_known(token_classifier, tmp_path, caplog):
    assert measured(token_classifier, tmp_path, ["o", "s-x", "o", "s-x"])["f1"] == 1
    assert not caplog.records


@pytest.mark.parametrize("none", [-100, "-100"])
def test_words_without_a_tag(token_classifier, tmp_path, none):
    result = measured(token_classifier, tmp_path, ["O", "B-x", none, "B-x"], [none, none])
    assert (result["words"], result["accuracy"], result["f1"], result["entities"]) == (3, 1, 1, 2)
    with pytest.raises(ValueError, match="no words with tags"):
        measured(token_classifier, tmp_path, [none])


def test_ids_by_the_names_of_the_metadata(token_classifier, tmp_path, caplog):
    """The data's ids have another order than the model's."""
    names = ["B-X", "O", "B-y"]
    source = named_tags(tmp_path / "a.parquet", names, [1, 0, -100, 0])
    result = evaluate(token_classifier.folder, data=source)
    assert result["accuracy"] == result["f1"] == 1 and "numbers" not in caplog.text
    data = DataConfig(train=(source,), text_field="tokens", label_field="ner_tags")
    labels = SCHEMA.find_labels(data)
    assert labels.names == tuple(names)
    (example,) = SCHEMA.examples(data, data.train[0], "", labels, "train", 0.0)
    assert example.label == [1, 0, -1, 0]


def test_a_model_whose_tags_have_no_names(token_classifier, tmp_path):
    """The metadata of the data names them."""
    model = load(token_classifier.folder)
    names = list(model.labels)
    source = named_tags(tmp_path / "a.parquet", names, [names.index(tag) for tag in TAGS])
    data = dataclasses.replace(model.config.data, label_field="ner_tags")
    objective = dataclasses.replace(model.config.objective, tags=("LABEL_0", "LABEL_1"))
    model = dataclasses.replace(model, config=dataclasses.replace(model.config, data=data, objective=objective))
    assert evaluate_tags(model, source).metrics["f1"] == 1


@pytest.mark.parametrize("kind", [int, float, bool, str])
def test_numbers_taken_as_ids_are_said(token_classifier, tmp_path, caplog, kind):
    ids = [kind(["B-x", "O"].index(tag)) for tag in TAGS]
    assert measured(token_classifier, tmp_path, ids)["f1"] == 1
    assert "are numbers, taken as ids of the model: 0 = B-x, 1 = O" in caplog.text


@pytest.mark.parametrize(
    ("tags", "want"),
    [
        (["O", "B-x", "-100", "I-x"], ("B-x", "I-x", "O")),
        ([0, 1, -100, 0], ("0", "1")),
        ([0, 1, -1, 0], "the tags in field 'tags' include -1, which is no class; write -100"),
        (["O", "B-x", "nan", "O"], "include nan, which is no class"),
        (["O", "B-x", "-1", "O"], "include -1, which is no class"),
        (["O", "B-x", "", "O"], "label '' is not a class"),
        (["O", "B-x", None, "O"], "label None is not a class"),
        ([-100] * 4, "are all -100, which stands for none"),
    ],
)
def test_classes_of_training(tmp_path, tags, want):
    source = write_records(tmp_path / "a.jsonl", [{"tokens": WORDS, "tags": tags}] * 3)
    data = DataConfig(train=(source,), text_field="tokens", label_field="tags", validation_fraction=0.0)
    if isinstance(want, tuple):
        labels = SCHEMA.find_labels(data)
        assert labels.names == want
        assert [x.label[2] for x in SCHEMA.examples(data, source, "", labels, "train", 0.0)] == [-1] * 3
    else:
        with pytest.raises(ValueError, match=want):
            SCHEMA.find_labels(data)


def test_a_class_that_may_be_none(tmp_path, caplog):
    source = write_records(tmp_path / "a.jsonl", [{"tokens": WORDS, "tags": ["-", "A", "B", "-"]}])
    data = DataConfig(train=(source,), text_field="tokens", label_field="tags", validation_fraction=0.0)
    assert SCHEMA.find_labels(data).names == ("-", "A", "B") and "include '-', which is learned" in caplog.text
