"""The fields of pairs of texts, in sources of any kind."""

import pytest

from jaxencoder.evaluation.similarity import SCORE_NAMES
from jaxencoder.evaluation.text_pairs import find_fields


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["idx", "sentence1", "sentence2", "label"], ("sentence1", "sentence2", "label")),
        (["sentence1", "sentence2", "label", "score"], ("sentence1", "sentence2", "score")),
        (
            ["pair_ID", "sentence_A", "sentence_B", "relatedness_score"],
            ("sentence_A", "sentence_B", "relatedness_score"),
        ),
        (["text1", "text2", "similarity"], ("text1", "text2", "similarity")),
    ],
)
def test_usual_fields_are_found(names, expected):
    assert find_fields(names, label_names=SCORE_NAMES) == expected


def test_fields_can_be_named():
    names = ["a", "b", "gold", "sentence1", "sentence2", "score"]
    assert find_fields(names, "a", "b", "gold") == ("a", "b", "gold")
    assert find_fields(names, label="gold") == ("sentence1", "sentence2", "gold")
    assert find_fields(names, pair="b", label_names=SCORE_NAMES) == ("sentence1", "b", "score")


@pytest.mark.parametrize(
    ("names", "named", "message"),
    [
        (["a", "b", "score"], {}, "the fields a, b, score, and no usual pair of texts"),
        (["sentence1", "sentence2", "gold"], {}, "none of score, .*--label-field"),
        (
            ["sentence1", "sentence2", "score"],
            {"pair": "sentence1"},
            "not sentence1, sentence1, score; name others",
        ),
    ],
)
def test_fields_that_are_not_there(names, named, message):
    with pytest.raises(ValueError, match=message):
        find_fields(names, **named, label_names=SCORE_NAMES)


def test_pairs_without_a_label():
    assert find_fields(["sentence1", "sentence2", "label"]) == ("sentence1", "sentence2", "")
    assert find_fields(["text", "pair"]) == ("text", "pair", "")  # of aligned files
