"""Runs of rerankers: trained, measured, used, and opened by sentence-transformers."""

import numpy as np
import pytest

import jaxencoder
from jaxencoder.checkpoints.convert import convert
from jaxencoder.config import DataConfig, Reranking
from jaxencoder.evaluation.evaluate import evaluate
from jaxencoder.inference.predict import predict, predict_file
from jaxencoder.tasks.reranking.metrics import list_metrics
from jaxencoder.tasks.reranking.predict import list_scores
from tests.tasks.conftest import Trained, run_on_records, write_records

RIVERS = ["Elbe", "Spree", "Oder", "Rhine"]


@pytest.fixture(scope="module")
def trained(home) -> Trained:
    """The document that names the river of the query is the right one, among two to four."""

    def make(random):
        first, *others = random.permutation(RIVERS)[: random.integers(2, 5)].tolist()
        return {"query": f"the {first}", "positive": f"a {first}", "negatives": [f"a {name}" for name in others]}

    objective = Reranking(loss="infonce", dropout=0.0)
    return run_on_records(
        home / "reranker", objective, DataConfig(text_field="query", pair_field="positive"), make, steps=160, rate=8e-3
    )


def test_training_finds_the_right_document(trained: Trained, tmp_path) -> None:
    assert trained.result["accuracy"] > 0.5  # by chance 0.36
    records = [{"query": f"the {x}", "documents": [f"a {y}" for y in RIVERS]} for x in RIVERS]
    labeled = [x | {"labels": [float(y[2:] in x["query"]) for y in x["documents"]]} for x in records]
    source = write_records(tmp_path / "lists.jsonl", labeled)
    metrics = evaluate(
        trained.folder, source, output=tmp_path / "results.json", pair_field="documents", label_field="labels"
    )
    assert (metrics["queries"], metrics["documents"]) == (4, 16) and 0 < metrics["ap"] <= metrics[
        "mrr@10"
    ] == pytest.approx(metrics["map"])
    assert evaluate(trained.folder, output=tmp_path / "results.json")["ndcg@10"] > 0.7


def test_scores_of_records(trained: Trained, tmp_path) -> None:
    model = jaxencoder.load(trained.folder)
    (expected,) = list_scores(model, ["the Elbe"], [["a Elbe", "a Oder"]])
    records = [
        {"query": "the Elbe", "positive": "a Elbe", "negative": "a Oder", "id": 0},
        {"query": "the Elbe", "positive": ["a Elbe", "a Oder"], "id": 1},
        {"query": "the Elbe", "positive": "a Oder", "id": 2},
    ]
    first, second, third = predict(trained.folder, records)
    assert first == records[0] | {"scores": pytest.approx(expected)} and first["scores"] == second["scores"]
    assert third["score"] == pytest.approx(expected[1]) and "scores" not in third
    ranked = model.rerank("the Elbe", ["a Oder", "a Elbe"])
    assert {x.index: x.score for x in ranked} == pytest.approx({0: expected[1], 1: expected[0]})
    with pytest.raises(ValueError, match="already have a field 'score'"):
        list(predict(trained.folder, [third]))
    with pytest.raises(ValueError, match="record 1: field 'positive' is int"):
        list(predict(trained.folder, [{"query": "a", "positive": 3}]))
    source = write_records(tmp_path / "a.jsonl", records[1:2])
    assert predict_file(trained.folder, source, tmp_path / "scored.parquet") == 1


def test_sentence_transformers_opens_it(trained: Trained, tmp_path) -> None:
    peers = pytest.importorskip("sentence_transformers")
    convert(trained.folder, tmp_path / "saved", "sentence-transformers")
    theirs = peers.CrossEncoder(str(tmp_path / "saved"), device="cpu")
    pairs = [("the Oder", f"a {name}") for name in RIVERS]
    model = jaxencoder.load(trained.folder)
    scores = model.rerank("the Oder", [text for _, text in pairs])
    np.testing.assert_allclose(theirs.predict(pairs), [x.score for x in sorted(scores)], atol=1e-5)
    again = jaxencoder.load(tmp_path / "saved")
    assert again.cross_encoder == model.cross_encoder and again.max_length == model.max_length
    assert again.rerank("the Oder", [text for _, text in pairs]) == scores


def test_list_metrics() -> None:
    scores = [np.array([3.0, 2, 1, 0]), np.array([1.0, 1]), np.array([0.5]), np.array([2.0, 1])]
    labels = [np.array([0.0, 1, 0, 1]), np.array([1.0, 0]), np.array([1.0]), np.array([0.0, 0])]
    metrics = list_metrics(scores, labels)
    ndcg = (1 / np.log2(3) + 1 / np.log2(5)) / (1 + 1 / np.log2(3))
    assert metrics == {
        "queries": 4, "documents": 9, "pair_accuracy": pytest.approx((1 + 0.5) / 5), "mrr@10": 0.5,
        "ndcg@10": pytest.approx((ndcg + 1 / np.log2(3)) / 2), "map": 0.5, "ap": pytest.approx(metrics["ap"]),
    }  # fmt: skip
    graded = list_metrics([np.array([1.0, 2, 3])], [np.array([0.5, 0.7, 2.5])])
    assert graded.keys() == {"queries", "documents", "pair_accuracy", "pearson", "spearman"}
    assert graded["pair_accuracy"] == 1 and graded["spearman"] == pytest.approx(1)
