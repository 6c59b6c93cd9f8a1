import base64

import numpy as np
import pytest

from .conftest import TEXTS


def test_embeddings(client, models):
    expected = models["embedding"].embed(TEXTS, prompt="", normalize=True)
    for path in ("/v1/embeddings", "/embeddings"):
        reply = client.post(path, json={"input": TEXTS, "model": "embedding", "user": "someone"}).json()
        assert reply["object"] == "list" and reply["model"] == "embedding"
        assert [(x["object"], x["index"]) for x in reply["data"]] == [("embedding", i) for i in range(len(TEXTS))]
        np.testing.assert_allclose([x["embedding"] for x in reply["data"]], expected, atol=1e-6)
        tokens = sum(map(len, models["embedding"].tokenize(TEXTS)))
        assert reply["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}


def test_base64_is_little_endian_float32(client):
    body = {"input": TEXTS[0], "dimensions": 7}
    numbers = client.post("/v1/embeddings", json=body).json()["data"][0]["embedding"]
    text = client.post("/v1/embeddings", json=body | {"encoding_format": "base64"}).json()["data"][0]["embedding"]
    np.testing.assert_allclose(np.frombuffer(base64.b64decode(text), "<f4"), numbers, atol=1e-7)


def test_more_texts_than_other_routes_take(client):
    assert len(client.post("/v1/embeddings", json={"input": ["a"] * 40}).json()["data"]) == 40
    reply = client.post("/v1/embeddings", json={"input": ["a"] * 2049})
    sentence = "batch size 2049 > maximum allowed batch size 2048"
    assert reply.status_code == 422 and reply.json() == {"message": sentence, "code": 422, "type": "Validation"}


def test_ids_of_another_tokenizer_are_refused(client, models):
    ids = [x.tolist() for x in models["embedding"].tokenize(TEXTS[:2])]
    assert len(client.post("/v1/embeddings", json={"input": ids}).json()["data"]) == 2
    reply = client.post("/v1/embeddings", json={"input": [[9906, 1917]]})
    assert reply.status_code == 422 and "check_embedding_ctx_length=False" in reply.json()["message"]


def test_one_models_name_does_not_matter(serve):
    client = serve()
    assert client.post("/v1/embeddings", json={"input": "a", "model": "text-embedding-3-small"}).status_code == 200


def test_models(client, models):
    listed = client.get("/v1/models").json()
    assert [x["id"] for x in listed["data"]] == list(models) and listed["data"][0]["object"] == "model"


def test_the_client_of_openai(address, models):
    openai = pytest.importorskip("openai")
    with openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client:
        reply = client.embeddings.create(input=TEXTS, model="embedding")  # asks for base64
        expected = models["embedding"].embed(TEXTS, prompt="", normalize=True)
        np.testing.assert_allclose([x.embedding for x in reply.data], expected, atol=1e-6)
        assert [model.id for model in client.models.list()] == list(models)
        with pytest.raises(openai.NotFoundError, match="model is 'other'"):
            client.embeddings.create(input=TEXTS, model="other")
        with pytest.raises(openai.UnprocessableEntityError, match="cannot be empty|dimensions is 99"):
            client.embeddings.create(input=TEXTS, model="embedding", dimensions=99)


def test_the_client_of_huggingface_hub(address, models, monkeypatch):
    from huggingface_hub import InferenceClient, constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # which would refuse this machine, too
    client = InferenceClient(address)
    expected = models["embedding"].embed(TEXTS[:1], prompt="query")
    vectors = client.feature_extraction(TEXTS[0], normalize=False, prompt_name="query")
    np.testing.assert_allclose(vectors, expected, atol=1e-6)
    scores = client.sentence_similarity(TEXTS[0], other_sentences=TEXTS[1:3])
    vectors = models["embedding"].embed(TEXTS[:3], prompt="", normalize=True)
    np.testing.assert_allclose(scores, vectors[1:] @ vectors[0], atol=1e-6)
