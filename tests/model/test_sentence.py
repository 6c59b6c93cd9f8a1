"""From hidden states to vectors: packed documents, prompts and sizes. What the modules compute is compared with
sentence-transformers in tests/families/test_sentence_parity.py."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from jaxencoder.model.sentence import Dense, LayerNorm, Normalize, SentenceConfig, finish_vectors, sentence_vectors

HIDDEN = np.random.default_rng(0).standard_normal((2, 7, 6)).astype(np.float32)
SEGMENTS = np.array([[1, 1, 1, 2, 2, 3, 0], [1, 1, 1, 1, 1, 1, 1]])
MODULES = (Dense(12, 6, residual=True), Normalize(), LayerNorm(6), Dense(6, 5, bias=False, activation="gelu"))
SETTINGS = SentenceConfig(("weightedmean", "lasttoken"), modules=MODULES, dimensions=4, renormalize=True)
DRAW = lambda i, shape: np.random.default_rng(i).standard_normal(shape).astype(np.float32)  # noqa: E731
PARAMS = {str(i): {name: DRAW(i, shape) for name, shape in m.shapes().items()} for i, m in enumerate(MODULES)}


@pytest.mark.parametrize("skip", [None, 1])
def test_packed_documents_have_the_vectors_of_each_alone(skip: int | None) -> None:
    run = jax.jit(sentence_vectors, static_argnums=(0, 4))
    together = run(SETTINGS, PARAMS, HIDDEN, SEGMENTS, 3, skip)
    assert together.shape == (2, 3, 4) and together.dtype == np.float32
    for row, number in [(0, 1), (0, 2), (1, 1)]:
        alone = HIDDEN[row][SEGMENTS[row] == number][None]
        vector = run(SETTINGS, PARAMS, alone, np.ones(alone.shape[:2], np.int32), 1, skip)[0, 0]
        np.testing.assert_allclose(together[row, number - 1], vector, atol=1e-6)
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("pooling", ["mean", "cls", "max", "lasttoken", "weightedmean", "mean_sqrt_len"])
def test_absent_documents_have_finite_gradients(pooling: str) -> None:
    config = SentenceConfig((pooling,), normalize=True, dimensions=4, renormalize=True)
    absent = jax.grad(lambda x: sentence_vectors(config, {}, x, SEGMENTS, 3)[1, 1:].sum())(HIDDEN)
    np.testing.assert_array_equal(absent, 0)
    present = jax.grad(lambda x: sentence_vectors(config, {}, x, SEGMENTS, 3).sum())(HIDDEN)
    assert np.isfinite(present).all() and np.abs(present).max() > 0.01


def test_normalized_vectors_are_truncated_and_normalized_again() -> None:
    config = SentenceConfig(normalize=True)
    whole, shorter, again = (
        np.asarray(finish_vectors(x, {}, HIDDEN))
        for x in (config, replace(config, dimensions=4), replace(config, dimensions=4, renormalize=True))
    )
    np.testing.assert_allclose(np.linalg.norm(whole, axis=-1), 1, atol=1e-6)
    np.testing.assert_array_equal(shorter, whole[..., :4])
    np.testing.assert_allclose(again, shorter / np.linalg.norm(shorter, axis=-1, keepdims=True), atol=1e-6)


def test_shapes_and_sizes() -> None:
    assert PARAMS["0"].keys() == {"kernel", "bias", "residual"} and PARAMS["3"].keys() == {"kernel"}
    assert SETTINGS.size(6) == 5 and SentenceConfig().size(6) == 6
    with pytest.raises(ValueError, match="Dense takes vectors of size 12, but gets size 6 with mean pooling"):
        SentenceConfig(modules=MODULES).size(6)
    with pytest.raises(ValueError, match="LayerNorm takes vectors of size 4, but gets size 5 with mean pooling"):
        SentenceConfig(modules=(Dense(6, 5), LayerNorm(4))).size(6)


@pytest.mark.parametrize(
    ("asked", "text"),
    [(None, "query: "), ("passage", "passage: "), ("a name", "with a space")]
    + [(text, text) for text in ("", "query: ", "Find it:", "为这个句子：")],
)
def test_prompt(asked: str | None, text: str) -> None:
    prompts = (("query", "query: "), ("passage", "passage: "), ("a name", "with a space"))
    assert SentenceConfig(prompts=prompts, default_prompt="query").prompt(asked) == text
    if asked is None:
        assert SentenceConfig(prompts=prompts).prompt(None) == ""


@pytest.mark.parametrize("asked", ["passages", "s2p_query", "retrieval.query", "InstructionRetrieval-x"])
def test_an_unknown_name_is_not_a_prompt(asked: str) -> None:
    with pytest.raises(ValueError, match=rf"The model has no prompt '{asked}' \(query\); give one of its prompts"):
        SentenceConfig(prompts=(("query", "query: "),)).prompt(asked)
    with pytest.raises(ValueError, match="it has none"):
        SentenceConfig().prompt(asked)
