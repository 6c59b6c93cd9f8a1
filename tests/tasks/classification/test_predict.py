import dataclasses
import logging
import math
import re

import jax
import numpy as np
import pytest

from jaxencoder.api import load
from jaxencoder.tasks.classification.metrics import class_metrics, per_class, value_metrics
from jaxencoder.tasks.classification.predict import predictions
from jaxencoder.text.cache import prepare
from jaxencoder.text.config import WindowConfig
from tests.tasks.conftest import write_records


def auprc_by_hand(scores, positive):
    """The sum over thresholds of precision times the recall gained."""
    total, before = 0.0, 0.0
    for threshold in sorted(set(scores.tolist()), reverse=True):
        found = scores >= threshold
        recall = (found & positive).sum() / positive.sum()
        total += (recall - before) * (found & positive).sum() / found.sum()
        before = recall
    return total


def test_class_metrics_by_hand():
    labels = np.array([0, 0, 0, 1, 1, 1, 1, 1])
    predictions = np.array([0, 0, 1, 1, 1, 1, 0, 0])  # class 1: 3 of 5 found, 1 of 4 wrong
    scores = np.where(np.eye(2, dtype=bool)[predictions], 2.0, 0.0)
    result = class_metrics(scores, labels)
    tp, tn, fp, fn = 3, 2, 1, 2
    f1_of_1, f1_of_0 = 2 * tp / (2 * tp + fp + fn), 2 * tn / (2 * tn + fp + fn)
    right, wrong = np.log1p(np.exp(-2)), np.log1p(np.exp(2))
    matthews = (tp * tn - fp * fn) / np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    expected = {
        "loss": (5 * right + 3 * wrong) / 8,
        "accuracy": 5 / 8,
        "macro_f1": (f1_of_0 + f1_of_1) / 2,
        "matthews": matthews,
        "auprc": auprc_by_hand(scores[:, 1] - scores[:, 0], labels == 1),
        "f1": f1_of_1,
        "examples": 8,
    }
    assert result == pytest.approx(expected)


def test_class_metrics_of_three_classes_and_of_one():
    scores = np.eye(3)[[0, 1, 2, 1]]
    perfect = class_metrics(scores, np.array([0, 1, 2, 1]))
    assert (perfect["accuracy"], perfect["macro_f1"], perfect["matthews"]) == (1, 1, 1) and "f1" not in perfect
    assert class_metrics(scores[[0, 0]], np.array([0, 0]))["matthews"] == 0  # not defined, and no warning
    assert class_metrics(scores[:, :2], np.zeros(4, np.int32))["auprc"] == 0  # that of class 1, which is not there


def test_each_class_by_hand():
    scores = np.random.default_rng(0).standard_normal((40, 4))
    labels = np.random.default_rng(1).choice([0, 1, 3], 40)
    predictions, classes = scores.argmax(-1), per_class(scores, labels)
    shares = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    for c, found in enumerate(classes):
        right = ((labels == c) & (predictions == c)).sum()
        assert found["examples"] == (labels == c).sum()
        assert found["precision"] == pytest.approx(right / max((predictions == c).sum(), 1))
        assert found["recall"] == pytest.approx(right / max((labels == c).sum(), 1))
        assert found["auprc"] == pytest.approx(auprc_by_hand(shares[:, c], labels == c) if c != 2 else 0)
    assert classes[2]["examples"] == 0  # named, but true nowhere: left out of the mean
    assert class_metrics(scores, labels)["auprc"] == pytest.approx(np.mean([classes[c]["auprc"] for c in (0, 1, 3)]))


def test_huge_scores_have_a_finite_loss():
    result = class_metrics(np.array([[1e4, -1e4]], np.float32), np.array([1]))
    assert result["loss"] == pytest.approx(2e4)


def test_value_metrics_by_hand():
    labels = np.array([1.0, 2.0, 3.0, 4.0])
    result = value_metrics(np.exp(labels), labels)
    assert result["spearman"] == pytest.approx(1)
    assert result["pearson"] == pytest.approx(np.corrcoef(np.exp(labels), labels)[0, 1])
    assert result["loss"] == pytest.approx(np.square(np.exp(labels) - labels).mean())


@pytest.mark.parametrize("scores", [[1.0, 1.0, 1.0], [1.0, 1.0 + 1e-16, 1.0]])
def test_constant_predictions_correlate_with_nothing(scores):
    result = value_metrics(np.array(scores), np.array([1.0, 2.0, 3.0]))
    assert (result["pearson"], result["spearman"]) == (0, 0)
    assert value_metrics(np.ones(1), np.ones(1))["pearson"] == 0


@pytest.fixture(scope="module")
def model(classifier):
    return load(classifier.folder)


def test_records_are_predicted_as_the_rows_that_were_prepared(classifier, regressor):
    """What a trainer measures on packed rows, and what is read record by record, are the same."""
    for trained in (classifier, regressor):
        model = load(trained.folder)
        (store,) = prepare(model.config.data, model.tokenizer, "validation", progress=False)
        rows = store.read(np.arange(len(store)))
        objective = model.config.objective.build(model.config.model, model.compute, None)
        scores = np.asarray(jax.jit(objective.scores, static_argnums=3)(model.params, rows, jax.random.key(0), False))
        there = rows["labels"] >= 0 if rows["labels"].dtype.kind == "i" else ~np.isnan(rows["labels"])
        found = predictions(model)
        assert len(found.records) == there.sum() == 53
        columns = lambda labels, scores: sorted(zip(labels.tolist(), scores[:, -1].tolist(), strict=True))  # noqa: E731
        expected = columns(rows["labels"][there], scores[there])
        np.testing.assert_allclose(columns(found.labels, found.scores), expected, atol=1e-4)
        assert found.tokens.min() > 2 and found.truncated == 0


def test_labels_as_names_and_numbers(model, tmp_path, caplog):
    """A class may be given by the number that its name has, as TFDS does, which a warning tells."""
    labels = ("yes", "no", 1, 0, True, "YES", " no", 1.0, "0.0", [1, 0])
    records = [{"text": "lovely", "label": label} for label in labels]
    found = predictions(model, write_records(tmp_path / "a.jsonl", records))
    assert found.labels.tolist() == [1, 0, 1, 0, 1, 1, 0, 1, 0, 0] and found.records == records
    assert "numbers, taken as ids of the model's classes: 0 = no, 1 = yes." in caplog.text
    caplog.clear()
    predictions(model, write_records(tmp_path / "b.jsonl", records[:2]))
    assert not caplog.records


@pytest.mark.parametrize("mark", [-1, -100, "-", "nan"])
def test_unlabeled_records_are_left_out(model, tmp_path, caplog, mark):
    records = [{"text": "lovely", "label": label} for label in ("yes", mark, "no", mark)]
    found = predictions(model, write_records(tmp_path / "a.jsonl", records))
    assert found.labels.tolist() == [1, 0] and len(found.scores) == 2 and found.records == records[::2]
    assert f"Left out 2 of 4 records, which have no label but {mark}." in caplog.text


@pytest.mark.parametrize(("label", "number"), [("2", 1), (2, 1), ("1", 0)])
def test_classes_that_are_numbers(model, tmp_path, label, number):
    names = dataclasses.replace(model.config.objective, class_names=("1", "2"))
    numbered = dataclasses.replace(model, config=dataclasses.replace(model.config, objective=names))
    found = predictions(numbered, write_records(tmp_path / "a.jsonl", [{"text": "lovely", "label": label}]))
    assert found.labels.tolist() == [number]


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([], "is empty"),
        ([{"text": "a", "label": "maybe"}], "record 1: label 'maybe' is not among the classes no, yes"),
        ([{"text": "a", "label": 2}], "label 2 is not among the classes"),
        ([{"text": "a", "label": 0.5}], "label 0.5 is not a class; give text or a whole number"),
        ([{"text": "a", "label": -1}], "none of the 1 records has a label in field 'label'; name other data"),
        ([{"text": "a", "label": None}], "label None is not a class"),
        ([{"text": "a", "label": ""}], "label '' is not a class"),
        ([{"text": "a", "label": "no"}, {"text": "a"}], "a.jsonl:2: no field 'label' among text"),
        ([{"txt": "a", "label": "no"}], "a.jsonl:1: no field 'text' among txt, label; did you mean 'txt'"),
        ([{"text": 7, "label": "no"}], "field 'text' is int, not text"),
    ],
)
def test_hostile_records(model, tmp_path, records, message):
    with pytest.raises(ValueError, match=message):
        predictions(model, write_records(tmp_path / "a.jsonl", records))


@pytest.mark.parametrize("label", [math.nan, math.inf, "high", None, 1e300, -1e39])
def test_hostile_values(regressor, tmp_path, label):
    source = write_records(tmp_path / "a.jsonl", [{"text": "a", "label": 1.5}, {"text": "a", "label": label}])
    with pytest.raises(ValueError, match=f"record 2: label {re.escape(repr(label))} is not a finite number of float32"):
        predictions(load(regressor.folder), source)


def test_the_largest_values(regressor, tmp_path):
    most = write_records(tmp_path / "b.jsonl", [{"text": "a", "label": 1.5}, {"text": "a", "label": 3e38}])
    found = predictions(load(regressor.folder), most)
    assert math.isfinite(value_metrics(found.scores[:, 0], found.labels)["loss"])


def test_a_pair_must_be_text(model, tmp_path):
    data = dataclasses.replace(model.config.data, pair_field="b")
    paired = dataclasses.replace(model, config=dataclasses.replace(model.config, data=data))
    source = write_records(tmp_path / "a.jsonl", [{"text": "a", "b": b, "label": "no"} for b in ("c", 7)])
    with pytest.raises(ValueError, match="record 2: field 'b' is int, not text"):
        predictions(paired, source)


def test_empty_and_long_texts(model, tmp_path, caplog):
    records = [{"text": "", "label": "no"}, {"text": "a film was " * 200, "label": "yes"}]
    source = write_records(tmp_path / "a.jsonl", records)
    with caplog.at_level(logging.WARNING):
        found = predictions(model, source)
    assert [record.args for record in caplog.records] == [(1, 2, "texts", 32)] and found.truncated == 1
    windows = predictions(model, source, WindowConfig())
    assert windows.truncated == 0 and windows.tokens.tolist() == found.tokens.tolist()
    np.testing.assert_allclose(windows.probabilities.sum(-1), 1)
