"""Bitext mining: metrics of MTEB, from scikit-learn, and both directions of sentence-transformers."""

import numpy as np
import pytest
from sklearn import metrics

from jaxencoder.evaluation.bitext import evaluate_bitext, matching_metrics
from tests.evaluation.conftest import MODEL, write


def test_metrics_equal_those_of_scikit_learn():
    random = np.random.default_rng(0)
    for size in (2, 5, 100):
        labels = np.arange(size)
        rows = np.where(random.random(size) < 0.6, labels, random.integers(0, size, size))
        precision, recall, f1, _ = metrics.precision_recall_fscore_support(
            labels, rows, average="weighted", zero_division=0
        )
        expected = {"f1": f1, "precision": precision, "recall": recall, "accuracy": recall}
        assert matching_metrics(rows) == pytest.approx(expected)


def test_both_directions(embedded, tmp_path):
    """A text equal to the right one is right in both directions, but another row."""
    rows = [("0", "10"), ("40", "30"), ("90", "80"), ("85", "80"), ("20", "70")]
    source = write(tmp_path / "a.jsonl", [{"sentence1": a, "sentence2": b} for a, b in rows])
    result = evaluate_bitext(MODEL, [source])
    assert sorted(embedded) == sorted({text for row in rows for text in row})
    # Forward 0 > 10, 40 > 30, 90 > 80, 85 > 80 (its first row), 20 > 10 (the first of equals); backward 80 > 85 twice.
    assert result["accuracy"] == result["recall"] == 3 / 5
    assert result["precision"] == pytest.approx((1 / 2 + 1 + 1 / 2) / 5)
    assert result["f1"] == pytest.approx((2 / 3 + 1 + 2 / 3) / 5)
    assert result["forward"] == 4 / 5
    assert result["both"] == (result["forward"] + result["backward"]) / 2


def test_aligned_files(embedded, tmp_path):
    for name, texts in (("de", "0\n50\n"), ("en", "10\n60\n")):
        (tmp_path / f"{name}.txt").write_text(texts)
    result = evaluate_bitext(MODEL, [f"aligned:{tmp_path}/de.txt|{tmp_path}/en.txt"])
    assert result == {"pairs": 2} | dict.fromkeys(list(result)[1:], 1.0)


def test_one_pair(embedded, tmp_path):
    source = write(tmp_path / "a.jsonl", [{"sentence1": "0", "sentence2": "1"}])
    with pytest.raises(ValueError, match="holds 1 pair; bitext mining needs several"):
        evaluate_bitext(MODEL, [source])
