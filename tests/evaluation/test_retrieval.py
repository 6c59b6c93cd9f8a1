import json
import logging
from pathlib import Path

import numpy as np
import pytest

from jaxencoder.api import Model, load
from jaxencoder.evaluation.retrieval import (
    evaluate_retrieval,
    qrels_file,
    ranking_metrics,
    read_corpus,
    read_qrels,
    search_folder,
)
from jaxencoder.inference.options import EmbedOptions

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
    found = [["a", "x", "b", "y"], ["x", "y"], [f"x{i}" for i in range(10)] + ["c"]]
    relevances = [{"a": 1, "b": 2, "z": 1, "x": 0}, {"w": 3}, {"c": 1}]
    gained = 1 + 2 / np.log2(4)
    best = 2 + 1 / np.log2(3) + 1 / np.log2(4)
    assert ranking_metrics(found, relevances) == pytest.approx(
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
    relevances, found = {}, {}
    for i in range(40):
        judged = random.choice(documents, random.integers(1, 60), replace=False)
        relevances[f"q{i}"] = {str(d): int(x) for d, x in zip(judged, random.integers(-1, 4, len(judged)), strict=True)}
        found[f"q{i}"] = [str(d) for d in random.permutation(documents)[: random.integers(1, 150)]]
    runs = {q: {d: -float(rank) for rank, d in enumerate(ranked)} for q, ranked in found.items()}
    names = {"ndcg_cut_10": "ndcg@10", "map_cut_10": "map@10", "recall_10": "recall@10", "recall_100": "recall@100"}
    expected = pytrec_eval.RelevanceEvaluator(relevances, {"ndcg_cut.10", "map_cut.10", "recall.10,100"}).evaluate(runs)
    result = ranking_metrics(list(found.values()), list(relevances.values()))
    for theirs, ours in names.items():
        assert result[ours] == pytest.approx(np.mean([values[theirs] for values in expected.values()])), ours
    cut = {q: dict(list(run.items())[:10]) for q, run in runs.items()}
    expected = pytrec_eval.RelevanceEvaluator(relevances, {"recip_rank"}).evaluate(cut)
    assert result["mrr@10"] == pytest.approx(np.mean([values["recip_rank"] for values in expected.values()]))


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
    whole = evaluate_retrieval(model, folder)
    monkeypatch.setattr("jaxencoder.tasks.records._CHUNK_TEXTS", 1)
    assert evaluate_retrieval(model, folder) == pytest.approx(whole)


def test_prompts(model, folder):
    before = {"query_prompt": "sad film ", "options": EmbedOptions(prompt="awful awful bad ")}
    found = search_folder(model, folder, "test", 4, **before)
    documents = list(read_corpus(folder))
    vectors = model.embed([x["text"] for x in documents], prompt="awful awful bad ", normalize=True)
    queries = model.embed(list(found.queries.values()), prompt=before["query_prompt"], normalize=True)
    orders = np.argsort(-(queries @ vectors.T).round(5), axis=1, kind="stable")
    ids = [[documents[i]["_id"] for i in order] for order in orders]
    assert found.rankings == [[i for i in row if i != query] for row, query in zip(ids, found.queries, strict=True)]
    assert found.rankings != search_folder(model, folder, "test", 4).rankings
    result = evaluate_retrieval(model, folder, **before)
    assert result.items() >= ranking_metrics(found.rankings, found.relevances).items()


def test_title_and_text_are_one(folder):
    assert [(record["_id"], record["text"]) for record in read_corpus(folder)] == [
        ("d1", "lovely film the plot was great"),
        ("d2", "awful cast a bad bad plot"),
        ("d3", "sad film"),
        ("q1", "lovely film the plot was great"),
    ]


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
        (b"1\ta\t0.5\n1\tb\t0.5\n", r"a\.tsv:2: "),
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
