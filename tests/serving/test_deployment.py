import dataclasses

import numpy as np
import pytest

from jaxencoder.inference.rerank import score_pairs
from jaxencoder.serving.errors import ServingError
from jaxencoder.serving.token_ids import text_of_ids
from jaxencoder.serving.truncation import Truncation
from jaxencoder.tasks.token_classification.predict import predict_tags

from .conftest import TEXTS

LONG = " ".join(TEXTS * 9)


def test_kinds(service):
    others = {
        "towers": "embedding",
        "cross_encoder": "reranker",
        "several_classes": "classifier",
        "values": "classifier",
    }
    kinds = {name: model.kind for name, model in service.deployments.items()}
    assert kinds == {name: others.get(name, name) for name in kinds}


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


@pytest.mark.parametrize("role", [None, "query", "document"])
def test_each_tower_embeds_texts_of_its_role(service, models, role):
    model, served = models["towers"], service.deployments["towers"]
    tower = model.queries if role == "query" else model
    hidden, mask = tower.tokens([*TEXTS, LONG])
    mean = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
    expected = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    np.testing.assert_allclose(served.embed([*TEXTS, LONG], role), expected, atol=1e-5)
    for vectors, row, is_token in zip(served.embed_tokens(TEXTS, role), hidden, mask, strict=False):
        np.testing.assert_allclose(vectors, row[is_token][: len(vectors)], atol=1e-5)


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


def test_a_cross_encoder_keeps_its_prompt_and_activation(service, models):
    model, query = service.deployments["cross_encoder"], "the cat"
    expected = score_pairs(models["cross_encoder"], [query] * len(TEXTS), TEXTS)
    np.testing.assert_allclose(model.rerank(query, TEXTS), expected, atol=1e-6)
    np.testing.assert_allclose(np.tanh(model.rerank(query, TEXTS, raw_scores=True)), expected, atol=1e-6)
    predicted = [scores[0].score for scores in model.predict([query] * len(TEXTS), TEXTS)]
    np.testing.assert_allclose(predicted, expected, atol=1e-6)
    room = models["cross_encoder"].max_length - len(
        models["cross_encoder"].tokenizer.encode_batch([query], [""])[0].ids
    )
    with pytest.raises(ValueError, match="at most 64 tokens"):  # with the prompt
        model.rerank(query, ["the " * room], truncation=Truncation(is_allowed=False))


def test_a_pair_has_the_probabilities_of_both_classes(service, models):
    ((first, second),) = service.deployments["reranker"].predict(["the cat"], ["a mat"])
    (expected,) = models["reranker"].classify(["the cat"], ["a mat"])
    assert {first.label: first.score, second.label: second.score} == pytest.approx(expected.probabilities, abs=1e-6)


def test_several_classes_and_values(service, models):
    for scores, expected in zip(
        service.deployments["several_classes"].predict(TEXTS), models["several_classes"].classify(TEXTS), strict=True
    ):
        assert dict(scores) == pytest.approx(expected.probabilities, abs=1e-6)
    for scores, expected in zip(
        service.deployments["values"].predict(TEXTS), models["values"].classify(TEXTS), strict=True
    ):
        assert [score for _, score in scores] == pytest.approx([expected.prediction], abs=1e-5)


def test_classes_are_the_models(service, models):
    for scores, expected in zip(
        service.deployments["classifier"].predict(TEXTS), models["classifier"].classify(TEXTS), strict=True
    ):
        assert [entry.label for entry in scores] == list(expected.probabilities)
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
    model, exact = service.deployments["embedding"], "the " * (limit - 2)
    assert len(models["embedding"].tokenize([exact])[0]) == limit == len(model.tokenize([exact])[0])
    model.embed([exact], truncation=refused)
    with pytest.raises(ValueError, match=f"at most {limit} tokens"):
        model.embed([exact], "query", truncation=refused)  # with its prompt


def test_ids_are_this_tokenizers(service, models):
    tokenizer = models["embedding"].tokenizer
    for text in (TEXTS[3], "", "the [MASK] sat"):
        for special in (False, True):
            (encoding,) = tokenizer.encode_batch([text], special=special)
            assert text_of_ids(tokenizer, encoding.ids.tolist()) == text
    with pytest.raises(
        ValueError, match="token id 100257 is outside this model's vocabulary.*check_embedding_ctx_length"
    ):
        text_of_ids(tokenizer, [5, 100257])
    pieces = [i for i, token in enumerate(map(tokenizer.token, range(tokenizer.vocab_size))) if token.startswith("##")]
    with pytest.raises(ValueError, match="are not what this model's tokenizer makes of"):
        text_of_ids(tokenizer, pieces[:6])


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
    with pytest.raises(ServingError, match=f"{kind} is an? {kind} model, not a"):
        work(service.deployments[kind])


def test_wrong_options(service):
    model = service.deployments["embedding"]
    with pytest.raises(ValueError, match="prompt_name is 'other', .*its prompts: query, passage"):
        model.embed(TEXTS, "other")
    with pytest.raises(ValueError, match="dimensions is 33; this model's vectors have 1 to 32"):
        model.embed(TEXTS, dimensions=33)
    with pytest.raises(ValueError, match="truncation_direction is Left"):
        service.deployments["classifier"].predict(TEXTS, truncation=Truncation(side="left"))
    with pytest.raises(ValueError, match="would drop the prompt 'the cat '"):
        model.embed(TEXTS, "query", truncation=Truncation(side="left"))


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
