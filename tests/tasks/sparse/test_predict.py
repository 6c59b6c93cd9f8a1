"""Runs of sparse embeddings: trained, measured and used."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from jaxencoder.config import DataConfig, SparseEmbeddings
from jaxencoder.evaluation.evaluate import evaluate
from jaxencoder.evaluation.retrieval import evaluate_retrieval
from jaxencoder.inference.embed import embed, embed_file
from jaxencoder.inference.load import load
from jaxencoder.inference.options import EmbedOptions
from jaxencoder.inference.predict import predict
from jaxencoder.inference.search import search
from jaxencoder.tasks.sparse.vectors import text_vectors
from tests.tasks.conftest import Trained, run_on_records, write_records

PROMPTS = {"query_prompt": "a river: ", "document_prompt": "in: "}
RIVERS = ["Elbe", "Spree", "Oder", "Rhine", "Main", "Isar"]
FILLERS = ["the", "a", "river", "in", "of"]


def text_of(random, river: str) -> str:
    return " ".join(random.permutation([river, *random.choice(FILLERS, 3)]))


@pytest.fixture(scope="module")
def trained(home) -> Trained:
    """A text is similar to another one that names the same river; queries have a table."""

    def make(random):
        river = random.choice(RIVERS)
        return {"anchor": text_of(random, river), "positive": text_of(random, river)}

    data = DataConfig(text_field="anchor", pair_field="positive")
    return run_on_records(home / "sparse", SparseEmbeddings(queries="table", **PROMPTS), data, make, steps=60)


def test_training_finds_the_similar_text(trained: Trained, tmp_path) -> None:
    random = np.random.default_rng(2)
    pairs = [{"anchor": text_of(random, river), "positive": text_of(random, river)} for river in RIVERS]
    metrics = evaluate(trained.folder, write_records(tmp_path / "pairs.jsonl", pairs), output=tmp_path / "results.json")
    assert metrics["accuracy"] == metrics["mrr"] == 1 and metrics["texts"] == metrics["examples"] == 6
    model = load(trained.folder)
    config = model.sentence.sparse
    queries, documents = (
        text_vectors(model, config, [pair[name] for pair in pairs], name == "anchor", prompt)[0]
        for name, prompt in zip(("anchor", "positive"), PROMPTS.values(), strict=True)
    )
    predicted = list(predict(trained.folder, pairs))
    expected = (queries.toarray() * documents.toarray()).sum(1)
    np.testing.assert_allclose([record["similarity"] for record in predicted], expected, rtol=1e-5)
    assert queries.nnz < documents.nnz and trained.result["document_active"] <= documents.shape[1]


def test_embedding_and_search(trained: Trained, tmp_path) -> None:
    """Lists of tokens and weights in files, and a search by them with its statistics."""
    random = np.random.default_rng(3)
    documents = [{"_id": river, "text": text_of(random, river)} for river in RIVERS]
    corpus = write_records(tmp_path / "corpus.jsonl", documents)
    assert embed_file(trained.folder, corpus, tmp_path / "vectors.jsonl", options=EmbedOptions(max_active_dims=2)) == 6
    lines = [json.loads(line) for line in (tmp_path / "vectors.jsonl").read_text().splitlines()]
    assert all(line["embedding"][0]["weight"] >= line["embedding"][1]["weight"] > 0 for line in lines)
    embed_file(trained.folder, corpus, tmp_path / "vectors.parquet")
    table = pq.read_table(tmp_path / "vectors.parquet").to_pylist()
    assert [row["embedding"][:2] for row in table] == [line["embedding"] for line in lines]
    with pytest.raises(ValueError, match="cannot hold the model's sparse vectors; give .parquet or .jsonl"):
        embed_file(trained.folder, corpus, tmp_path / "vectors.npy")

    assert search(trained.folder, corpus, "a river Oder", 1)[0][1]["_id"] == "Oder"
    write_records(tmp_path / "queries.jsonl", [{"_id": river, "text": f"the {river}"} for river in RIVERS])
    (tmp_path / "qrels.tsv").write_text("".join(f"{river} 0 {river} 1\n" for river in RIVERS))
    model = load(trained.folder)
    metrics = evaluate_retrieval(model, tmp_path)
    texts = {"query": [f"the {river}" for river in RIVERS], "document": [document["text"] for document in documents]}
    active = {role: embed(model, texts[role], EmbedOptions(prompt=role, role=role)).toarray() != 0 for role in texts}
    for role, vectors in active.items():
        assert metrics[f"{role}_active"] == pytest.approx(vectors.sum(1).mean())
    assert metrics["flops"] == pytest.approx((active["query"].mean(0) * active["document"].mean(0)).sum())
