"""Windows over a text hold the answer where it is, as published code makes them."""

import json

import numpy as np
import pytest

from jaxencoder.tasks.question_answering.data import (
    SCHEMA,
    answer_pieces,
    answer_span,
    answer_texts,
    question_windows,
)
from jaxencoder.text.config import DataConfig
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
    for value, span in (
        ({"text": ["Elbe"], "answer_start": [10]}, (10, 14)),
        ({"text": ["Elbe"], "answer_start": [9]}, (10, 14)),  # one off, as in some sets
        ({"text": ["Elbe"], "answer_start": [-4]}, (0, 4)),  # not counted from the end
        ({"text": ["Elbe"], "answer_start": ["10"]}, (10, 14)),
        ({"text": ["Elbe"], "answer_start": ["-1"]}, (0, 4)),
        ({"text": ["Elbe"], "answer_start": [10.0]}, (10, 14)),
        ({"text": ["Rhine", "Elbe"], "answer_start": [0, 9]}, (10, 14)),  # the first that is there
        ({"text": ["", "the"], "answer_start": [0, 6]}, (6, 9)),
        ([{"text": "Elbe", "answer_start": 10}], (10, 14)),
        ({"text": "Elbe", "answer_start": 10}, (10, 14)),
        ({"text": ["the"]}, (6, 9)),
        ({"text": ["the"], "answer_start": [None]}, (6, 9)),
        (["the"], (6, 9)),
        ({"text": [], "answer_start": []}, NO_ANSWER),
        ({"text": [""], "answer_start": [0]}, NO_ANSWER),
        ([], NO_ANSWER),
    ):
        assert answer_span(value, text, "") == span, value
    for value, message in (
        ({"text": ["Rhine"], "answer_start": [0]}, "'Rhine' is not in the text"),
        ({"text": ["Elbe"]}, "'Elbe' is in the text 2 times, and has no answer_start; add it"),
        (None, "are not {"),
        ("Elbe", "are not {"),
        ({"text": [3], "answer_start": [0]}, "are not {"),
        ({"text": ["Elbe"], "answer_start": "0"}, "are not {"),
        ({"text": ["Elbe"], "answer_start": [0, 10]}, "are not {"),
        ({"text": ["Elbe"], "answer_start": [float("inf")]}, "are not {"),
        ({"text": ["Elbe"], "answer_start": ["there"]}, "are not {"),
    ):
        with pytest.raises(ValueError, match=f"record 7: the answers? .*{message}"):
            answer_span(value, text, "record 7")


def test_every_answer_of_a_record():
    assert answer_texts({"text": ["a", "b"], "answer_start": [0, 1]}, "") == ["a", "b"]
    assert answer_texts([{"text": "a"}, {"text": "b", "answer_start": 9}], "") == ["a", "b"]
    assert answer_texts({"text": []}, "") == []
    for value in (None, {}, {"text": [1]}, "Rome"):
        with pytest.raises(ValueError, match="record 7: the answers"):
            answer_texts(value, "record 7")


@pytest.mark.parametrize("flag", [True, "True", 1, False, None, "", "missing", "perhaps"])
def test_impossible_questions_have_no_answer(tmp_path, flag):
    """Whatever answers are listed, as in the code that came with SQuAD 2.0."""
    record = {"question": "what?", "context": "the Elbe", "answers": {"text": ["Elbe"], "answer_start": [4]}}
    record |= {} if flag == "missing" else {"is_impossible": flag}
    (tmp_path / "a.jsonl").write_text(json.dumps(record) + "\n")
    data = DataConfig((str(tmp_path / "a.jsonl"),), validation=(str(tmp_path / "a.jsonl"),), text_field="question",
                      pair_field="context", label_field="answers")  # fmt: skip
    examples = SCHEMA.examples(data, data.train[0], "context", SCHEMA.find_labels(data), "train", 0.0)
    if flag == "perhaps":
        with pytest.raises(ValueError, match="record 1: is_impossible is 'perhaps'; give true or false"):
            next(examples)
        return
    is_flagged = flag in (True, "True", 1)
    assert next(examples).label == (NO_ANSWER if is_flagged else (4, 8))
    ((where, read),) = SCHEMA.validation_records(data)
    assert answer_texts(read["answers"], where) == ([] if is_flagged else ["Elbe"])
