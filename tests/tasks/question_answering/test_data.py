"""Windows over a text hold the answer where it is, as published code makes them."""

import json

import numpy as np
import pytest

from jaxencoder.tasks.question_answering.data import answer_pieces, answer_span, answer_texts, question_windows
from jaxencoder.text.tokenizers.tokenizer import Tokenizer

START, END, BOTH, NO_ANSWER = 0, 1, 2, (-1, -1)  # as in prepared rows


@pytest.fixture(scope="module")
def tokenizer(shared_data) -> Tokenizer:
    return Tokenizer.load(shared_data / "tokenizers" / "bert-base-uncased")


@pytest.fixture(scope="module")
def questions(shared_data):
    found = json.loads((shared_data / "qa" / "tydiqa" / "en.train.json").read_text())["data"]
    every = [(q, p["context"]) for a in found for p in a["paragraphs"] for q in p["qas"]]
    return sorted(every, key=lambda x: -len(x[1]))[100:2100:80]


def test_windows_and_labels_equal_those_of_transformers(tokenizer, questions, shared_data):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.BertTokenizerFast(str(shared_data / "tokenizers" / "bert-base-uncased" / "vocab.txt"))
    asked, texts = [q["question"] for q, _ in questions], [text for _, text in questions]
    answers = [
        answer_span({k: [a[k] for a in q["answers"]] for k in ("text", "answer_start")}, t, "") for q, t in questions
    ]
    pieces = answer_pieces(tokenizer, asked, texts, answers, 96, 32)
    encoded = theirs(
        asked, texts, truncation="only_second", max_length=96, stride=32,
        return_overflowing_tokens=True, return_offsets_mapping=True,
    )  # fmt: skip
    ends = np.cumsum(pieces.lengths)
    assert len(ends) == len(encoded["input_ids"]) > 40
    sizes = []
    for i, (start, end) in enumerate(zip(ends - pieces.lengths, ends, strict=True)):
        assert pieces.ids[start:end].tolist() == encoded["input_ids"][i]
        assert pieces.type_ids[start:end].tolist() == encoded["token_type_ids"][i]
        # The labels as run_qa.py of transformers finds them.
        a, b = answers[encoded["overflow_to_sample_mapping"][i]]
        inside = [j for j, part in enumerate(encoded.sequence_ids(i)) if part == 1]
        places = encoded["offset_mapping"][i]
        want = (0, 0)
        if places[inside[0]][0] <= a and places[inside[-1]][1] >= b:
            want = max(j for j in inside if places[j][0] <= a), min(j for j in inside if places[j][1] >= b)
        label = pieces.token_labels[start:end]
        first = int(np.flatnonzero(np.isin(label, (START, BOTH)))[0])
        last = int(np.flatnonzero(np.isin(label, (END, BOTH)))[0])
        assert (first, last) == want and (label >= 0).sum() == len({first, last})
        sizes.append(last - first + bool(first))
    assert {0, 1} <= set(sizes) and max(sizes) > 3  # no answer, one token, several


@pytest.mark.parametrize(
    ("text", "words", "tokens"),
    [
        ("It is in Rome", "Rome", ["rome"]),
        (" Rome it is", " Rome", ["rome"]),
        ("\ufeffRome it is", "\ufeffRome", ["rome"]),
        ("It is in Rome\n\n", "Rome\n\n", ["rome"]),
        ("It is in Rome\u200b", "in Rome\u200b", ["in", "rome"]),
        ("It is in a Cafe\u0301", "a Cafe\u0301", ["a", "cafe"]),
        (" \n ", " \n ", ["[CLS]"]),
    ],
)
def test_edges_of_an_answer_without_tokens(tokenizer, text, words, tokens):
    start = text.index(words)
    pieces = answer_pieces(tokenizer, ["where"], [text], [(start, start + len(words))], 32, 8)
    found = np.flatnonzero(pieces.token_labels >= 0)
    assert tokenizer.tokens(pieces.ids[found[0] : found[-1] + 1]) == tokens


def test_a_window_that_ends_within_an_answer_but_with_its_last_token(tokenizer):
    """Windows of 6 tokens, 2 of them those of the one before: the space behind Rome need not be in one."""
    pieces = answer_pieces(tokenizer, ["why"], ["a b c d e Rome \n f g h i j"], [(10, 16)], 10, 2)
    ends = tokenizer.tokens(pieces.ids[pieces.token_labels == BOTH])
    assert ends == ["rome", "rome", "[CLS]"] and (pieces.token_labels >= 0).sum() == 3
    assert pieces.lengths.tolist() == [10, 10, 7]


def test_a_short_text_a_long_question_and_no_text(tokenizer):
    asked, texts = ["why " * 100, "why?", "why?"], ["because so", "", "because " * 40]
    found = list(question_windows(tokenizer, asked, texts, 24, 4))
    assert [w.example for w in found] == [0, 1] + [2] * (len(found) - 2) and len(found) > 4
    assert len(found[0].ids) == 12 + 3 + 2  # half of the row for the question
    assert found[1].ids[0] == tokenizer.cls_id and found[1].ids[-1] == tokenizer.sep_id and not len(found[1].offsets)
    for window in found:
        assert len(window.ids) <= 24
        inside = window.ids[window.first : window.first + len(window.offsets)]
        assert not np.isin(inside, tokenizer.special_ids).any()
    with pytest.raises(ValueError, match="rows of 6 tokens leave no room"):
        list(question_windows(tokenizer, ["why is that so"], ["because"], 6, 0))


def test_answers():
    text = "Elbe, the Elbe"
    assert answer_span({"text": ["Elbe"], "answer_start": [10]}, text, "") == (10, 14)
    assert answer_span({"text": ["Elbe"], "answer_start": [9]}, text, "") == (10, 14)  # one off, as in some sets
    assert answer_span({"text": ["Elbe"], "answer_start": [-4]}, text, "") == (0, 4)  # not counted from the end
    assert answer_span({"text": [], "answer_start": []}, text, "") == NO_ANSWER
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
            answer_span(value, text, "record 7")


def test_every_answer_of_a_record():
    assert answer_texts({"text": ["a", "b"], "answer_start": [0, 1]}, "") == ["a", "b"]
    assert answer_texts({"text": []}, "") == []
    for value in (None, {}, {"text": [1]}, {"text": "Rome"}):
        with pytest.raises(ValueError, match="record 7: the answers"):
            answer_texts(value, "record 7")
