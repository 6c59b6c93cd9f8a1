"""Runs of sparse embeddings: trained, measured and used."""

import numpy as np
import pytest

from jaxencoder.config import DataConfig, SparseEmbeddings
from jaxencoder.evaluation.evaluate import evaluate
from jaxencoder.inference.load import load
from jaxencoder.inference.predict import predict
from jaxencoder.tasks.sparse.vectors import text_vectors
from tests.tasks.conftest import Trained, run_on_records, write_records

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
    return run_on_records(home / "sparse", SparseEmbeddings(queries="table"), data, make, steps=60)


def test_training_finds_the_similar_text(trained: Trained, tmp_path) -> None:
    random = np.random.default_rng(2)
    pairs = [{"anchor": text_of(random, river), "positive": text_of(random, river)} for river in RIVERS]
    metrics = evaluate(trained.folder, write_records(tmp_path / "pairs.jsonl", pairs), output=tmp_path / "results.json")
    assert metrics["accuracy"] == metrics["mrr"] == 1 and metrics["texts"] == metrics["examples"] == 6
    model = load(trained.folder)
    config = model.sentence.sparse
    queries, documents = (
        text_vectors(model, config, [pair[name] for pair in pairs], name == "anchor")[0]
        for name in ("anchor", "positive")
    )
    predicted = list(predict(trained.folder, pairs))
    expected = (queries.toarray() * documents.toarray()).sum(1)
    np.testing.assert_allclose([record["similarity"] for record in predicted], expected, rtol=1e-5)
    assert queries.nnz < documents.nnz and trained.result["document_active"] <= documents.shape[1]
