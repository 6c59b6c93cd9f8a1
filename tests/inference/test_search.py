import dataclasses

import numpy as np
import pytest

from jaxencoder.inference import search as search_module
from jaxencoder.inference.options import EmbedOptions
from jaxencoder.inference.search import Nearest, rank, search
from jaxencoder.model.similarity import pair_similarities
from tests.tasks.conftest import write_records

from .conftest import SENTENCES


def nearest(queries: np.ndarray, vectors: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    found = Nearest.empty(len(queries), k).updated(queries, vectors)
    return found.scores[:, : len(vectors)], found.indices[:, : len(vectors)]


def test_nearest_is_cosine():
    random = np.random.default_rng(0)
    queries, vectors = random.normal(size=(3, 8)), random.normal(size=(20, 8)) * random.uniform(0.1, 9, (20, 1))
    cosines = [[q @ v / np.sqrt((q @ q) * (v @ v)) for v in vectors] for q in queries]
    scores, indices = nearest(queries, vectors, 4)
    assert indices.tolist() == np.argsort(-np.array(cosines))[:, :4].tolist()
    np.testing.assert_allclose(scores, np.sort(cosines)[:, ::-1][:, :4], atol=1e-6)
    assert scores.dtype == np.float32


def test_nearest_at_the_edges():
    scores, indices = nearest(np.ones((1, 2)), np.array([[0, 0], [2, 2], [1, 1]]), 9)
    assert indices.tolist() == [[1, 2, 0]] and scores[0, 2] == 0 and scores.max() <= 1
    assert nearest(np.ones((2, 4)), np.ones((0, 4)), 3)[0].shape == (2, 0)
    with pytest.raises(ValueError, match="k is 0"):
        nearest(np.ones((1, 2)), np.ones((1, 2)), 0)
    with pytest.raises(ValueError, match="not finite"):
        nearest(np.ones((1, 2)), np.array([[1, np.nan]]), 5)


@pytest.mark.parametrize("scores", [1, 16, 1 << 24])
def test_of_equals_the_first_whatever_the_blocks(monkeypatch, scores):
    monkeypatch.setattr(search_module, "_SCORES", scores)
    random = np.random.default_rng(1)
    queries, vectors = random.normal(size=(3, 4)), np.eye(4)[random.integers(0, 4, 23)]
    _, indices = nearest(queries, vectors, 9)
    assert indices.tolist() == np.argsort(-queries @ vectors.T, axis=1, kind="stable")[:, :9].tolist()


def test_nearest_of_a_stream_are_those_of_the_whole():
    random = np.random.default_rng(2)
    queries, vectors = random.normal(size=(3, 8)), random.normal(size=(40, 8))
    found = Nearest.empty(3, 5)
    for end, size in ((3, 3), (20, 17), (40, 20)):
        found = found.updated(queries, vectors[end - size : end])
        scores, indices = nearest(queries, vectors[:end], 5)
        there = min(end, 5)
        assert found.seen == end and found.indices[:, :there].tolist() == indices.tolist()
        np.testing.assert_allclose(found.scores[:, :there], scores, atol=1e-6)
        assert (found.indices[:, there:] == -1).all() and np.isneginf(found.scores[:, there:]).all()


def test_queries_and_documents_have_their_own_prompts(model):
    prompts = (("query", "paris and "), ("document", "bread "))
    prompted = dataclasses.replace(model, sentence=dataclasses.replace(model.sentence, prompts=prompts))
    records, queries = [{"text": text} for text in SENTENCES[20:60]], SENTENCES[:3]
    ((chunk, found),) = rank(prompted, queries, records, 4)
    vectors = model.embed(queries, prompt="paris and "), model.embed(SENTENCES[20:60], prompt="bread ")
    scores, indices = nearest(*vectors, 4)
    assert chunk == records and found.indices.tolist() == indices.tolist()
    np.testing.assert_allclose(found.scores, scores, atol=1e-5)
    without, _ = nearest(model.embed(queries), model.embed(SENTENCES[20:60]), 4)
    assert np.abs(scores - without).max() > 1e-4
    # Asked for, a prompt is a stored one's name or a text, with or without stored ones; "" is none.
    for asked, one in (("document", prompted), ("bread ", model)):
        ((_, found),) = rank(one, queries, records, 4, query_prompt=asked, options=EmbedOptions(prompt=""))
        expected, _ = nearest(model.embed(queries, prompt="bread "), model.embed(SENTENCES[20:60]), 4)
        np.testing.assert_allclose(found.scores, expected, atol=1e-5)


def test_prompts_that_are_no_document_prompt(model, caplog):
    """As in sentence-transformers, neither "passage" nor the default prompt is put before documents."""
    settings = dataclasses.replace(model.sentence, prompts=(("passage", "bread "),), default_prompt="passage")
    prompted = dataclasses.replace(model, sentence=settings)
    records, queries = [{"text": text} for text in SENTENCES[20:60]], SENTENCES[:3]
    results = [list(rank(one, queries, records, 4))[-1][1] for one in (model, prompted)]
    np.testing.assert_array_equal(results[0].scores, results[1].scores)
    assert "prompt 'passage' is not put before documents, as in sentence-transformers; name the prompt" in caplog.text


@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean", "manhattan"])
def test_similarities_of_the_model(model, similarity):
    """In the ranking of a stream and for pairs, as sentence-transformers computes them."""
    torch_similarity = pytest.importorskip("sentence_transformers.util.similarity").SimilarityFunction
    random = np.random.default_rng(4)
    queries, vectors = random.normal(size=(3, 8)), random.normal(size=(30, 8)) * random.uniform(0.1, 9, (30, 1))
    expected = torch_similarity.to_similarity_fn(similarity)(queries, vectors).numpy()
    found = Nearest.empty(3, 30)
    for part in (vectors[:13], vectors[13:]):
        found = found.updated(queries, part, similarity)
    order = np.argsort(-expected, axis=1)
    assert found.indices.tolist() == order.tolist()
    np.testing.assert_allclose(found.scores, np.take_along_axis(expected, order, 1), rtol=1e-5, atol=1e-5)
    pairs = pair_similarities(similarity, queries, vectors[:3])
    np.testing.assert_allclose(pairs, np.diag(expected[:, :3]), rtol=1e-5)
    settings = dataclasses.replace(model.sentence, similarity=similarity)
    trained = dataclasses.replace(model, sentence=settings)
    ((_, found),) = rank(trained, SENTENCES[:2], [{"text": text} for text in SENTENCES[20:60]], 40)
    expected = torch_similarity.to_similarity_fn(similarity)(model.embed(SENTENCES[:2]), model.embed(SENTENCES[20:60]))
    np.testing.assert_allclose(found.scores, -np.sort(-expected.numpy(), axis=1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("chunk", [7, 1000])
def test_search_finds_the_nearest_whatever_the_chunks(model, tmp_path, monkeypatch, chunk):
    monkeypatch.setattr("jaxencoder.tasks.records._CHUNK_TEXTS", chunk)
    path = write_records(tmp_path / "in.jsonl", [{"text": text, "n": n} for n, text in enumerate(SENTENCES)])
    found = search(model, path, SENTENCES[50], k=6)
    scores, indices = nearest(model.embed([SENTENCES[50]]), model.embed(SENTENCES), 6)
    assert [record["n"] for _, record in found] == indices[0].tolist()
    assert found[0][1] == {"text": SENTENCES[50], "n": 50}
    np.testing.assert_allclose([score for score, _ in found], scores[0], atol=1e-5)
    found = search(model, path, SENTENCES[50], k=6, query_prompt="bread ", options=EmbedOptions(prompt="paris and "))
    vectors = model.embed([SENTENCES[50]], prompt="bread "), model.embed(SENTENCES, prompt="paris and ")
    np.testing.assert_allclose([score for score, _ in found], nearest(*vectors, 6)[0][0], atol=1e-5)


def test_search_says_what_is_wrong(model, tmp_path):
    with pytest.raises(ValueError, match="k is 0"):
        search(model, "pydocs", "x", k=0)
    with pytest.raises(FileNotFoundError, match="absent"):
        search(model, str(tmp_path / "absent.jsonl"), "x")
