"""Clustering by MTEB's protocols; tests/test_mteb.py compares with MTEB itself."""

import pytest

from jaxencoder.evaluation.clustering import evaluate_clustering
from tests.evaluation.conftest import MODEL, write

NEAR = [("1", "a"), ("2", "a"), ("3", "a"), ("60", "b"), ("61", "b"), ("62", "b")]


def labeled(*rows: tuple) -> list[dict]:
    return [{"text": text, "label": label} for text, label in rows]


def test_draws_from_one_set(embedded, tmp_path):
    source = write(tmp_path / "a.jsonl", labeled(*NEAR))
    assert evaluate_clustering(MODEL, [source], samples=40) == {"texts": 6, "v_measure": 1.0, "v_measure_sd": 0.0}
    halves = write(tmp_path / "b.jsonl", labeled(*((text, i % 2) for i, (text, _) in enumerate(NEAR))))
    assert 0 < evaluate_clustering(MODEL, [halves], samples=40, experiments=3)["v_measure"] < 0.2


def test_documents_are_chosen_first(embedded, tmp_path):
    source = write(tmp_path / "a.jsonl", labeled(*NEAR))
    assert evaluate_clustering(MODEL, [source], samples=9, documents=4)["texts"] == 4
    assert sorted(embedded) == ["1", "3", "61", "62"]  # random.Random(42).sample(range(6), 4) is 5, 0, 4, 2


def test_levels_of_a_hierarchy(embedded, tmp_path):
    rows = [(text, [label, f"{label}{i % 2}"] if i else [label]) for i, (text, label) in enumerate(NEAR)]
    result = evaluate_clustering(MODEL, [write(tmp_path / "a.jsonl", labeled(*rows))], samples=40, experiments=2)
    assert 0.5 < result["v_measure"] < 1 and result["v_measure_sd"] > 0.05  # the first level 1, the second less


def test_given_sets(embedded, tmp_path):
    texts, labels = map(list, zip(*NEAR, strict=True))
    sets = [{"sentences": texts, "labels": labels}, {"sentences": ["1", "90"], "labels": ["c", "c"]}]
    result = evaluate_clustering(MODEL, [write(tmp_path / "a.jsonl", sets)])
    assert result == {"texts": 8, "v_measure": 1.0, "v_measure_sd": 0.0}
    assert "90" not in embedded  # one class is one cluster


@pytest.mark.parametrize(
    ("records", "options", "message"),
    [
        (labeled(("1", "a"), ("2", "a")), {}, "all 2 texts are of one class; clustering needs several"),
        (labeled(*NEAR), {"samples": 1}, "draws of 1 texts cannot form 2 clusters; give more samples"),
        (labeled(*NEAR), {"documents": 0}, "documents 0; give at least 1"),
        (labeled(("1", "a"), ("2", None)), {}, "record 2: label None is not a class"),
        (labeled((["1", "2"], ["a"])), {}, "record 1: 2 texts need a list of as many labels"),
        (labeled((["1", "2"], ["a", "b"]), ("1", "a")), {}, "record 2 holds one text, but others a list"),
        (labeled(("1", "a"), (["1", "2"], ["a", "b"])), {}, "record 2 holds a list of texts, but others one"),
    ],
)
def test_hostile_records(embedded, tmp_path, records, options, message):
    with pytest.raises(ValueError, match=message):
        evaluate_clustering(MODEL, [write(tmp_path / "a.jsonl", records)], **options)
