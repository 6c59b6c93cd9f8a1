"""Several classes for a text: metrics by scikit-learn, and a run from its data to its report."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import scipy.special
from sklearn import metrics

from jaxencoder.api import load
from jaxencoder.evaluation.calibration import as_decisions, calibration
from jaxencoder.evaluation.compare import compare
from jaxencoder.evaluation.evaluate import evaluate
from jaxencoder.evaluation.tables import format_metrics
from jaxencoder.inference.predict import predict, predict_file
from jaxencoder.tasks.classification.metrics import metrics_of_decisions, multi_label_metrics, per_label
from jaxencoder.tasks.classification.predict import predictions
from jaxencoder.text.config import WindowConfig
from tests.tasks.conftest import write_records

NAMES = ["Elbe", "Oder", "Spree"]


def scores_and_labels(N: int = 60, C: int = 4) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    labels = (random.random((N, C)) < [0.5, 0.2, 0.05, 0]).astype(np.int64)  # the last one is nowhere true
    return random.normal(0, 1.5, (N, C)) + labels, labels


def test_metrics_by_scikit_learn():
    scores, labels = scores_and_labels()
    found, said = multi_label_metrics(scores, labels), scores > 0
    p = scipy.special.expit(scores)
    assert found == pytest.approx(
        {
            "loss": np.mean([metrics.log_loss(y, q, labels=[0, 1]) for y, q in zip(labels.T, p.T, strict=True)]),
            "micro_f1": metrics.f1_score(labels, said, average="micro"),
            "macro_f1": metrics.f1_score(labels, said, average="macro", zero_division=0),
            "accuracy": metrics.accuracy_score(labels, said),
            "auprc": metrics.average_precision_score(labels[:, :3], scores[:, :3], average="macro"),
            "examples": 60,
        }
    )
    report = metrics.classification_report(labels, said, output_dict=True, zero_division=0)
    for c, values in enumerate(per_label(scores, labels)):
        assert [values[name] for name in ("precision", "recall", "f1", "examples")] == pytest.approx(
            [report[str(c)][name] for name in ("precision", "recall", "f1-score", "support")]
        )
    assert per_label(scores, labels)[3] == {"precision": 0, "recall": 0, "f1": 0, "auprc": 0, "examples": 0}


def test_classes_that_are_not_there():
    true = np.array([[True, False, False], [True, True, False]])
    found = np.array([[True, False, False], [False, True, False]])
    expected = {"micro_f1": 4 / 5, "macro_f1": (2 / 3 + 1) / 2, "accuracy": 0.5}
    assert metrics_of_decisions(found, true) == pytest.approx(expected)
    assert metrics_of_decisions(found[:, 2:], true[:, 2:] | [[True], [False]])["macro_f1"] == 0  # a single class
    nothing = np.zeros((1, 2), bool)
    assert metrics_of_decisions(nothing, nothing) == {"micro_f1": 0, "macro_f1": 0, "accuracy": 1}


def test_calibration_is_that_of_all_decisions():
    scores, labels = scores_and_labels(400)
    two, flat = as_decisions(scores, labels)
    np.testing.assert_allclose(scipy.special.softmax(two, axis=-1)[:, 1], scipy.special.expit(scores).ravel())
    found = calibration(scores, labels, (scores, labels))
    assert found["brier"] == pytest.approx(metrics.brier_score_loss(flat, scipy.special.expit(scores).ravel()))
    assert 0 < found["scaled_ece"] < 1 and found["temperature"] > 0


def test_a_run_as_the_trainer_saw_it(multi_label_classifier):
    model = load(multi_label_classifier.folder)
    objective = model.config.objective
    assert objective.multi_label and objective.class_names == tuple(NAMES)
    result = evaluate(multi_label_classifier.folder)
    assert result["examples"] == 40 and list(result["classes"]) == NAMES
    for name in ("loss", "accuracy", "micro_f1"):
        assert result[name] == pytest.approx(multi_label_classifier.result[name], rel=1e-4)
    assert result["micro_f1"] > 0.6  # it has learned something
    report = Path(result["report"])
    assert {path.name for path in report.iterdir()} == {"report.md", "reliability.png", "predictions.jsonl"}
    text = (report / "report.md").read_text()
    assert "40 records, any of 3 classes" in text and "so that there is no confusion matrix" in text
    lines = [json.loads(line) for line in (report / "predictions.jsonl").read_text().splitlines()]
    assert all(line["truth"] == line["record"]["label"] for line in lines)
    exact = sum(sorted(line["prediction"]) == line["truth"] for line in lines)
    assert exact / 40 == pytest.approx(result["accuracy"])
    assert set(result["slices"]["length in tokens"].popitem()[1]) == {"examples", "micro_f1", "macro_f1", "accuracy"}
    assert "micro_f1" in format_metrics(result) and "Spree" in format_metrics(result)


def test_thresholds(multi_label_classifier, tmp_path):
    held_out = predictions(load(multi_label_classifier.folder))
    test = write_records(tmp_path / "test.jsonl", held_out.records[:25])
    tuned = evaluate(multi_label_classifier.folder, data=test, tune_threshold="validation")["tuned"]
    assert list(tuned["classes"]) == NAMES
    above = held_out.probabilities[:25] >= [tuned["classes"][name]["threshold"] for name in NAMES]
    true = held_out.true[:25]
    for c, name in enumerate(NAMES):
        assert tuned["classes"][name]["f1"] == pytest.approx(metrics.f1_score(true[:, c], above[:, c]))
        half = metrics.f1_score(true[:, c], held_out.predicted[:25, c], zero_division=0)
        assert tuned["classes"][name]["half_f1"] == pytest.approx(half)
    assert tuned["accuracy"] == pytest.approx(metrics.accuracy_score(true, above))
    assert tuned["micro_f1"] == pytest.approx(metrics.f1_score(true, above, average="micro"))


def test_predictions_for_records(multi_label_classifier, tmp_path):
    texts = ["the Elbe", "Oder in the Spree", "a river"]
    plain = list(predict(multi_label_classifier.folder, [{"text": text} for text in texts], probabilities=True))
    for line in plain:
        expected = sorted((p, name) for name, p in line["probabilities"].items() if p >= 0.5)[::-1]
        assert line["prediction"] == [name for _, name in expected]
        assert line["probability"] == [p for p, _ in expected]
    (everything,) = predict(multi_label_classifier.folder, [{"text": texts[0]}], threshold=0.0)
    assert sorted(everything["prediction"]) == NAMES
    assert everything["probability"] == sorted(everything["probability"], reverse=True)
    model = load(multi_label_classifier.folder)
    (found,) = model.classify([texts[0]], threshold={"Oder": 0.0, "Elbe": 1.0})
    assert "Oder" in found.prediction and "Elbe" not in found.prediction
    source = write_records(tmp_path / "a.jsonl", [{"text": text} for text in texts])
    assert predict_file(model, source, tmp_path / "b.parquet", threshold=1.0) == 3
    (windows,) = model.classify([" ".join(texts * 9)], windows=WindowConfig())
    assert all(0 <= p <= 1 for p in windows.probabilities.values())
    assert model.classify(texts[:1], windows=WindowConfig()) == model.classify(texts[:1])
    with pytest.raises(ValueError, match="threshold for 'Rhine', which is none of the classes Elbe, Oder, Spree"):
        model.classify(texts, threshold={"Rhine": 0.5})
    with pytest.raises(ValueError, match="threshold is 2; give a probability"):
        model.classify(texts, threshold=2)


def test_a_table_whose_first_records_have_no_class(multi_label_classifier, tmp_path, monkeypatch):
    monkeypatch.setattr("jaxencoder.tasks.records._CHUNK_TEXTS", 1)
    source = write_records(tmp_path / "a.jsonl", [{"text": "a river"}, {"text": "the Oder in the Oder"}])
    model = load(multi_label_classifier.folder)
    none, most = (line["probabilities"]["Oder"] for line in predict(model, source, probabilities=True))
    threshold = {"Elbe": 1.0, "Spree": 1.0, "Oder": (none + most) / 2}
    predict_file(model, source, tmp_path / "b.parquet", threshold=threshold)
    lines = pq.read_table(tmp_path / "b.parquet").to_pylist()
    assert [line["prediction"] for line in lines] == [[], ["Oder"]]
    assert [line["probability"] for line in lines] == [[], [pytest.approx(most)]]


def test_what_has_no_threshold_or_no_comparison(multi_label_classifier, classifier):
    with pytest.raises(ValueError, match="threshold is 0.5, but this run predicts one class or a value"):
        load(classifier.folder).classify(["a film"], threshold=0.5)
    with pytest.raises(ValueError, match="these predict lists of classes"):
        compare([multi_label_classifier.folder], [multi_label_classifier.folder])
