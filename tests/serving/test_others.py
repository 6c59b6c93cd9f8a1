import base64

import numpy as np
import pytest

from jaxencoder.inference.quantize import quantize

from .conftest import TEXTS


def test_cohere_embed(client, models):
    body = {"texts": TEXTS, "input_type": "search_query", "embedding_types": ["float", "ubinary", "base64"]}
    reply = client.post("/v2/embed", json=body | {"output_dimension": 16, "model": "embedding"}).json()
    expected = models["embedding"].embed(TEXTS, prompt="query", dimensions=16, normalize=True)
    np.testing.assert_allclose(reply["embeddings"]["float"], expected, atol=1e-6)
    assert reply["embeddings"]["ubinary"] == quantize(expected, "ubinary").tolist()
    decoded = [np.frombuffer(base64.b64decode(x), "<f4") for x in reply["embeddings"]["base64"]]
    np.testing.assert_allclose(decoded, expected, atol=1e-6)
    assert reply["texts"] == TEXTS and reply["meta"]["billed_units"]["input_tokens"] > len(TEXTS)


@pytest.mark.parametrize(
    ("input_type", "prompt"), [("search_document", "passage"), ("passage", "passage"), ("clustering", ""), (None, "")]
)
def test_input_types_are_prompts(client, models, input_type, prompt):
    reply = client.post("/v2/embed", json={"texts": TEXTS, "input_type": input_type}).json()
    expected = models["embedding"].embed(TEXTS, prompt=prompt, normalize=True)
    np.testing.assert_allclose(reply["embeddings"]["float"], expected, atol=1e-6)


def test_cohere_truncation(client):
    long = "the cat sat on a mat " * 30
    vectors = {
        side: client.post("/v2/embed", json={"texts": [long], "truncate": side}).json()["embeddings"]["float"][0]
        for side in ("START", "END")
    }
    assert np.abs(np.subtract(*vectors.values())).max() > 1e-3
    reply = client.post("/v2/embed", json={"texts": [long], "truncate": "NONE"})
    assert reply.status_code == 422 and "must have at most 64 tokens" in reply.json()["error"]
    reply = client.post("/v2/embed", json={"texts": TEXTS, "input_type": "search_query", "model": "embedding"})
    assert reply.status_code == 200
    reply = client.post("/v2/embed", json={"texts": TEXTS, "input_type": "image"})
    assert reply.status_code == 422 and "input_type is 'image'" in reply.json()["error"]


def test_rerank(client, service):
    expected = np.array(service.deployments["reranker"].rerank("the cat", TEXTS))
    body = {"query": "the cat", "documents": [*TEXTS[:-1], {"text": TEXTS[-1]}], "top_n": 3}
    first, second = (client.post(f"/{version}/rerank", json=body).json()["results"] for version in ("v1", "v2"))
    assert [x["index"] for x in first] == np.argsort(-expected)[:3].tolist() == [x["index"] for x in second]
    assert [x["relevance_score"] for x in second] == pytest.approx(np.sort(expected)[::-1][:3], abs=1e-6)
    assert first[0]["document"] == {"text": TEXTS[first[0]["index"]]} and "document" not in second[0]
    shown = client.post("/v2/rerank", json=body | {"return_documents": True}).json()["results"]
    assert [x["document"] for x in shown] == [x["document"] for x in first]


@pytest.mark.parametrize("kind", ["reranker", "multi_vector", "embedding"])
def test_score(client, service, models, kind):
    if kind == "embedding":
        vectors = models[kind].embed(TEXTS[:3], prompt="", normalize=True)
        expected = vectors[1:] @ vectors[0]
    else:
        expected = service.deployments[kind].rerank(TEXTS[0], TEXTS[1:3])
    bodies = {"text_1": TEXTS[0], "text_2": TEXTS[1:3]}, {"queries": [TEXTS[0]] * 2, "documents": TEXTS[1:3]}
    for body in bodies:
        reply = client.post("/score", json=body | {"model": kind}).json()
        assert [x["index"] for x in reply["data"]] == [0, 1] and reply["model"] == kind
        np.testing.assert_allclose([x["score"] for x in reply["data"]], expected, rtol=1e-5, atol=1e-6)


def test_score_of_other_numbers_of_texts(client):
    reply = client.post("/score", json={"text_1": ["a", "b"], "text_2": ["c"]})
    assert reply.status_code == 422 and "2 first texts and 1 second ones" in reply.json()["error"]
    reply = client.post("/score", json={"text_1": "a", "queries": "b", "text_2": ["c"]})
    assert reply.status_code == 422 and "text_1 and queries" in reply.json()["error"]
    reply = client.post("/score", json={"text_1": "a"})
    assert reply.status_code == 422 and "no field for a second text" in reply.json()["error"]


def test_classify(client, models):
    expected = models["classifier"].classify(TEXTS)
    data = client.post("/classify", json={"input": TEXTS}).json()["data"]
    assert [x["label"] for x in data] == [x.prediction for x in expected]
    for x, y in zip(data, expected, strict=True):
        assert x["num_classes"] == 3 and x["probs"] == pytest.approx(list(y.probabilities.values()), abs=1e-6)
