"""Reranking: the order of the scores among what was found first, and nothing else."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from jaxencoder.api import load
from jaxencoder.evaluation.evaluate import evaluate_task
from jaxencoder.evaluation.retrieval import (
    evaluate_reranking,
    evaluate_retrieval,
    ranking_metrics,
    read_corpus,
    search_folder,
)
from jaxencoder.inference.options import EmbedOptions
from jaxencoder.inference.rerank import score_pairs

WORDS = ["lovely", "film", "plot", "great", "awful", "cast", "bad", "sad"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder, random = tmp_path_factory.mktemp("beir"), np.random.default_rng(0)
    text = lambda n: " ".join(random.choice(WORDS, n))  # noqa: E731
    corpus = [{"_id": f"d{i}", "title": text(1), "text": text(5)} for i in range(12)]
    queries = [{"_id": f"q{i}", "text": text(2)} for i in range(5)]
    for name, records in (("corpus", corpus), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    lines = [f"q{i}\td{j}\t{random.integers(1, 3)}\n" for i in range(5) for j in random.choice(12, 3, replace=False)]
    (folder / "qrels").mkdir()
    (folder / "qrels" / "test.tsv").write_text("".join(lines))
    return folder


@pytest.mark.parametrize(
    ("k", "prompts"), [(4, {}), (100, {}), (4, {"query_prompt": "sad ", "options": EmbedOptions(prompt="")})]
)
def test_measures_by_hand(pairs, masked, folder, k, prompts):
    model, first = load(pairs.folder), load(masked.folder)
    result = evaluate_reranking(model, folder, first, k=k, **prompts)
    alone = evaluate_retrieval(first, folder, **prompts)
    assert (alone == evaluate_retrieval(first, folder)) == (not prompts)
    assert {name: result[f"first_{name}"] for name in alone if "@" in name} == pytest.approx(
        {name: value for name, value in alone.items() if "@" in name}
    )
    found = search_folder(first, folder, "test", 100, **prompts)
    texts = {record["_id"]: record["text"] for record in read_corpus(folder)}
    orders = []
    for query, ranked in zip(found.queries.values(), found.rankings, strict=True):
        own = ranked[:k]
        scores = [score_pairs(model, [query], [texts[i]])[0] for i in own]
        orders.append([i for _, i in sorted(zip(scores, own, strict=True), reverse=True)] + ranked[k:])
    assert orders != found.rankings
    expected = ranking_metrics(orders, found.relevances)
    assert {name: result[name] for name in expected} == pytest.approx(expected)
    assert result["candidates"] == 5 * min(k, 12) and (result["queries"], result["documents"]) == (5, 12)
    assert result["recall@100"] == result["first_recall@100"] == 1


def test_scores_are_the_log_odds_or_the_value(pairs):
    model = load(pairs.folder)
    texts = ["a lovely film", "an awful plot", "sad " * 60]
    scores = score_pairs(model, ["film"] * 3, texts)
    shares = [one.probabilities["1"] for one in model.classify(["film"] * 3, texts)]
    np.testing.assert_allclose(1 / (1 + np.exp(-scores)), shares, atol=1e-6)
    ranked = model.rerank("film", texts, k=2)
    assert [x.index for x in ranked] == np.argsort(-scores)[:2].tolist() and ranked[0].score == pytest.approx(
        scores.max()
    )
    objective = dataclasses.replace(model.config.objective, labels=1, class_names=())
    head = jax.tree.map(lambda x: x, model.params["classifier"])
    head["classifier"] = {name: x[..., :1] for name, x in head["classifier"].items()}
    config = dataclasses.replace(model.config, objective=objective)
    values = dataclasses.replace(model, config=config, params=model.params | {"classifier": head})
    found = values.classify(["film"] * 3, texts)
    assert score_pairs(values, ["film"] * 3, texts).tolist() == pytest.approx([x.prediction for x in found], abs=1e-5)
    assert model.rerank("film", []) == []


def test_a_subset_of_scifact(pairs, masked, shared_data, tmp_path):
    """Real queries and documents, of which a few are kept."""
    source = shared_data / "retrieval" / "scifact"
    judged = [line.split("\t") for line in (source / "qrels" / "test.tsv").read_text().splitlines()[1:8]]
    kept = {"queries": {q for q, _, _ in judged}, "corpus": {d for _, d, _ in judged}}
    for name, ids in kept.items():
        lines = (source / f"{name}.jsonl").read_text().splitlines()
        few = [line for i, line in enumerate(lines) if json.loads(line)["_id"] in ids or (name == "corpus" and i < 20)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(few) + "\n")
    (tmp_path / "qrels.tsv").write_text("".join("\t".join(x) + "\n" for x in judged))
    output = tmp_path / "results.json"
    (result,) = evaluate_task(
        pairs.folder, "reranking", [str(tmp_path)], output, first=str(masked.folder), k=5
    ).values()
    assert result["queries"] == len(kept["queries"]) and result["candidates"] == 5 * result["queries"]
    assert 0 <= result["first_mrr@10"] <= 1 and result["recall@100"] == result["first_recall@100"] == 1
    (stored,) = json.loads(output.read_text())["reranking"].values()
    assert stored == result | {"checkpoint": "latest", "step": 1, "first": str(masked.folder)}


def test_what_scores_no_pairs(classifier, multi_label_classifier, masked, pairs, folder):
    for run in (classifier, multi_label_classifier, masked):
        with pytest.raises(ValueError, match="this model does not score pairs"):
            evaluate_reranking(load(run.folder), folder, masked.folder)
    model = load(pairs.folder)
    many = dataclasses.replace(model.config.objective, labels=3, class_names=("0", "1", "2"))
    with pytest.raises(ValueError, match="has 3 classes, which give no single score"):
        score_pairs(dataclasses.replace(model, config=dataclasses.replace(model.config, objective=many)), ["a"], ["b"])
    named = dataclasses.replace(model.config.objective, labels=2, class_names=("entailment", "not_entailment"))
    with pytest.raises(
        ValueError, match="classes are entailment and not_entailment, which do not say which one is better"
    ):
        score_pairs(dataclasses.replace(model, config=dataclasses.replace(model.config, objective=named)), ["a"], ["b"])
    with pytest.raises(ValueError, match="k is 0"):
        evaluate_reranking(model, folder, masked.folder, k=0)
    with pytest.raises(ValueError, match="1 texts but 2 pairs"):
        score_pairs(model, ["a"], ["b", "c"])
    with pytest.raises(ValueError, match="reranking needs a model that searches"):
        evaluate_task(pairs.folder, "reranking", [str(folder)])
