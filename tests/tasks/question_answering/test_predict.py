"""Answers and their metrics: by the official script's rules, and found in long texts whatever the window."""

import numpy as np
import pytest

from jaxencoder.api import load
from jaxencoder.evaluation.evaluate import evaluate
from jaxencoder.inference.predict import predict
from jaxencoder.tasks.question_answering import predict as module
from jaxencoder.tasks.question_answering.data import SCHEMA, Window, question_windows
from jaxencoder.tasks.question_answering.predict import answer_metrics, answer_questions, normalize
from tests.tasks.conftest import write_records


def test_metrics_by_hand():
    true = [["the Elbe", "Elbe river"], ["42"], [], ["a long answer"]]
    found = answer_metrics(["Elbe.", "43", "", "long reply"], true)
    assert found["exact"] == pytest.approx(2 / 4)
    assert found["f1"] == pytest.approx((1 + 0 + 1 + 2 * 1 / 4) / 4)
    assert found["no_answer_exact"] == 1 and found["has_answer_exact"] == pytest.approx(1 / 3)
    assert normalize("The  Cat's,\ta hat") == "cats hat"


@pytest.mark.parametrize(
    ("predicted", "true", "exact", "f1"),
    [
        ("北京", "北京大学", 0, 2 * 2 / 6),  # by MLQA's script
        ("北京 大学。", "《北京大学》", 1, 1),
        ("在 iPhone 上", "iPhone", 0, 2 * 1 / 4),
        ("東京", "東京タワー", 0, 2 * 2 / 7),
        ("ไทย", "ไท", 0, 2 * 2 / 5),
        ("서울 대학교", "서울", 0, 2 * 1 / 3),  # Korean has spaces
        ("the Elbe", "an Elbe", 1, 1),
    ],
)
def test_scripts_without_spaces_count_by_character(predicted, true, exact, f1):
    found = answer_metrics([predicted], [[true]])
    assert (found["exact"], found["f1"]) == (exact, pytest.approx(f1))


def test_equal_to_torchmetrics():
    squad = pytest.importorskip("torchmetrics.functional.text").squad
    predicted = ["the Elbe", "a boat on it", "1910", "nothing at all"]
    true = [["Elbe", "river Elbe"], ["boat on the Elbe"], ["1911"], ["all"]]
    theirs = squad(
        [{"prediction_text": text, "id": str(i)} for i, text in enumerate(predicted)],
        [{"answers": {"answer_start": [0] * len(texts), "text": texts}, "id": str(i)} for i, texts in enumerate(true)],
    )
    found = answer_metrics(predicted, true)
    assert 100 * found["exact"] == pytest.approx(float(theirs["exact_match"]))
    assert 100 * found["f1"] == pytest.approx(float(theirs["f1"]))


def test_answers_are_in_their_texts(question_answering_model):
    model = load(question_answering_model.folder)
    held_out = [record for _, record in SCHEMA.validation_records(model.config.data)]
    questions, texts = [x["question"] for x in held_out], [x["context"] for x in held_out]
    found = answer_questions(model, questions, texts, k=3)
    for text, answers in zip(texts, found, strict=True):
        assert [a.score for a in answers] == sorted((a.score for a in answers), reverse=True)
        assert all(a.text == text[a.start : a.end] and a.text for a in answers)
        assert len({(a.start, a.end) for a in answers}) == len(answers)
        assert 0 < sum(a.probability for a in answers) <= 1.0001
    result = evaluate(question_answering_model.folder)
    assert result["examples"] == len(held_out) and 0 <= result["exact"] <= result["f1"] <= 1


def test_where_the_best_window_is(question_answering_model):
    """The answer out of a long text is the best of what its windows give."""
    model = load(question_answering_model.folder)
    example = next(iter(SCHEMA.validation_records(model.config.data)))[1]
    text = " ".join([example["context"]] * 6)
    ((best,),) = answer_questions(model, [example["question"]], [text])
    assert text[best.start : best.end] == best.text and best.end - best.start < 200
    assert answer_questions(model, [], []) == []
    for wanted in (False, True):
        (every,) = answer_questions(model, [example["question"]], [example["context"]], k=10_000, no_answer=wanted)
        assert ("" in {found.text for found in every}) == wanted
    ((nothing,),) = answer_questions(model, ["what?"], [""])
    assert nothing.text == "" and nothing.probability == 1


HOSTILE = (
    "  Éte\u0301 in 猫町 🐈\u200d⬛ \n\t ﬁve ½ İSTANBUL — ไทย \u00a0 the end.  ",
    " " * 300 + "the cat" + "\n" * 300,
    "x" * 10_000 + " the cat",
    "   ",
    "\u0301\u0302 the \x00 cat \u200b",
)


@pytest.mark.parametrize("text", HOSTILE)
def test_answers_are_characters_of_the_original_text(question_answering_model, text):
    model = load(question_answering_model.folder)
    long = text * (1 if len(text) > 5000 else 12)
    ((*found,),) = answer_questions(model, ["where is the cat?"], [long], k=50)
    for answer in found:
        assert answer.text == long[answer.start : answer.end] == answer.text.strip()
        assert 0 <= answer.start <= answer.end <= len(long)
    assert all(a.text for a in found) == bool(long.strip())
    assert sum(a.probability for a in found) <= 1.0001


def test_the_best_of_all_windows_by_hand(question_answering_model):
    """Each answer has the best score that any window gives it, and the order is that of these scores."""
    model = load(question_answering_model.folder)
    example = next(iter(SCHEMA.validation_records(model.config.data)))[1]
    question, text = example["question"], " ".join([example["context"]] * 4)
    length = min(model.max_length, model.config.data.row_length)
    expected = {}
    parts = list(question_windows(model.tokenizer, [question], [text], length, model.config.data.overlap))
    for window in parts:
        types = window.type_ids[None] if model.config.model.token_types > 1 else None
        out = model(window.ids[None], None, types)
        inside = slice(window.first, window.first + len(window.offsets))
        first, last = (np.asarray(out[name])[0, inside] for name in ("start_logits", "end_logits"))
        for i in range(len(first)):
            for j in range(i, min(i + model.config.objective.max_answer_length, len(last))):
                place = int(window.offsets[i, 0]), int(window.offsets[j, 1])
                expected[place] = max(expected.get(place, -np.inf), float(first[i] + last[j]))
    assert len(parts) > 3
    best = sorted(expected.items(), key=lambda x: -x[1])[:5]
    ((*found,),) = answer_questions(model, [question], [text], k=5, no_answer=False)
    np.testing.assert_allclose([a.score for a in found], [score for _, score in best], atol=1e-3)
    assert [(a.start, a.end) for a in found][:1] == [place for place, _ in best][:1]


def test_a_model_that_does_not_read(masked):
    with pytest.raises(ValueError, match="was not trained for question answering"):
        answer_questions(load(masked.folder), ["a"], ["b"])


def test_predictions_for_records(question_answering_model):
    data = load(question_answering_model.folder).config.data
    held_out = [record for _, record in SCHEMA.validation_records(data)][:3]
    found = list(predict(question_answering_model.folder, held_out, k=2))
    for record, line in zip(held_out, found, strict=True):
        assert line["prediction"] == record["context"][line["start"] : line["end"]]
        assert line["predictions"][0]["prediction"] == line["prediction"] and len(line["predictions"]) == 2
    with pytest.raises(ValueError, match="record 2: no field 'context' among question"):
        list(predict(question_answering_model.folder, [held_out[0], {"question": "what?"}]))


@pytest.mark.parametrize("context", [None, ["a", "b"], 3])
def test_a_context_that_is_no_text(question_answering_model, tmp_path, context):
    records = [{"question": "what?", "context": x, "answers": {"text": [], "answer_start": []}} for x in ("a", context)]
    source = write_records(tmp_path / "a.jsonl", records)
    message = rf"a\.jsonl, record 2: field 'context' is {type(context).__name__}, not text"
    with pytest.raises(ValueError, match=message):
        evaluate(question_answering_model.folder, data=source)
    with pytest.raises(ValueError, match=message):
        list(predict(question_answering_model.folder, source))


def test_an_answer_has_no_spaces_around_it(question_answering_model, monkeypatch):
    """Tokens of metaspace and byte-level models have the space before a word with them."""
    model = load(question_answering_model.folder)
    example = next(iter(SCHEMA.validation_records(model.config.data)))[1]

    def spaced(*given):
        for window in question_windows(*given):
            yield window._replace(offsets=np.maximum(window.offsets - [1, 0], 0))

    monkeypatch.setattr(module, "question_windows", spaced)
    ((*found,),) = answer_questions(model, [example["question"]], [example["context"]], k=20)
    assert all(a.text == a.text.strip() == example["context"][a.start : a.end] for a in found) and len(found) > 5


def test_spaces_alone_are_no_answer(question_answering_model, monkeypatch):
    """Some tokenizers have tokens of nothing but spaces."""

    def blank(*given):
        for window in question_windows(*given):
            yield window._replace(offsets=np.tile([4, 5], (len(window.offsets), 1)))

    monkeypatch.setattr(module, "question_windows", blank)
    ((*found,),) = answer_questions(load(question_answering_model.folder), ["where?"], ["here     and there"], k=20)
    assert [(a.text, a.start, a.end) for a in found] == [("", 0, 0)]


def test_spans_of_a_window_by_hand():
    ends = np.array([[9, 9], [0, 0], [5, 0], [0, 2], [1, 4]], np.float32)  # [CLS] question a b c: the text from 2 on
    window = Window(0, np.arange(5), np.zeros(5, int), 2, np.array([[0, 1], [2, 3], [4, 6]]))
    assert module._best_spans(ends, window, 3)[:3] == [(9, 0, 6), (7, 0, 3), (5, 4, 6)]
    assert {end - start for _, start, end in module._best_spans(ends, window, 1)} == {1, 2}  # single tokens alone
