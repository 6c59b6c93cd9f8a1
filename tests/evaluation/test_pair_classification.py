"""Pair classification: numbers of sentence-transformers and scikit-learn, also where scores are equal."""

import math

import numpy as np
import pytest

from jaxencoder.evaluation.pair_classification import (
    evaluate_pair_classification,
    pair_classification_metrics,
    read_labeled_pairs,
)
from jaxencoder.evaluation.tables import format_results
from jaxencoder.evaluation.text_pairs import Fields
from tests.evaluation.conftest import MODEL, write


def scored_pairs(*rows: tuple) -> list[dict]:
    return [{"question1": a, "question2": b, "is_duplicate": label} for a, b, label in rows]


def test_metrics_equal_those_of_sentence_transformers():
    evaluation = pytest.importorskip("sentence_transformers.sentence_transformer.evaluation")
    evaluator, random = evaluation.BinaryClassificationEvaluator, np.random.default_rng(0)
    for levels in (2, 3, 7, 1000):  # few levels: many equal scores
        for size in (2, 3, 40):
            for rate in (0.1, 0.5, 0.9):
                labels = random.random(size) < rate
                labels[:2] = True, False
                scores = random.integers(0, levels, size) / 3
                result = pair_classification_metrics(scores, labels)
                accuracy = evaluator.find_best_acc_and_threshold(scores, labels, True)
                f1 = evaluator.find_best_f1_and_threshold(scores, labels, True)
                names = ("accuracy", "accuracy_threshold", "f1", "precision", "recall", "f1_threshold")
                assert [result[name] for name in names] == [*accuracy, *f1]
                distances = evaluator.find_best_f1_and_threshold(-scores, labels, False)
                assert distances[3] == -result["f1_threshold"]


def test_metrics_by_hand():
    scores, labels = np.array([0.9, 0.8, 0.8, 0.1]), np.array([True, True, False, False])
    result = pair_classification_metrics(scores, labels)
    assert result == pytest.approx(
        {
            "ap": 1 / 2 + 2 / 3 / 2,
            "f1": 0.8,
            "f1_threshold": 0.45,
            "precision": 2 / 3,
            "recall": 1,
            "matthews": (2 * 1 - 1 * 0) / math.sqrt(3 * 2 * 2 * 1),
            "accuracy": 0.75,
            "accuracy_threshold": 0.85,
        }
    )
    all_wrong = pair_classification_metrics(-scores, labels)  # no threshold is better than calling none similar
    assert all_wrong["accuracy"] == 0.5 and all_wrong["accuracy_threshold"] > -0.1


def test_a_threshold_between_neighboring_scores():
    low = np.float64(0.5)
    high = np.nextafter(low, 1)
    result = pair_classification_metrics(np.array([high, low]), np.array([True, False]))
    assert result["accuracy_threshold"] == result["f1_threshold"] == high


def test_all_similarities(embedded, tmp_path):
    source = write(
        tmp_path / "a.jsonl", scored_pairs(("0", "10", 1), ("0", "90", 0), ("5", "25", True), ("0", "60", "0"))
    )
    own = evaluate_pair_classification(MODEL, [source])
    assert (own["pairs"], own["similar"], own["similarity"], own["ap"]) == (4, 2, "cosine", 1)
    assert own["f1_threshold"] == pytest.approx((np.cos(np.radians(20)) + 0.5) / 2)
    rows = evaluate_pair_classification(MODEL, [source], similarity="all")
    assert list(rows) == ["cosine", "dot", "euclidean", "manhattan"] and rows["cosine"] == own
    # The middle of the chords of 20 and 60 degrees.
    assert rows["euclidean"]["f1_threshold"] == pytest.approx(np.sin(np.radians(10)) + 0.5)
    table = format_results({"a": rows}).splitlines()
    assert table[1].split()[:4] == ["a", "cosine", "4", "2"] and "0.7198" in table[1]


@pytest.mark.parametrize(
    ("records", "message"),
    [
        (scored_pairs(("a", "b", 1), ("a", "c", 2)), "record 2: is_duplicate 2 is not 0 or 1; give 1 to similar pairs"),
        (scored_pairs(("a", "b", "duplicate")), "is_duplicate 'duplicate' is not 0 or 1"),
        (scored_pairs(("a", "b", None)), "is_duplicate None is not 0 or 1"),
        (scored_pairs(("a", "b", 1), ("a", "c", 1)), "only pairs with the label 1; .* needs pairs of both labels"),
        (scored_pairs(("a", 3, 1)), "field 'question2' is int, not text"),
        ([{"question1": "a", "question2": "b"}], "no field 'is_duplicate'"),
    ],
)
def test_hostile_records(tmp_path, records, message):
    source = write(tmp_path / "a.jsonl", records)
    with pytest.raises(ValueError, match=message):
        read_labeled_pairs([source], Fields("question1", "question2", "is_duplicate"))
