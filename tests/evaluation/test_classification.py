"""Classification of vectors by MTEB's protocol; tests/test_mteb.py compares with MTEB itself."""

import logging

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from jaxencoder.evaluation.classification import draws, evaluate_classification, fit_and_measure
from tests.evaluation.conftest import MODEL, write


def labeled(*rows: tuple) -> list[dict]:
    return [{"text": text, "label": label} for text, label in rows]


@pytest.fixture
def sources(tmp_path) -> tuple[str, str]:
    """Training and test texts, whose angle is below or above 45 degrees for all but one."""
    train = labeled(*((str(i), "low" if i < 45 else "high") for i in range(0, 90, 3)))
    test = labeled(("1", "low"), ("20", "low"), ("80", "high"), ("85", "low"))
    return write(tmp_path / "train.jsonl", train), write(tmp_path / "test.jsonl", test)


def test_draws():
    labels = np.array([0, 1, 1, 0, 0, 1, 2, 0])
    first, second, third = draws(labels, 2, 3)
    assert first.tolist() == [1, 5, 0, 7, 6] and second.tolist() == [5, 4, 1, 6, 0]  # of MTEB 2.26
    assert sorted(labels[third]) == [0, 0, 1, 1, 2]


def test_metrics_by_hand(embedded, sources):
    train, test = sources
    result = evaluate_classification(MODEL, [test], train, samples_per_label=4, experiments=3)
    f1 = (2 * 2 / (2 + 3) + 2 * 1 / (2 + 1)) / 2
    # "low" comes after "high": precision 1 at recall 2 / 3, then 3 / 4.
    assert result == pytest.approx(
        {"texts": 4, "classes": 2, "accuracy": 0.75, "f1": f1, "ap": 2 / 3 + 3 / 4 / 3, "accuracy_sd": 0}
    )


def test_a_fit_ends_after_100_iterations():
    random = np.random.default_rng(0)
    vectors, labels = 100 * random.normal(size=(60, 20)), random.integers(0, 3, 60)
    expected = LogisticRegression(max_iter=100)
    with pytest.warns(match="failed to converge"):
        expected.fit(vectors, labels)
    tests = random.normal(size=(50, 20))
    result = fit_and_measure((vectors, labels), (tests, expected.predict(tests)))
    assert result["accuracy"] == 1


@pytest.mark.parametrize(
    ("train", "options", "message"),
    [
        (labeled(("1", "low"), ("2", "low")), {}, "holds only texts of the class 'low'; give texts of several"),
        (labeled(("1", 0), ("2", 1)), {}, "holds no text of the tested classes, such as 'high'; spell them alike"),
        (labeled(("1", ["low"])), {}, r"record 1: label \['low'\] is not a class; give text or a whole number"),
        (labeled(("1", 0.5)), {}, "label 0.5 is not a class"),
        ([{"text": "1"}], {}, "has the fields text, and none of label, .*--label-field"),
        ([{"a": "1", "label": 1}], {}, "has the fields a, label, and none of text, .*--text-field"),
        ([{"a": "1"}], {"samples_per_label": 0}, "0 texts per class in 10 experiments; give at least 1 of both"),
    ],
)
def test_hostile_data(sources, tmp_path, train, options, message):
    with pytest.raises(ValueError, match=message):
        evaluate_classification(MODEL, [sources[1]], write(tmp_path / "bad.jsonl", train), **options)


def test_a_class_without_training_texts(embedded, sources, tmp_path, caplog):
    test = write(tmp_path / "other.jsonl", labeled(("1", "low"), ("80", "none")))
    with caplog.at_level(logging.WARNING):
        result = evaluate_classification(MODEL, [test], sources[0], experiments=1)
    assert result["accuracy"] == 0.5 and "holds no text of 1 tested classes: none." in caplog.text


def test_without_training_texts(sources):
    with pytest.raises(ValueError, match="needs labeled texts to learn from; name them as train"):
        evaluate_classification(MODEL, [sources[1]])
