"""A model with a vector for each token: search, reranking, retrieval and files by it."""

import dataclasses
import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from jaxencoder.evaluation.retrieval import evaluate_reranking, evaluate_retrieval
from jaxencoder.inference.embed import embed, embed_file
from jaxencoder.inference.options import EmbedOptions
from jaxencoder.inference.rerank import rerank
from jaxencoder.inference.search import search
from jaxencoder.inference.token_vectors import embed_tokens, similarities
from jaxencoder.model.multi_vector import MultiVectorConfig, QueryExpansion, TokenPooling

TEXTS = ["the cat sat on the mat.", "", "dogs, and more dogs", "one two three four five six seven"]
QUERY = "the cat"


@pytest.fixture(scope="module")
def multi(model):
    settings = MultiVectorConfig(expansion=QueryExpansion(12), skipped_words=(",", "."))
    return dataclasses.replace(model, multi_vector=settings)


def expected(model) -> np.ndarray:
    """The similarities of the query and the texts by the plain formula."""
    (query,) = embed_tokens(model, [QUERY], EmbedOptions(prompt="query"))
    assert len(query) == 12
    return np.array([(query @ x.T).max(1).sum() for x in embed_tokens(model, TEXTS)])


def test_similarities(multi) -> None:
    queries = embed_tokens(multi, [QUERY, "dogs"], EmbedOptions(prompt="query"))
    documents = embed_tokens(multi, TEXTS)
    scores = similarities(multi, queries, documents)
    np.testing.assert_allclose(scores[0], expected(multi), rtol=1e-5)
    mean = dataclasses.replace(multi, multi_vector=dataclasses.replace(multi.multi_vector, mean=True))
    np.testing.assert_allclose(similarities(mean, queries, documents), scores / 12, rtol=1e-5)
    assert (similarities(multi, queries, [documents[0], documents[0][:0]])[:, 1] == -1e9).all()
    with pytest.raises(ValueError, match="not finite"):
        similarities(multi, queries, [documents[0] * np.nan])


def test_ranking(multi, tmp_path) -> None:
    lines = (json.dumps({"_id": str(i), "text": x}) + "\n" for i, x in enumerate(TEXTS))
    (tmp_path / "corpus.jsonl").write_text("".join(lines))
    (tmp_path / "queries.jsonl").write_text(json.dumps({"_id": "q", "text": QUERY}) + "\n")
    (tmp_path / "qrels.tsv").write_text("q\t0\t1\n")
    scores, order = expected(multi), np.argsort(-expected(multi))
    found = search(multi, str(tmp_path / "corpus.jsonl"), QUERY, k=4)
    assert [record["_id"] for _, record in found] == [str(i) for i in order]
    np.testing.assert_allclose([score for score, _ in found], scores[order], rtol=1e-5)
    assert [x.index for x in rerank(multi, QUERY, TEXTS)] == order.tolist()
    rank = 1 + order.tolist().index(0)
    assert evaluate_retrieval(multi, tmp_path)["mrr@10"] == pytest.approx(1 / rank)
    assert evaluate_reranking(multi, tmp_path, first=multi)["mrr@10"] == pytest.approx(1 / rank)


def test_long_queries_are_counted(multi, caplog) -> None:
    rerank(multi, "the cat " * 20, TEXTS)
    assert "1 of 1 queries are longer than 12 tokens and were truncated" in caplog.text


def test_files(multi, tmp_path) -> None:
    source = tmp_path / "texts.jsonl"
    source.write_text("".join(json.dumps({"text": x}) + "\n" for x in TEXTS if x))
    matrices = embed_tokens(multi, [x for x in TEXTS if x])
    for name in ("vectors.npz", "vectors.parquet", "vectors.jsonl"):
        assert embed_file(multi, str(source), tmp_path / name) == 3
    arrays = np.load(tmp_path / "vectors.npz")
    np.testing.assert_array_equal(arrays["vectors"], np.concatenate(matrices))
    assert arrays["lengths"].tolist() == [len(x) for x in matrices]
    rows = pq.read_table(tmp_path / "vectors.parquet").column("embedding").to_pylist()
    lines = [json.loads(line)["embedding"] for line in (tmp_path / "vectors.jsonl").read_text().splitlines()]
    for matrix, row, line in zip(matrices, rows, lines, strict=True):
        np.testing.assert_allclose([row, line], [matrix, matrix], rtol=1e-6)
    with pytest.raises(ValueError, match="vectors.npy cannot hold .* a matrix for each text; give .npz"):
        embed_file(multi, str(source), tmp_path / "vectors.npy")
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_pooling(multi) -> None:
    pooled = embed_tokens(multi, TEXTS, EmbedOptions(pool_factor=2))
    sizes = [len(x) for x in embed_tokens(multi, TEXTS)]
    assert [len(x) for x in pooled] == [1 + max(1, (n - 1) // 2) for n in sizes]
    own = dataclasses.replace(multi.multi_vector, pooling=TokenPooling(2.0))
    for a, b in zip(embed_tokens(dataclasses.replace(multi, multi_vector=own), TEXTS), pooled, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pooling": "mean"}, "pooling is 'mean', but this model gives a vector for each token"),
        ({"prompt": "passage"}, "prompt is 'passage', .*; give query or document"),
        ({"pool_factor": 0.5}, "pool_factor is 0.5; give a number of at least 1"),
        ({"prompt": "query", "max_length": 20}, "max_length is 20, but queries have 12 tokens"),
    ],
)
def test_refused(multi, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        embed_tokens(multi, TEXTS, EmbedOptions(**options))


def test_refused_by_other_models(model, multi) -> None:
    with pytest.raises(ValueError, match="gives a vector for each token, none for a text; use embed_tokens"):
        multi.embed(TEXTS)
    with pytest.raises(ValueError, match="pool_factor is 2, but this model gives one vector for a text"):
        embed(model, TEXTS, EmbedOptions(pool_factor=2))
    with pytest.raises(ValueError, match="pool_factor is 2, but vectors of a query are not pooled; leave it out"):
        embed_tokens(multi, TEXTS, EmbedOptions(prompt="query", pool_factor=2))
    with pytest.raises(ValueError, match="no vectors of tokens that are trained to be compared"):
        embed_tokens(model, TEXTS)
