"""Records to labelled examples: where an answer stands, and what is no answer."""

import pytest

from jaxencoder.text.examples import NO_ANSWER, answer, answers


def test_answers():
    text = "Elbe, the Elbe"
    assert answer({"text": ["Elbe"], "answer_start": [10]}, text, "") == (10, 14)
    assert answer({"text": ["Elbe"], "answer_start": [9]}, text, "") == (10, 14)  # one off, as in some sets
    assert answer({"text": ["Elbe"], "answer_start": [-4]}, text, "") == (0, 4)  # not counted from the end
    assert answer({"text": [], "answer_start": []}, text, "") == NO_ANSWER
    for value in (
        {"text": ["Rhine"], "answer_start": [0]},
        {"text": ["Elbe"]},
        None,
        {"text": [3], "answer_start": [0]},
        {"text": "Elbe", "answer_start": [0]},
        {"text": ["Elbe"], "answer_start": "0"},
        {"text": "", "answer_start": []},
        {"text": ["Elbe"], "answer_start": [float("inf")]},
    ):
        with pytest.raises(ValueError, match="record 7: the answer"):
            answer(value, text, "record 7")


def test_every_answer_of_a_record():
    assert answers({"text": ["a", "b"], "answer_start": [0, 1]}, "") == ["a", "b"] and answers({"text": []}, "") == []
    for value in (None, {}, {"text": [1]}, {"text": "Rome"}):
        with pytest.raises(ValueError, match="record 7: the answers"):
            answers(value, "record 7")
