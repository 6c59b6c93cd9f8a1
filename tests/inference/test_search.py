import json

import numpy as np
import pytest

from jaxencoder.inference import embed
from jaxencoder.inference.search import most_similar, search

from .conftest import SENTENCES


def test_most_similar_is_cosine():
    random = np.random.default_rng(0)
    queries, vectors = random.normal(size=(3, 8)), random.normal(size=(20, 8)) * random.uniform(0.1, 9, (20, 1))
    cosines = [[q @ v / np.sqrt((q @ q) * (v @ v)) for v in vectors] for q in queries]
    scores, indices = most_similar(queries, vectors, 4)
    assert indices.tolist() == np.argsort(-np.array(cosines))[:, :4].tolist()
    np.testing.assert_allclose(scores, np.sort(cosines)[:, ::-1][:, :4], atol=1e-6)
    assert scores.dtype == np.float32


def test_most_similar_at_the_edges():
    scores, indices = most_similar(np.ones((1, 2)), np.array([[0, 0], [2, 2], [1, 1]]), 9)
    assert indices.tolist() == [[1, 2, 0]] and scores[0, 2] == 0 and scores.max() <= 1
    assert most_similar(np.ones((2, 4)), np.ones((0, 4)), 3)[0].shape == (2, 0)
    with pytest.raises(ValueError, match="k is 0"):
        most_similar(np.ones((1, 2)), np.ones((1, 2)), 0)
    with pytest.raises(ValueError, match=r"\(1, 2\) and \(1, 3\)"):
        most_similar(np.ones((1, 2)), np.ones((1, 3)))


@pytest.mark.parametrize("chunk", [7, 1000])
def test_search_finds_the_nearest_whatever_the_chunks(model, tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(embed, "_CHUNK_TEXTS", chunk)
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps({"text": text, "n": n}) + "\n" for n, text in enumerate(SENTENCES)))
    found = search(model, str(path), SENTENCES[50], k=6)
    scores, indices = most_similar(model.embed([SENTENCES[50]]), model.embed(SENTENCES), 6)
    assert [record["n"] for _, record in found] == indices[0].tolist()
    assert found[0][1] == {"text": SENTENCES[50], "n": 50}
    np.testing.assert_allclose([score for score, _ in found], scores[0], atol=1e-5)


def test_search_says_what_is_wrong(model, tmp_path):
    with pytest.raises(ValueError, match="k is 0"):
        search(model, "pydocs", "x", k=0)
    with pytest.raises(FileNotFoundError, match="absent"):
        search(model, str(tmp_path / "absent.jsonl"), "x")
