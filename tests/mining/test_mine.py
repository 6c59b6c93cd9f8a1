"""Mining from file to file, with vectors that can be read from the texts: "30" has the vector at 30 degrees."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

import jaxencoder
from jaxencoder.inference import stored_vectors
from jaxencoder.inference.stored_vectors import StoredArray, Vectors, cached_numbers
from jaxencoder.mining import mine as mining
from jaxencoder.mining.config import MiningConfig, MiningData
from jaxencoder.model.multi_vector import MultiVectorConfig
from jaxencoder.model.sentence import SentenceConfig
from jaxencoder.model.sparse import SparseConfig
from jaxencoder.text.sources import read
from tests.tasks.conftest import write_records

PAIRS = [("0", "10"), ("0", "20"), ("90", "80"), ("90", "80"), ("180", " ")]


def model_named(name: str, **settings) -> SimpleNamespace:
    return SimpleNamespace(**{"name": name, "sentence": SentenceConfig(), "multi_vector": None} | settings)


@pytest.fixture
def computed(monkeypatch) -> list[str]:
    """Replaces the models: embeddings by the angle, a cross-encoder by the difference. Gives the computed texts."""
    seen: list[str] = []

    def embed(model, texts, options):
        seen.extend(texts)
        angles = np.radians([float(text) for text in texts])
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)

    def score_pairs(model, queries, texts, batch_tokens):
        seen.extend(texts)
        return -np.abs(np.array(queries, float) - np.array(texts, float))

    monkeypatch.setattr(stored_vectors, "embed", embed)
    monkeypatch.setattr(mining, "score_pairs", score_pairs)
    monkeypatch.setattr(mining, "check_cross_encoder", lambda model: None)
    monkeypatch.setattr(mining, "opened", model_named)
    monkeypatch.setattr(mining, "model_digest", lambda model: model.name)
    return seen


def mine(tmp_path, output="mined.jsonl", data=None, **options):
    data = data or MiningData(
        (
            write_records(
                tmp_path / "pairs.jsonl", [dict(zip(("query", "answer"), pair, strict=True)) for pair in PAIRS]
            ),
        ),
        corpus=(write_records(tmp_path / "corpus.jsonl", [{"text": t} for t in ("0", "30", "60", "60", "85", "")]),),
        pair_field="answer",
    )
    counts = jaxencoder.mine("model", data, tmp_path / output, cache=str(tmp_path / "cache"), **options)
    return counts, list(read(str(tmp_path / output), text_field="negative_1", required=()))


def cosines(query: int, *documents: int) -> list[float]:
    return [pytest.approx(np.cos(np.radians(query - x)), abs=1e-6) for x in documents]


def test_pairs_and_corpus(computed, tmp_path) -> None:
    """All positives of a query and the query itself are no negatives; equal and empty texts count once, and none."""
    counts, records = mine(tmp_path, config=MiningConfig(num_negatives=2))
    assert [list(record.values())[:4] for record in records] == [
        ["0", "10", "30", "60"], ["0", "20", "30", "60"], ["90", "80", "85", "60"]
    ]  # fmt: skip
    assert records[1]["scores"] == cosines(0, 20, 30, 60) and records[2]["scores"] == cosines(90, 80, 85, 60)
    assert counts["queries"] == 2 and counts["positives"] == 3 and counts["documents"] == 8 - 1
    assert counts["duplicates"] == 1 and counts["empty"] == 2 and counts["near_duplicates"] == 2
    assert counts["records"] == 3 and counts["negatives"] == 6 and counts["incomplete"] == 0
    assert counts["negative_score"] == pytest.approx(np.mean([record["scores"][1:] for record in records]))


def test_another_run_embeds_only_new_texts(computed, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(stored_vectors, "CHUNK", 2)
    first = mine(tmp_path)
    assert sorted(computed) == sorted(["0", "90", "10", "20", "80", "0", "30", "60", "85"])
    computed.clear()
    assert mine(tmp_path) == first and not computed
    mine(tmp_path, config=MiningConfig(relative_margin=0.1), cross_encoder="reranker")
    scored, _ = len(computed), computed.clear()
    assert scored and mine(tmp_path, config=MiningConfig(max_score=-20.0), cross_encoder="reranker") and not computed


def test_a_cross_encoder_decides(computed, tmp_path) -> None:
    _, records = mine(tmp_path, config=MiningConfig(max_score=-29.0, num_negatives=2), cross_encoder="reranker")
    assert records[0]["scores"] == [-10, -30, -60] and records[0]["negative_1"] == "30"
    assert records[2]["scores"] == [-10, -30, -60] and records[2]["negative_1"] == "60"


def test_queries_with_few_negatives(computed, tmp_path) -> None:
    """They are written with what there is, or left out."""
    config = MiningConfig(num_negatives=3, min_score=0.6)
    counts, records = mine(tmp_path, "mined.parquet", config=config)
    assert [record["negative_2"] for record in records] == [None, None, "60"] and counts["incomplete"] == 2
    assert [len(record["scores"]) for record in records] == [2, 2, 3]
    with pytest.raises(ValueError, match="no query has a negative within the limits"):
        mine(tmp_path, "none.jsonl", config=MiningConfig(num_negatives=3, min_score=0.6, complete=True))
    assert not (tmp_path / "none.jsonl").exists()


def test_relevance_judgments(computed, tmp_path) -> None:
    folder = tmp_path / "beir"
    (folder / "qrels").mkdir(parents=True)
    texts = {"a": "10", "b": "20", "c": "50"}
    write_records(folder / "corpus.jsonl", [{"_id": i, "title": "", "text": text} for i, text in texts.items()])
    write_records(folder / "queries.jsonl", [{"_id": "q", "text": "0"}, {"_id": "other", "text": "1"}])
    (folder / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\nq\tb\t1\nq\ta\t0\n")
    _, records = mine(tmp_path, data=str(folder), config=MiningConfig(num_negatives=2))
    assert [json.dumps(list(record.values())[:4]) for record in records] == ['["0", "20", "10", "50"]']
    with pytest.raises(FileNotFoundError, match="no file .*dev.tsv; its splits are"):
        mine(tmp_path, data=MiningData((str(folder),), split="dev"))


def test_queries_that_are_documents(computed, tmp_path) -> None:
    """As in ArguAna, a document with the id of the query is no negative of it, whatever its text."""
    (tmp_path / "beir" / "qrels").mkdir(parents=True)
    texts = {"a": "1", "b": "20", "c": "50"}
    write_records(tmp_path / "beir" / "corpus.jsonl", [{"_id": i, "text": text} for i, text in texts.items()])
    write_records(tmp_path / "beir" / "queries.jsonl", [{"_id": "a", "text": "0"}, {"_id": "q", "text": "2"}])
    (tmp_path / "beir" / "qrels" / "train.tsv").write_text("a\tb\t1\nq\tb\t1\n")
    _, records = mine(tmp_path, data=str(tmp_path / "beir"), config=MiningConfig(num_negatives=1))
    assert [record["negative_1"] for record in records] == ["50", "1"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sentence": SentenceConfig(sparse=SparseConfig())}, "gives sparse vectors, which are not stored; name a"),
        ({"multi_vector": MultiVectorConfig()}, "gives a vector for each token, which are not stored; name a dense"),
    ],
)
def test_other_models(settings: dict, message: str, computed, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(mining, "opened", lambda name: model_named(name, **settings))
    with pytest.raises(ValueError, match=message):
        mine(tmp_path)


def test_invalid_data(computed, tmp_path) -> None:
    with pytest.raises(ValueError, match="name the data to mine from"):
        mine(tmp_path, data=MiningData(()))
    source = write_records(tmp_path / "bad.jsonl", [{"anchor": "1", "positive": 2}])
    with pytest.raises(ValueError, match="record 1: field 'positive' is int, not text"):
        mine(tmp_path, data=source)
    with pytest.raises(ValueError, match="no extension that can be written"):
        mine(tmp_path, "mined.csv")


def test_vectors_by_row(tmp_path) -> None:
    """Of arrays, or of files that are open only while they are read."""
    table = np.arange(14, dtype=np.float32).reshape(7, 2)
    stored = StoredArray.of(cached_numbers(tmp_path, "key", lambda: table[3:6]))
    parts = Vectors([table[:3], stored, table[6:]])
    assert not isinstance(stored, np.ndarray) and [len(block) for block in parts.blocks()] == [3, 3, 1]
    rows = np.array([6, 0, 3, 3, 5])
    np.testing.assert_array_equal(parts.take(rows), table[rows])
    assert len(parts) == 7
