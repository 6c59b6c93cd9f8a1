"""Predictions for the records of a source: in order, with all their fields, in a file that is whole or not there."""

import dataclasses
import json
import logging
import math
import shutil

import jax
import numpy as np
import pyarrow.parquet as pq
import pytest

import jaxencoder
from jaxencoder.inference.predict import predict, predict_file
from jaxencoder.text.config import WindowConfig
from jaxencoder.text.sources import read
from tests.tasks.conftest import write_records

TEXTS = ["lovely film", "awful plot", "", "the cast was great", "a bad bad film"]


@pytest.fixture(scope="module")
def model(classifier):
    """With random weights, large enough to tell texts apart."""
    found, random = jaxencoder.load(classifier.folder), np.random.default_rng(0)
    params = jax.tree.map(lambda x: random.normal(0, 0.3, x.shape).astype(np.float32), found.params)
    return dataclasses.replace(found, params=params)


def test_records_in_order_with_their_fields(model, tmp_path):
    records = [{"id": i, "text": text, "meta": {"a": [i]}} for i, text in enumerate(TEXTS)]
    source = write_records(tmp_path / "a.jsonl", records)
    assert predict_file(model, source, tmp_path / "b.jsonl", probabilities=True) == 5
    found = list(read(str(tmp_path / "b.jsonl")))
    assert [{name: line[name] for name in ("id", "text", "meta")} for line in found] == records
    for line, one in zip(found, model.classify(TEXTS), strict=True):
        assert (line["prediction"], line["probability"]) == (one.prediction, pytest.approx(one.probability, abs=1e-6))
        assert line["probabilities"] == pytest.approx(one.probabilities, abs=1e-6)
        assert line["probability"] == max(line["probabilities"].values()) and set(line["probabilities"]) == {
            "no",
            "yes",
        }
    assert np.ptp([line["probabilities"]["yes"] for line in found]) > 0.01
    assert [line["id"] for line in predict(model, records)] == list(range(5))


def test_parquet_and_less(model, tmp_path):
    source = write_records(tmp_path / "a.jsonl", [{"text": text, "label": "whatever"} for text in TEXTS])
    predict_file(model, source, tmp_path / "b.parquet")
    table = pq.read_table(tmp_path / "b.parquet")
    assert table.column_names == ["text", "label", "prediction", "probability"]
    assert table.to_pylist() == list(predict(model, source))
    with pytest.raises(ValueError, match="already have a field 'prediction'"):
        predict_file(model, str(tmp_path / "b.parquet"), tmp_path / "c.jsonl")
    assert not (tmp_path / "c.jsonl").exists()


def test_values(regressor, tmp_path):
    found = list(predict(regressor.folder, [{"text": text} for text in TEXTS], probabilities=True))
    assert all(set(record) == {"text", "prediction"} and math.isfinite(record["prediction"]) for record in found)


def test_other_fields_and_several_chunks(model, monkeypatch):
    monkeypatch.setattr("jaxencoder.tasks.records._CHUNK_TEXTS", 2)
    records = [{"body": text, "text": 7} for text in TEXTS]
    found = list(predict(model, iter(records), text_field="body"))
    assert [record["body"] for record in found] == TEXTS
    assert [record["prediction"] for record in found] == [one.prediction for one in model.classify(TEXTS)]


def test_usual_names_of_fields(model, tmp_path):
    data = dataclasses.replace(model.config.data, text_field="sentence")
    other = dataclasses.replace(model, config=dataclasses.replace(model.config, data=data))
    source = write_records(tmp_path / "a.jsonl", [{"text": text} for text in TEXTS])
    assert list(predict(other, source)) == list(predict(model, source))
    with pytest.raises(ValueError, match="no field 'sentence' among text"):
        list(predict(other, source, text_field="sentence"))
    with pytest.raises(ValueError, match="record 2: no field 'sentence' among text; give its name as text_field or"):
        list(predict(other, [{"sentence": "b"}, {"text": "a"}]))


def test_long_texts_with_one_warning(model, monkeypatch, caplog):
    monkeypatch.setattr("jaxencoder.tasks.records._CHUNK_TEXTS", 2)
    texts = ["the film was " * 20 + "great", "great", "the plot was " * 30 + "bad sad " * 30, "the plot was bad"]
    records = [{"text": text} for text in texts]
    with caplog.at_level(logging.WARNING):
        cut = list(predict(model, records))
    assert caplog.messages == ["2 of 4 texts are longer than 32 tokens and were truncated."]
    caplog.clear()
    complete = list(predict(model, records, windows=WindowConfig(10)))
    assert not caplog.records
    assert complete[2]["probability"] != pytest.approx(cut[2]["probability"], abs=1e-4)
    assert complete[3]["probability"] == pytest.approx(cut[3]["probability"], abs=1e-5)


@pytest.mark.parametrize(
    ("records", "options", "message"),
    [
        ([], {}, "is empty"),
        ([{"text": "a"}, {"txt": "a"}], {}, r"a\.jsonl:2: no field 'text' among txt; did you mean 'txt'"),
        ([{"text": "a"}, {"text": None}], {}, "field 'text' is NoneType, not text"),
        ([{"text": "a"}], {"pair_field": "b"}, r"a\.jsonl:1: no field 'b' among text"),
        ([{"text": "a", "b": 7}], {"pair_field": "b"}, "record 1: field 'b' is int, not text"),
        ([{"text": "a", "prediction": 1}], {}, "already have a field 'prediction'; rename it, or drop it"),
        ([{"text": "a"}], {"windows": WindowConfig(99)}, "stride is 99; windows with room for 30 tokens"),
    ],
)
def test_mistakes_leave_no_file(model, tmp_path, records, options, message):
    source = write_records(tmp_path / "a.jsonl", records)
    with pytest.raises(ValueError, match=message):
        predict_file(model, source, tmp_path / "b.jsonl", **options)
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


def test_what_cannot_be_written_or_read(model, masked, tmp_path):
    source = write_records(tmp_path / "a.jsonl", [{"text": "a"}])
    with pytest.raises(ValueError, match=r"b\.npy has no extension that can be written; use \.parquet, \.jsonl"):
        predict_file(model, source, tmp_path / "b.npy")
    with pytest.raises(FileNotFoundError):
        predict_file(model, source, tmp_path / "absent" / "b.jsonl")
    with pytest.raises(FileNotFoundError, match="no such file"):
        predict_file(model, str(tmp_path / "absent.jsonl"), tmp_path / "b.jsonl")
    with pytest.raises(ValueError, match="trained for MaskedLM and predicts nothing of a record"):
        predict_file(masked.folder, source, tmp_path / "b.jsonl")
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


def test_a_run_needs_its_training_data_no_more(classifier, tmp_path):
    copy = shutil.copytree(classifier.folder, tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    assert config["objective"]["class_names"] == ["no", "yes"]
    config["data"] |= {"train": ["absent.jsonl"], "validation": ["absent.jsonl"]}
    (copy / "config.json").write_text(json.dumps(config))
    assert next(predict(copy, [{"text": "lovely"}]))["prediction"] in ("no", "yes")
