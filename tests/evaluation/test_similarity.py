import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jaxencoder.evaluation.similarity import evaluate_similarity, read_pairs
from jaxencoder.evaluation.text_pairs import Fields
from jaxencoder.model.sentence import SentenceConfig
from tests.evaluation.conftest import MODEL, write


def pairs(*rows: tuple) -> list[dict]:
    return [{"sentence1": a, "sentence2": b, "score": score} for a, b, score in rows]


def test_measures_by_hand(embedded, tmp_path):
    angles, scores = [10, 50, 20, 80], [4.5, 3.0, 1.0, 0.5]
    source = write(tmp_path / "a.jsonl", pairs(*(("0", str(a), s) for a, s in zip(angles, scores, strict=True))))
    result = evaluate_similarity(MODEL, [source])
    assert sorted(embedded) == ["0", "10", "20", "50", "80"]
    # Ranks of the cosines are 4 2 3 1, those of the scores 4 3 2 1: 1 - 6 * 2 / (4 * 15).
    assert result["spearman"] == pytest.approx(0.8)
    assert result["pearson"] == pytest.approx(np.corrcoef(np.cos(np.radians(angles)), scores)[0, 1])
    assert (result["pairs"], result["fields"]) == (4, ["sentence1", "sentence2", "score"])


@pytest.mark.parametrize("name", ["dot", "euclidean", "manhattan"])
def test_the_similarity_of_the_model(embedded, name, tmp_path):
    source = write(tmp_path / "a.jsonl", pairs(("0", "10", 4.5), ("0", "50", 3), ("0", "20", 1), ("0", "80", 0.5)))
    model: Any = SimpleNamespace(sentence=SentenceConfig(similarity=name))
    result = evaluate_similarity(model, [source])
    assert result["similarity"] == name and result["spearman"] == pytest.approx(0.8)


def test_several_sources_are_one_set(embedded, tmp_path):
    rows = pairs(("0", "10", 5), ("0", "90", 1), ("0", "30", 3), ("0", "60", 4))
    complete = evaluate_similarity(MODEL, [write(tmp_path / "whole.jsonl", rows)])
    (tmp_path / "parts").mkdir()
    first = write(tmp_path / "parts" / "1.jsonl", rows[:1])
    pq.write_table(pa.Table.from_pylist(rows[1:]), tmp_path / "parts" / "2.parquet")
    second = str(tmp_path / "parts" / "2.parquet")
    for sources in ([first, second], [str(tmp_path / "parts")], [str(tmp_path / "p*/*")]):
        assert evaluate_similarity(MODEL, sources) == complete


def test_equal_cosines_correlate_with_nothing(embedded, tmp_path):
    source = write(tmp_path / "a.jsonl", pairs(("0", "10", 1), ("0", "10", 2)))
    result = evaluate_similarity(MODEL, [source])
    assert (result["spearman"], result["pearson"]) == (0, 0)


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([*pairs(("a", "b", 1)), {"sentence1": "a", "sentence2": "b"}], r":2: no field 'score' among sentence1"),
        (pairs(("a", "b", 1), ("a", "b", math.nan)), "record 2: label nan is not a finite number"),
        (pairs(("a", "b", 1), ("a", "b", None)), "record 2: label None is not a finite number"),
        (pairs(("a", "b", 1), ("a", "b", "high")), "record 2: label 'high' is not a finite number"),
        (pairs(("a", "b", 1), ("a", 7, 2)), "record 2: field 'sentence2' is int, not text"),
        (pairs(("a", "b", 1), (None, "b", 2)), ":2: field 'sentence1' is NoneType, not text"),
        (pairs(("a", "b", 1)), "holds 1 pair; a correlation needs"),
        (pairs(("a", "b", -1), ("b", "c", -1)), "holds 2 pairs, all with the score -1"),
    ],
)
def test_hostile_records(tmp_path, records, message):
    source = write(tmp_path / "a.jsonl", records)
    with pytest.raises(ValueError, match=message):
        read_pairs([source], Fields("sentence1", "sentence2", "score"))


def test_a_model_that_diverged(embedded, tmp_path):
    source = write(tmp_path / "a.jsonl", pairs(("0", "10", 1), ("0", "nan", 2)))
    with pytest.raises(ValueError, match="not finite"):
        evaluate_similarity(MODEL, [source])


def test_no_records(embedded, tmp_path):
    with pytest.raises(ValueError, match="is empty"):
        evaluate_similarity(MODEL, [write(tmp_path / "a.jsonl", [])])
    with pytest.raises(FileNotFoundError, match="absent"):
        evaluate_similarity(MODEL, [str(tmp_path / "absent.jsonl")])


def test_all_minilm_on_the_sts_benchmark(shared_data, minilm):
    result = evaluate_similarity(minilm, [str(shared_data / "glue" / "stsb" / "test.jsonl")])
    assert result["pairs"] == 1379 and 100 * result["spearman"] == pytest.approx(82.03, abs=0.05)
