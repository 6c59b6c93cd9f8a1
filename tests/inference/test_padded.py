"""Inputs of the wrong kind: one sentence, never other numbers."""

import re

import numpy as np
import pytest

from jaxencoder.api import Model
from jaxencoder.tasks.classification.objective import Classification
from jaxencoder.tasks.token_classification.predict import tag_words
from jaxencoder.text.config import WindowConfig

WRONG_TEXTS = {
    "a text": "texts is one str, not a list",
    b"a text": "texts is one bytes, not a list",
    None: "texts is None, not a list of strings",
    5: "texts is 5, not a list of strings",
    ("a", None): "text 1 is None, not a string; pass a list",
    ("a", b"b"): "text 1 is b'b', not a string",
    ("a", 1.5): "text 1 is 1.5, not a string",
    ("a", ("a", "b")): "text 1 is ('a', 'b'), not a string; give second texts as pairs",
}
METHODS = {
    "embed": lambda model, texts: model.embed(texts),
    "embed in windows": lambda model, texts: model.embed(texts, windows=WindowConfig()),
    "tokens": lambda model, texts: model.tokens(texts),
    "token_chunks": lambda model, texts: list(model.token_chunks(texts)),
    "tokenize": lambda model, texts: model.tokenize(texts),
    "score": lambda model, texts: model.score(texts),
}


@pytest.fixture(scope="module")
def pair_classifier(make_model) -> Model:
    return make_model(Classification(labels=2, class_names=("0", "1")))


@pytest.mark.parametrize(("texts", "message"), WRONG_TEXTS.items())
def test_texts_of_the_wrong_type(model: Model, pair_classifier: Model, texts, message: str) -> None:
    for method in METHODS.values():
        with pytest.raises(ValueError, match=re.escape(message)):
            method(model, texts)
    with pytest.raises(ValueError, match=re.escape(message)):
        pair_classifier.classify(texts)
    if texts is not None:
        with pytest.raises(ValueError, match=re.escape(message.replace("text", "pair", 1))):
            pair_classifier.classify(["a", "b"], texts)


@pytest.mark.parametrize("texts", [{"a", "b"}, {"a": "b"}])
def test_texts_without_an_order(model: Model, texts) -> None:
    with pytest.raises(ValueError, match="texts is {.*}, not a list of strings; give a list"):
        model.embed(texts)


@pytest.mark.parametrize("text", [["a [MASK]"], ("a", "b"), None, b"[MASK]", 3])
def test_one_text_of_the_wrong_type(model: Model, make_model, text) -> None:
    with pytest.raises(ValueError, match="^text is .*, not a string; fill the masks of one text at a time$"):
        model.fill_mask(text)
    with pytest.raises(ValueError, match="^query is .*, not a string; rank texts for one query at a time$"):
        model.rerank(text, ["a"])


def test_words_as_one_string(model: Model) -> None:
    with pytest.raises(ValueError, match="^text 1 of words is one str, not a list of strings; put it in a list$"):
        tag_words(model, [["a"], "a b"])


ROWS = np.array([[2, 5, 6, 3], [2, 5, 3, 0]])
MASK = np.array([[1, 1, 1, 1], [1, 1, 1, 0]])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((ROWS, MASK[:, ::-1]), "attention_mask has padding before tokens; put it last"),
        ((ROWS, [[1, 1, 0, 1], [1, 1, 1, 0]]), "attention_mask has padding before tokens"),
        ((ROWS, MASK + 1), "attention_mask holds 1 to 2; this model has 0 to 1"),
        ((ROWS, MASK[:1]), "attention_mask has the shape [1, 4], but token_ids [2, 4]"),
        ((ROWS, MASK * 1.0), "attention_mask is an array of float64; give whole numbers"),
        ((ROWS[0],), "token_ids has the shape [4]; give rows [B, T], or choices [B, C, T]"),
        ((ROWS - 1,), "token_ids holds -1 to 5; this model has 0 to "),
        ((ROWS + 1000,), "token_ids holds 1000 to 1006; this model has 0 to "),
        ((ROWS * 1.0,), "token_ids is an array of float64"),
        ((["a text"],), "token_ids is an array of <U6"),
        (([[1, 2], [1]],), "token_ids has rows of several lengths; pad them to one"),
        ((ROWS, MASK, ROWS), "token_type_ids holds 0 to 6; this model has 0 to 1"),
        ((ROWS, MASK, ROWS[:, :2] * 0), "token_type_ids has the shape [2, 2]"),
    ],
)
def test_rows_that_no_model_reads(model: Model, arguments, message: str) -> None:
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        model(*arguments)


def test_rows_of_other_types(model: Model) -> None:
    """Lists and booleans are as good as arrays of integers."""
    expected = np.asarray(model(ROWS, MASK)["hidden"])[MASK > 0]
    for ids, mask in ((ROWS.tolist(), MASK.tolist()), (ROWS.astype(np.uint8), MASK > 0)):
        np.testing.assert_array_equal(np.asarray(model(ids, mask)["hidden"])[MASK > 0], expected)
