import dataclasses

import numpy as np
import pytest

from jaxencoder.inference.rerank import score_pairs
from jaxencoder.serving.deployment import Truncation
from jaxencoder.serving.errors import ServingError
from jaxencoder.tasks.token_classification.predict import predict_tags

from .conftest import TEXTS

LONG = " ".join(TEXTS * 9)


def test_kinds(service):
    assert {name: model.kind for name, model in service.deployments.items()} == {
        name: name for name in service.deployments
    }


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("prompt", [None, "query"])
@pytest.mark.parametrize("dimensions", [None, 8])
def test_vectors_are_the_models(service, models, normalize, prompt, dimensions):
    options = {"normalize": normalize, "dimensions": dimensions}
    expected = models["embedding"].embed([*TEXTS, LONG, ""], prompt=prompt or "", **options)
    vectors = service.deployments["embedding"].embed([*TEXTS, LONG, ""], prompt, **options)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, expected, atol=1e-6)


def test_token_vectors_are_the_models(service, models):
    hidden, mask = models["embedding"].tokens(TEXTS)
    for vectors, row, is_token in zip(service.deployments["embedding"].embed_tokens(TEXTS), hidden, mask, strict=True):
        np.testing.assert_allclose(vectors, row[is_token], atol=1e-5)
    expected = models["multi_vector"].embed_tokens(TEXTS, "query")
    for vectors, row in zip(service.deployments["multi_vector"].embed_tokens(TEXTS, "query"), expected, strict=True):
        np.testing.assert_allclose(vectors, row, atol=1e-5)


def test_sparse_vectors_are_the_models(service, models):
    expected = models["sparse"].embed_sparse(TEXTS).toarray()
    for row, entries in zip(expected, service.deployments["sparse"].embed_sparse(TEXTS), strict=True):
        ids, weights = zip(*entries, strict=True)
        assert ids == tuple(np.flatnonzero(row))
        np.testing.assert_allclose(weights, row[list(ids)], atol=1e-5)


def test_scores_are_the_models(service, models):
    model, query = service.deployments["reranker"], "the cat"
    expected = score_pairs(models["reranker"], [query] * len(TEXTS), TEXTS)
    np.testing.assert_allclose(model.rerank(query, TEXTS, raw_scores=True), expected, atol=1e-5)
    np.testing.assert_allclose(model.rerank(query, TEXTS), 1 / (1 + np.exp(-expected)), atol=1e-6)
    matrices = models["multi_vector"].embed_tokens([query], "query"), models["multi_vector"].embed_tokens(TEXTS)
    expected = models["multi_vector"].max_similarities(*matrices)[0]
    np.testing.assert_allclose(service.deployments["multi_vector"].rerank(query, TEXTS), expected, rtol=1e-5)


def test_classes_are_the_models(service, models):
    for scores, expected in zip(
        service.deployments["classifier"].predict(TEXTS), models["classifier"].classify(TEXTS), strict=True
    ):
        assert scores[0].label == expected.prediction
        assert [entry.score for entry in scores] == sorted((entry.score for entry in scores), reverse=True)
        for label, score in scores:
            assert score == pytest.approx(expected.probabilities[label], abs=1e-6)


def test_tags_are_the_models(service, models):
    (expected,) = predict_tags(models["tagger"], [{"text": text} for text in TEXTS], "text")
    for entities, record in zip(service.deployments["tagger"].tag(TEXTS), expected, strict=True):
        assert [x["text"] for x in entities] == [x["text"] for x in record["entities"]]


def test_masks_are_filled_as_by_the_model(service, models):
    filled = service.deployments["embedding"].fill_mask("the [MASK] sat on a [MASK]", 3)
    assert filled == models["embedding"].fill_mask("the [MASK] sat on a [MASK]", 3)
    with pytest.raises(ValueError, match="more than 4 masks"):
        service.deployments["embedding"].fill_mask("[MASK] " * 5, 1)


def test_left_truncation_keeps_the_end(service, models):
    """Its vector is that of a text of its last tokens."""
    model, tokenizer = models["embedding"], models["embedding"].tokenizer
    (encoding,) = tokenizer.encode_batch([LONG], offsets=True)
    start = encoding.offsets[len(encoding.ids) - 1 - (model.max_length - 2)][0]
    (vector,) = service.deployments["embedding"].embed([LONG], truncation=Truncation(side="left"))
    np.testing.assert_allclose(vector, model.embed([LONG[start:]], prompt="", normalize=True)[0], atol=1e-6)
    assert abs(vector - service.deployments["embedding"].embed([LONG])[0]).max() > 1e-3


def test_long_texts_are_refused_if_asked(service, models):
    limit, refused = models["embedding"].max_length, Truncation(is_allowed=False)
    for name, work in {
        "embedding": lambda model: model.embed([TEXTS[0], LONG], truncation=refused),
        "sparse": lambda model: model.embed_sparse([LONG], truncation=refused),
        "multi_vector": lambda model: model.embed_tokens([LONG], truncation=refused),
        "reranker": lambda model: model.rerank("the", [LONG], truncation=refused),
        "classifier": lambda model: model.predict([LONG], truncation=refused),
    }.items():
        with pytest.raises(ValueError, match=f"`inputs` must have at most {limit} tokens. Given: "):
            work(service.deployments[name])
    assert len(service.deployments["embedding"].embed(TEXTS, truncation=refused)) == len(TEXTS)


def test_ids_are_this_tokenizers(service, models):
    model, tokenizer = service.deployments["embedding"], models["embedding"].tokenizer
    for special in (False, True):
        (encoding,) = tokenizer.encode_batch([TEXTS[3]], special=special)
        assert model.text_of_ids(encoding.ids.tolist()) == TEXTS[3]
    with pytest.raises(
        ValueError, match="token id 100257 is outside this model's vocabulary.*check_embedding_ctx_length"
    ):
        model.text_of_ids([5, 100257])
    pieces = [i for i, token in enumerate(map(tokenizer.token, range(tokenizer.vocab_size))) if token.startswith("##")]
    with pytest.raises(ValueError, match="are not what this model's tokenizer makes of"):
        model.text_of_ids(pieces[:6])


@pytest.mark.parametrize(
    ("kind", "work"),
    [
        ("classifier", lambda model: model.embed(TEXTS)),
        ("embedding", lambda model: model.predict(TEXTS)),
        ("embedding", lambda model: model.rerank("a", TEXTS)),
        ("embedding", lambda model: model.embed_sparse(TEXTS)),
        ("classifier", lambda model: model.tag(TEXTS)),
        ("classifier", lambda model: model.fill_mask("[MASK]", 1)),
    ],
)
def test_another_kind_of_model(service, kind, work):
    with pytest.raises(ServingError, match=f"{kind} is a {kind} model, not a"):
        work(service.deployments[kind])


def test_wrong_options(service):
    model = service.deployments["embedding"]
    with pytest.raises(ValueError, match="prompt_name is 'other', .*its prompts: query, passage"):
        model.embed(TEXTS, "other")
    with pytest.raises(ValueError, match="dimensions is 33; this model's vectors have 1 to 32"):
        model.embed(TEXTS, dimensions=33)
    with pytest.raises(ValueError, match="truncation_direction is Left"):
        service.deployments["classifier"].predict(TEXTS, truncation=Truncation(side="left"))
    with pytest.raises(ValueError, match="scores pairs of texts"):
        service.deployments["reranker"].predict(TEXTS)


def test_a_default_prompt(service, models):
    model = dataclasses.replace(service.deployments["embedding"], default_prompt="query")
    expected = models["embedding"].embed(TEXTS, prompt="query", normalize=True)
    np.testing.assert_allclose(model.embed(TEXTS), expected, atol=1e-6)


def test_tokens_and_their_characters(service, models):
    (tokens,) = service.deployments["embedding"].tokenize([TEXTS[0]])
    assert [token["id"] for token in tokens] == models["embedding"].tokenize([TEXTS[0]])[0].tolist()
    assert tokens[0]["special"] and tokens[0]["start"] is None
    for token in tokens[1:-1]:
        assert token["text"] == TEXTS[0][token["start"] : token["stop"]]
    (without,) = service.deployments["embedding"].tokenize([TEXTS[0]], special=False)
    assert without == tokens[1:-1]
