"""Retrieval as trec_eval measures it, and reranking: the order of the scores among the first results, nothing else."""

import dataclasses
import json
import logging
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxencoder.api import Model, load
from jaxencoder.evaluation.evaluate import evaluate_task
from jaxencoder.evaluation.retrieval import (
    evaluate_reranking,
    evaluate_retrieval,
    in_order,
    qrels_file,
    ranking_metrics,
    read_corpus,
    read_qrels,
    search_folder,
)
from jaxencoder.inference.options import EmbedOptions
from jaxencoder.inference.rerank import score_pairs

DOCUMENTS = [
    {"_id": "d1", "title": "lovely film", "text": "the plot was great"},
    {"_id": "d2", "title": "", "text": "awful cast a bad bad plot"},
    {"_id": "d3", "text": "sad film"},
    {"_id": "q1", "text": "lovely film the plot was great"},
]
QUERIES = [
    {"_id": "q1", "text": "lovely film the plot was great"},
    {"_id": "q2", "text": "awful cast a bad bad plot"},
    {"_id": "unjudged", "text": "the cast"},
]
NO_PROMPTS = {"options": EmbedOptions(), "query_prompt": None}


@pytest.fixture(scope="module")
def model(masked) -> Model:
    return load(masked.folder)


@pytest.fixture
def folder(tmp_path) -> Path:
    """A BEIR folder in which q1 asks for d1, and q2 for d2 and, a little, for d3."""
    for name, records in (("corpus", DOCUMENTS), ("queries", QUERIES)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "test.tsv").write_text(
        "query-id\tcorpus-id\tscore\nq1\td1\t1\nq2\td2\t2\nq2\td3\t1\nq2\td1\t0\n"
    )
    return tmp_path


def test_measures_by_hand():
    actual = [["a", "x", "b", "y"], ["x", "y"], [f"x{i}" for i in range(10)] + ["c"]]
    relevances = [{"a": 1, "b": 2, "z": 1, "x": 0}, {"w": 3}, {"c": 1}]
    gained = 1 + 2 / np.log2(4)
    best = 2 + 1 / np.log2(3) + 1 / np.log2(4)
    assert ranking_metrics(actual, relevances) == pytest.approx(
        {
            "ndcg@10": gained / best / 3,
            "map@10": (1 + 2 / 3) / 3 / 3,
            "recall@10": 2 / 3 / 3,
            "recall@100": (2 / 3 + 0 + 1) / 3,
            "mrr@10": 1 / 3,
        }
    )


def test_what_is_not_relevant_gains_nothing():
    assert set(ranking_metrics([["a", "b"], ["a"]], [{"a": -1, "b": 0}, {}]).values()) == {0.0}


def test_measures_are_those_of_trec_eval():
    pytrec_eval = pytest.importorskip("pytrec_eval")
    random = np.random.default_rng(0)
    documents = [f"d{i}" for i in range(300)]
    relevances, actual = {}, {}
    for i in range(40):
        judged = random.choice(documents, random.integers(1, 60), replace=False)
        relevances[f"q{i}"] = {str(d): int(x) for d, x in zip(judged, random.integers(-1, 4, len(judged)), strict=True)}
        actual[f"q{i}"] = [str(d) for d in random.permutation(documents)[: random.integers(1, 150)]]
    runs = {q: {d: -float(rank) for rank, d in enumerate(ranked)} for q, ranked in actual.items()}
    names = {"ndcg_cut_10": "ndcg@10", "map_cut_10": "map@10", "recall_10": "recall@10", "recall_100": "recall@100"}
    expected = pytrec_eval.RelevanceEvaluator(relevances, {"ndcg_cut.10", "map_cut.10", "recall.10,100"}).evaluate(runs)
    result = ranking_metrics(list(actual.values()), list(relevances.values()))
    for theirs, ours in names.items():
        assert result[ours] == pytest.approx(np.mean([values[theirs] for values in expected.values()])), ours
    cut = {q: dict(list(run.items())[:10]) for q, run in runs.items()}
    expected = pytrec_eval.RelevanceEvaluator(relevances, {"recip_rank"}).evaluate(cut)
    assert result["mrr@10"] == pytest.approx(np.mean([values["recip_rank"] for values in expected.values()]))


def test_equal_scores_are_in_the_order_of_trec_eval():
    """By identifier, descending: 9 before 10, and scores count as equal if they are so in float32."""
    assert in_order(["10", "zzz", "9", "b"], np.array([0.5, 0.1, 0.5 + 1e-9, 0.5])) == ["b", "9", "10", "zzz"]
    pytrec_eval = pytest.importorskip("pytrec_eval")
    random = np.random.default_rng(0)
    ids = [str(i) for i in random.permutation(60)]
    scores = {f"q{i}": random.integers(0, 4, len(ids)) / 3 for i in range(20)}
    relevances = {q: {i: int(random.integers(0, 2)) for i in ids[:20]} for q in scores}
    runs = {q: dict(zip(ids, x.tolist(), strict=True)) for q, x in scores.items()}
    expected = pytrec_eval.RelevanceEvaluator(relevances, {"ndcg_cut.10"}).evaluate(runs)
    result = ranking_metrics([in_order(ids, x) for x in scores.values()], list(relevances.values()))
    assert result["ndcg@10"] == pytest.approx(np.mean([values["ndcg_cut_10"] for values in expected.values()]))


@pytest.mark.parametrize("order", [["a", "b", "zzz"], ["b", "a", "zzz"], ["zzz", "b", "a"]])
def test_documents_of_equal_texts_are_found_by_identifier(model, tmp_path, order):
    corpus = [{"_id": i, "text": "awful" if i == "zzz" else "lovely film"} for i in order]
    for name, records in (("corpus", corpus), ("queries", [{"_id": "1", "text": "lovely film"}])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    for relevant, mrr in (("b", 1.0), ("a", 0.5)):
        (tmp_path / "qrels.tsv").write_text(f"1\t{relevant}\t1\n")
        assert evaluate_retrieval(model, tmp_path)["mrr@10"] == mrr


def test_the_document_with_the_text_of_the_query_is_found_first(model, folder, caplog):
    with caplog.at_level(logging.WARNING):
        result = evaluate_retrieval(model, folder, options=EmbedOptions(batch_tokens=64))
    assert (result["queries"], result["documents"]) == (2, 4)
    assert result["mrr@10"] == 1 and result["recall@10"] == result["recall@100"] == 1
    # Document q1 is as near to the query q1 as d1, and stands before it where it is not left out.
    assert [record.getMessage() for record in caplog.records] == [
        "1 documents have the id of the query that found them and were left out, as in BEIR."
    ]


def test_more_documents_than_are_searched_at_once(model, folder, monkeypatch):
    complete = evaluate_retrieval(model, folder)
    monkeypatch.setattr("jaxencoder.tasks.records._CHUNK_TEXTS", 1)
    assert evaluate_retrieval(model, folder) == pytest.approx(complete)


def test_prompts(model, folder):
    before = {"query_prompt": "sad film ", "options": EmbedOptions(prompt="awful awful bad ")}
    actual = search_folder(model, folder, "test", 4, **before)
    documents = list(read_corpus(folder))
    vectors = model.embed([x["text"] for x in documents], prompt="awful awful bad ", normalize=True)
    queries = model.embed(list(actual.queries.values()), prompt=before["query_prompt"], normalize=True)
    names = [document["_id"] for document in documents]
    ids = [in_order(names, scores) for scores in (queries @ vectors.T).round(5)]
    assert actual.rankings == [[i for i in row if i != query] for row, query in zip(ids, actual.queries, strict=True)]
    assert actual.rankings != search_folder(model, folder, "test", 4, **NO_PROMPTS).rankings
    result = evaluate_retrieval(model, folder, **before)
    assert result.items() >= ranking_metrics(actual.rankings, actual.relevances).items()


def test_title_and_text_are_one(folder):
    records = {record["_id"]: record["text"] for record in read_corpus(folder)}
    joined = "lovely film the plot was great"
    assert records == {"d1": joined, "d2": "awful cast a bad bad plot", "d3": "sad film", "q1": joined}


def test_split(model, folder):
    (folder / "qrels" / "dev.tsv").write_text("q2\td3\t1\n")
    assert evaluate_retrieval(model, folder, "dev")["queries"] == 1
    with pytest.raises(FileNotFoundError, match=r"qrels/train\.tsv; its splits are dev, test"):
        qrels_file(folder, "train")
    (folder / "qrels" / "test.tsv").rename(folder / "qrels.tsv")
    assert qrels_file(folder, "test") == folder / "qrels.tsv"
    with pytest.raises(FileNotFoundError, match="a BEIR folder has relevances there"):
        qrels_file(folder / "absent", "test")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("query-id\tcorpus-id\tscore\n1\ta\t2\n", {"1": {"a": 2}}),
        ("1\ta\t2\r\n\r\n1\tb\t-1\r\n", {"1": {"a": 2, "b": -1}}),
        ("\ufeff1\ta b\t0\n", {"1": {"a b": 0}}),
        ("1 0 a 2\n1  0  b 0\n2\tQ0\ta\t1\n", {"1": {"a": 2, "b": 0}, "2": {"a": 1}}),  # TREC
        ("Query-ID\tCorpus-ID\tScore\n1\ta\t1.0\n", {"1": {"a": 1}}),
        ("1\ta\t 1 \n1\tb\t+2\n", {"1": {"a": 1, "b": 2}}),
    ],
)
def test_relevances(tmp_path, text, expected):
    (tmp_path / "a.tsv").write_text(text, newline="")
    assert read_qrels(tmp_path / "a.tsv") == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "is empty: it judges no document"),
        (b"query-id\tcorpus-id\tscore\n", "is empty: it judges no document"),
        (b"1\ta\t1\n1 a 1\n", r"a\.tsv:2: '1 a 1' is not query"),
        (b"1\ta\t1\n1\tb\thigh\n", r"a\.tsv:2: "),
        (b"1\ta\t1\n1\tb\t0.5\n", r"a\.tsv:2: "),
        (b"corpus-id\tquery-id\tscore\na\t1\t1\n", r"a\.tsv:1: 'corpus-id"),
        (b"1 0 a b 1\n", r"a\.tsv:1: '1 0 a b 1' is not query"),
        (b"1\ta\t1\n1\t\xe9\t1\n", r"is not UTF-8 \(byte 8\)"),
    ],
)
def test_hostile_relevances(tmp_path, text, message):
    (tmp_path / "a.tsv").write_bytes(text)
    with pytest.raises(ValueError, match=message):
        read_qrels(tmp_path / "a.tsv")


@pytest.mark.parametrize(
    ("name", "line", "message"),
    [
        ("queries.jsonl", '{"_id": "q1", "text": "twice"}', "record 4: the id 'q1' is not unique"),
        ("corpus.jsonl", '{"text": "no id"}', 'record 5: "_id" is None'),
        ("corpus.jsonl", '{"_id": "d9"}', "jsonl:5: no field 'text'"),
        ("qrels/test.tsv", "q9\td1\t1", "lacks 1 of the 3 queries that were judged, such as 'q9'"),
    ],
)
def test_hostile_folders(model, folder, name, line, message):
    with (folder / name).open("a") as file:
        file.write(line + "\n")
    with pytest.raises(ValueError, match=message):
        evaluate_retrieval(model, folder)


def test_nothing_is_relevant(model, folder):
    (folder / "qrels" / "test.tsv").write_text("q1\td1\t0\n")
    with pytest.raises(ValueError, match="calls no document relevant"):
        evaluate_retrieval(model, folder)


def test_relevant_documents_that_are_not_there_count_as_missed(model, folder, caplog):
    (folder / "qrels" / "test.tsv").write_text("q2\td2\t1\nq2\tabsent\t1\n")
    assert evaluate_retrieval(model, folder)["recall@100"] == 0.5
    assert "1 relevant documents are missing from" in caplog.text


WORDS = ["lovely", "film", "plot", "great", "awful", "cast", "bad", "sad"]


@pytest.fixture(scope="module")
def reranking_folder(tmp_path_factory):
    reranking_folder, random = tmp_path_factory.mktemp("beir"), np.random.default_rng(0)
    text = lambda n: " ".join(random.choice(WORDS, n))  # noqa: E731
    corpus = [{"_id": f"d{i}", "title": text(1), "text": text(5)} for i in range(12)]
    queries = [{"_id": f"q{i}", "text": text(2)} for i in range(5)]
    for name, records in (("corpus", corpus), ("queries", queries)):
        (reranking_folder / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    lines = [f"q{i}\td{j}\t{random.integers(1, 3)}\n" for i in range(5) for j in random.choice(12, 3, replace=False)]
    (reranking_folder / "qrels").mkdir()
    (reranking_folder / "qrels" / "test.tsv").write_text("".join(lines))
    return reranking_folder


@pytest.mark.parametrize(
    ("k", "prompts"), [(4, {}), (100, {}), (4, {"query_prompt": "sad ", "options": EmbedOptions(prompt="")})]
)
def test_reranking_by_hand(pairs, masked, reranking_folder, k, prompts):
    model, first = load(pairs.folder), load(masked.folder)
    result = evaluate_reranking(model, reranking_folder, first, k=k, **prompts)
    alone = evaluate_retrieval(first, reranking_folder, **prompts)
    assert (alone == evaluate_retrieval(first, reranking_folder)) == (not prompts)
    ranking = {name: value for name, value in alone.items() if "@" in name}
    assert {name: result[f"first_{name}"] for name in ranking} == pytest.approx(ranking)
    actual = search_folder(first, reranking_folder, "test", 100, **NO_PROMPTS | prompts)
    texts = {record["_id"]: record["text"] for record in read_corpus(reranking_folder)}
    orders = []
    for query, ranked in zip(actual.queries.values(), actual.rankings, strict=True):
        first_k = ranked[:k]
        scores = [score_pairs(model, [query], [texts[i]])[0] for i in first_k]
        orders.append([i for _, i in sorted(zip(scores, first_k, strict=True), reverse=True)] + ranked[k:])
    assert orders != actual.rankings
    expected = ranking_metrics(orders, actual.relevances)
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
    assert [x.index for x in ranked] == np.argsort(-scores)[:2].tolist()
    assert ranked[0].score == pytest.approx(scores.max())
    objective = dataclasses.replace(model.config.objective, labels=1, class_names=())
    head = jax.tree.map(lambda x: x, model.params["classifier"])
    head["classifier"] = {name: x[..., :1] for name, x in head["classifier"].items()}
    config = dataclasses.replace(model.config, objective=objective)
    values = dataclasses.replace(model, config=config, params=model.params | {"classifier": head})
    actual = values.classify(["film"] * 3, texts)
    assert score_pairs(values, ["film"] * 3, texts).tolist() == pytest.approx([x.prediction for x in actual], abs=1e-5)
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
    first, source = str(masked.folder), str(tmp_path)
    result = evaluate_task(pairs.folder, "reranking", [source], output, first=first, k=5)[source]
    assert result["queries"] == len(kept["queries"]) and result["candidates"] == 5 * result["queries"]
    assert 0 <= result["first_mrr@10"] <= 1 and result["recall@100"] == result["first_recall@100"] == 1
    (stored,) = json.loads(output.read_text())["reranking"].values()
    assert stored == result | {"checkpoint": "latest", "step": 1, "first": str(masked.folder)}


def test_what_scores_no_pairs(classifier, multi_label_classifier, masked, pairs, reranking_folder):
    for run in (classifier, multi_label_classifier, masked):
        with pytest.raises(ValueError, match="this model does not score pairs"):
            evaluate_reranking(load(run.folder), reranking_folder, load(masked.folder))
    model = load(pairs.folder)
    many = dataclasses.replace(model.config.objective, labels=3, class_names=("0", "1", "2"))
    with pytest.raises(ValueError, match="has 3 classes, which give no single score"):
        score_pairs(dataclasses.replace(model, config=dataclasses.replace(model.config, objective=many)), ["a"], ["b"])
    named = dataclasses.replace(model.config.objective, labels=2, class_names=("entailment", "not_entailment"))
    with pytest.raises(ValueError, match="classes are entailment and not_entailment, which do not say which one is"):
        score_pairs(dataclasses.replace(model, config=dataclasses.replace(model.config, objective=named)), ["a"], ["b"])
    with pytest.raises(ValueError, match="k is 0"):
        evaluate_reranking(model, reranking_folder, load(masked.folder), k=0)
    with pytest.raises(ValueError, match="1 texts but 2 pairs"):
        score_pairs(model, ["a"], ["b", "c"])
    with pytest.raises(ValueError, match="reranking needs a model that searches"):
        evaluate_task(pairs.folder, "reranking", [str(reranking_folder)])
