import numpy as np
import pytest

from .conftest import TEXTS

LONG = "the cat sat on a mat " * 30
ERROR = {"Empty": 400, "Validation": 422, "Backend": 424, "NotFound": 404}


def assert_error(reply, kind: str, sentence: str) -> None:
    assert reply.status_code == ERROR[kind]
    assert reply.json()["error_type"] == kind and sentence in reply.json()["error"]


@pytest.mark.parametrize("inputs", [TEXTS[0], TEXTS[:1], TEXTS])
def test_embed(client, models, inputs):
    reply = client.post("/embed", json={"inputs": inputs})
    texts = [inputs] if isinstance(inputs, str) else inputs
    expected = models["embedding"].embed(texts, prompt="", normalize=True)
    np.testing.assert_allclose(np.array(reply.json(), np.float32), expected, atol=1e-6)
    headers = reply.headers
    assert headers["x-compute-characters"] == str(sum(map(len, texts))) and headers["x-compute-type"] == "cpu"
    assert headers["x-compute-tokens"] == str(sum(map(len, models["embedding"].tokenize(texts))))
    for name in ("compute-time", "total-time", "tokenization-time", "queue-time", "inference-time"):
        assert headers[f"x-{name}"].isdigit()


def test_options_of_embed(client, models):
    body = {
        "inputs": [LONG],
        "normalize": False,
        "prompt_name": "query",
        "dimensions": 5,
        "truncation_direction": "Right",
    }
    expected = models["embedding"].embed([LONG], prompt="query", dimensions=5)
    np.testing.assert_allclose(client.post("/embed", json=body).json(), expected, atol=1e-6)
    reply = client.post("/embed", json=body | {"truncation_direction": "left"})
    assert_error(reply, "Validation", "truncation_direction is Left, which would drop the prompt 'the cat '")
    left = client.post("/embed", json={"inputs": [LONG], "truncation_direction": "left"}).json()
    assert np.abs(np.array(left) - client.post("/embed", json={"inputs": [LONG]}).json()).max() > 1e-3
    nulls = {"inputs": TEXTS[0], "normalize": None, "truncate": None, "prompt_name": None, "dimensions": None}
    assert client.post("/embed", json=nulls).json() == client.post("/embed", json={"inputs": TEXTS[0]}).json()


def test_ids_are_embedded_as_their_text(client, models):
    ids = [x.tolist() for x in models["embedding"].tokenize(TEXTS[:2])]
    expected = client.post("/embed", json={"inputs": TEXTS[:2]}).json()
    np.testing.assert_allclose(client.post("/embed", json={"inputs": ids}).json(), expected, atol=1e-6)
    np.testing.assert_allclose(client.post("/embed", json={"inputs": ids[0]}).json(), expected[:1], atol=1e-6)


@pytest.mark.parametrize(
    ("body", "kind", "sentence"),
    [
        ({"inputs": []}, "Empty", "`inputs` cannot be empty"),
        ({"inputs": ["a"] * 33}, "Validation", "batch size 33 > maximum allowed batch size 32"),
        ({"inputs": LONG, "truncate": False}, "Validation", "`inputs` must have at most 64 tokens. Given: "),
        ({"inputs": "a", "prompt_name": "other"}, "Validation", "prompt_name is 'other'"),
        ({"inputs": "a", "dimensions": 64}, "Validation", "dimensions is 64"),
        ({"inputs": "a", "dimensions": 0}, "Validation", "`dimensions`"),
        ({"inputs": "a", "normalise": True}, "Validation", "`normalise` is no field of this request"),
        ({"inputs": "a", "truncation_direction": "up"}, "Validation", "`truncation_direction`"),
        ({"inputs": 5}, "Validation", "`inputs` is wrong at 5: it should be a valid string, or a valid list"),
        ({"inputs": [1.5]}, "Validation", "`inputs` is wrong at [1.5]: it should be a valid string"),
        ({"inputs": {"text": "a"}}, "Validation", "`inputs` is wrong at {'text': 'a'}"),
        ({"inputs": [[1, 99999]]}, "Validation", "token id 99999 is outside this model's vocabulary"),
        ({}, "Validation", "`inputs` is missing"),
        ({"inputs": "a", "model": "other"}, "NotFound", "model is 'other'; this server has embedding"),
        ({"inputs": "a", "model": "classifier"}, "Backend", "classifier is a classifier model, not an embedding model"),
    ],
)
def test_errors_of_embed(client, body, kind, sentence):
    assert_error(client.post("/embed", json=body), kind, sentence)


def test_embed_all(client, models):
    hidden, mask = models["embedding"].tokens(TEXTS[:3])
    rows = client.post("/embed_all", json={"inputs": TEXTS[:3]}).json()
    for row, vectors, is_token in zip(rows, hidden, mask, strict=True):
        np.testing.assert_allclose(row, vectors[is_token], atol=1e-5)


def test_embed_sparse(client, models):
    rows = client.post("/embed_sparse", json={"inputs": TEXTS[:3]}).json()
    expected = models["sparse"].embed_sparse(TEXTS[:3]).toarray()
    for row, vector in zip(rows, expected, strict=True):
        dense = np.zeros(len(vector))
        for entry in row:
            dense[entry["index"]] = entry["value"]
        np.testing.assert_allclose(dense, vector, atol=1e-5)


def test_predict(client, models):
    (expected,) = models["classifier"].classify([TEXTS[0]])
    scores = client.post("/predict", json={"inputs": TEXTS[0]}).json()
    assert {x["label"]: x["score"] for x in scores} == pytest.approx(expected.probabilities, abs=1e-6)
    assert [x["score"] for x in scores] == sorted((x["score"] for x in scores), reverse=True)
    assert client.post("/predict", json={"inputs": [TEXTS[0]]}).json() == scores
    batch = client.post("/predict", json={"inputs": [[TEXTS[0]], [TEXTS[1], TEXTS[2]]]}).json()
    pair = client.post("/predict", json={"inputs": TEXTS[1:3]}).json()
    for row, alone in zip(batch, (scores, pair), strict=True):
        assert [x["score"] for x in row] == pytest.approx([x["score"] for x in alone], abs=1e-6)
    raw = client.post("/predict", json={"inputs": TEXTS[0], "raw_scores": True}).json()
    logits = np.array([x["score"] for x in raw])
    np.testing.assert_allclose(np.exp(logits) / np.exp(logits).sum(), [x["score"] for x in scores], atol=1e-6)
    assert_error(client.post("/predict", json={"inputs": ["a", "b", "c"]}), "Validation", "an input has 3 texts")
    assert_error(client.post("/predict", json={"inputs": [["a"], []]}), "Validation", "an input has 0 texts")


def test_predict_of_a_tagger(client, service):
    reply = client.post("/predict", json={"inputs": TEXTS[0], "model": "tagger"}).json()
    (expected,) = service.deployments["tagger"].tag([TEXTS[0]])
    assert [(x["entity_group"], x["word"], x["start"]) for x in reply] == [
        (x["type"], x["text"], x["start"]) for x in expected
    ]
    assert_error(client.post("/predict", json={"inputs": ["a", "b"], "model": "tagger"}), "Validation", "single texts")
    reply = client.post("/predict", json={"inputs": "a", "model": "tagger", "raw_scores": True})
    assert_error(reply, "Validation", "leave raw_scores and truncation_direction out")


def test_rerank(client, service):
    expected = service.deployments["reranker"].rerank("the cat", TEXTS)
    ranks = client.post("/rerank", json={"query": "the cat", "texts": TEXTS, "return_text": True}).json()
    assert [x["index"] for x in ranks] == np.argsort(-np.array(expected), kind="stable").tolist()
    for rank in ranks:
        assert rank["score"] == pytest.approx(expected[rank["index"]], abs=1e-6)
        assert rank["text"] == TEXTS[rank["index"]]
    raw = client.post("/rerank", json={"query": "the cat", "texts": TEXTS, "raw_scores": True}).json()
    assert 1 / (1 + np.exp(-raw[0]["score"])) == pytest.approx(ranks[0]["score"], abs=1e-6) and "text" not in raw[0]
    assert_error(client.post("/rerank", json={"query": "a", "texts": []}), "Empty", "`texts` cannot be empty")
    reply = client.post("/rerank", json={"query": "a", "texts": ["b"], "model": "embedding"})
    assert_error(reply, "Backend", "embedding is an embedding model")


def test_similarity(client, models):
    vectors = models["embedding"].embed(TEXTS[:4], prompt="query", normalize=True)
    inputs = {"source_sentence": TEXTS[0], "sentences": TEXTS[1:4]}
    for path in ("/similarity", "/"):
        reply = client.post(path, json={"inputs": inputs, "parameters": {"prompt_name": "query"}})
        np.testing.assert_allclose(reply.json(), vectors[1:] @ vectors[0], atol=1e-6)


def test_tokenize_and_decode(client, models):
    tokenizer = models["embedding"].tokenizer
    rows = client.post("/tokenize", json={"inputs": TEXTS[:2]}).json()
    ids = [[token["id"] for token in row] for row in rows]
    assert ids == [x.tolist() for x in models["embedding"].tokenize(TEXTS[:2])]
    assert [token["text"] for token in rows[0] if not token["special"]] == [
        TEXTS[0][token["start"] : token["stop"]] for token in rows[0] if not token["special"]
    ]
    (bare,) = client.post("/tokenize", json={"inputs": TEXTS[0], "add_special_tokens": False}).json()
    assert bare == rows[0][1:-1]
    assert client.post("/decode", json={"ids": ids}).json() == TEXTS[:2]
    assert client.post("/decode", json={"ids": ids[0]}).json() == TEXTS[:1]
    with_special = client.post("/decode", json={"ids": ids[0], "skip_special_tokens": False}).json()
    assert with_special == [tokenizer.decode(ids[0], skip_special=False)] != TEXTS[:1]
    assert_error(client.post("/decode", json={"ids": []}), "Empty", "`ids` cannot be empty")
    assert_error(client.post("/decode", json={"ids": [-1]}), "Validation", "id -1 is outside the vocabulary")


def test_fill_mask(client, models):
    ((best, *others),) = client.post("/fill-mask", json={"inputs": "the [MASK] sat", "top_k": 3}).json()
    ((expected, *_),) = models["embedding"].fill_mask("the [MASK] sat", 3)
    assert (best["token_str"], best["sequence"], len(others)) == (expected.token, expected.sentence, 2)
    assert_error(client.post("/fill-mask", json={"inputs": "the cat"}), "Validation", "has no mask to fill")


@pytest.mark.parametrize(
    ("kind", "path", "body"),
    [
        ("embedding", "/embed", {"inputs": TEXTS[0]}),
        ("sparse", "/embed_sparse", {"inputs": TEXTS[0]}),
        ("multi_vector", "/embed_all", {"inputs": TEXTS[0]}),
        ("classifier", "/predict", {"inputs": TEXTS[0]}),
        ("tagger", "/predict", {"inputs": TEXTS[0]}),
        ("reranker", "/rerank", {"query": "a", "texts": TEXTS}),
        ("reranker", "/predict", {"inputs": TEXTS[:2]}),
    ],
)
def test_the_models_own_route(client, kind, path, body):
    body = body | {"model": kind}
    assert client.post("/", json=body).json() == client.post(path, json=body).json()


def test_the_own_route_refuses_as_the_other_does(client):
    assert_error(client.post("/", json={"inputs": []}), "Empty", "`inputs` cannot be empty")
    assert_error(client.post("/", json={"inputs": "a", "normalise": 1}), "Validation", "`normalise` is no field")
    assert_error(client.post("/", json={"model": ["a"]}), "Validation", "`model`")


def test_info(client):
    info = client.get("/info").json()
    assert info["model_id"] == "embedding" and info["model_type"] == {"embedding": {"pooling": "mean"}}
    assert info["max_client_batch_size"] == 32 and info["max_input_length"] == 64 and info["auto_truncate"]
    classifier = client.get("/info", params={"model": "classifier"}).json()["model_type"]["classifier"]
    assert classifier == {
        "id2label": {"0": "bad", "1": "fair", "2": "good"},
        "label2id": {"bad": 0, "fair": 1, "good": 2},
    }
    assert list(client.get("/info", params={"model": "sparse"}).json()["model_type"]["embedding"].values()) == [
        "splade"
    ]
