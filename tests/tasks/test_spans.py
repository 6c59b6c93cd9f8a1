"""Answers and their metrics: by the official script's rules, and found in long texts whatever the window."""

import numpy as np
import pytest

from jaxencoder.inference.load import load
from jaxencoder.tasks import spans as module
from jaxencoder.tasks.evaluate import evaluate
from jaxencoder.tasks.predict import predict
from jaxencoder.tasks.spans import answer_metrics, answer_questions, normalised
from jaxencoder.text.held_out import validation_records
from jaxencoder.text.spans import Window, windows


def test_metrics_by_hand():
    true = [["the Elbe", "Elbe river"], ["42"], [], ["a long answer"]]
    found = answer_metrics(["Elbe.", "43", "", "long reply"], true)
    assert found["exact"] == pytest.approx(2 / 4)
    assert found["f1"] == pytest.approx((1 + 0 + 1 + 2 * 1 / 4) / 4)
    assert found["no_answer_exact"] == 1 and found["has_answer_exact"] == pytest.approx(1 / 3)
    assert normalised("The  Cat's,\ta hat") == "cats hat"


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


def test_answers_are_in_their_texts(reader):
    model = load(reader.folder)
    held_out = [record for _, record in validation_records(model.config.data)]
    questions, texts = [x["question"] for x in held_out], [x["context"] for x in held_out]
    found = answer_questions(model, questions, texts, k=3)
    for text, answers in zip(texts, found, strict=True):
        assert [a.score for a in answers] == sorted((a.score for a in answers), reverse=True)
        assert all(a.text == text[a.start : a.end] and a.text for a in answers)
        assert len({(a.start, a.end) for a in answers}) == len(answers)
        assert 0 < sum(a.probability for a in answers) <= 1.0001
    result = evaluate(reader.folder)
    assert result["examples"] == len(held_out) and 0 <= result["exact"] <= result["f1"] <= 1


def test_where_the_best_window_is(reader):
    """The answer out of a long text is the best of what its windows give."""
    model = load(reader.folder)
    example = next(iter(validation_records(model.config.data)))[1]
    text = " ".join([example["context"]] * 6)
    ((best,),) = answer_questions(model, [example["question"]], [text])
    assert text[best.start : best.end] == best.text and best.end - best.start < 200
    assert answer_questions(model, [], []) == []
    for wanted in (False, True):
        (every,) = answer_questions(model, [example["question"]], [example["context"]], k=10_000, no_answer=wanted)
        assert ("" in {found.text for found in every}) == wanted
    ((nothing,),) = answer_questions(model, ["what?"], [""])
    assert nothing.text == "" and nothing.probability == 1


def test_a_model_that_does_not_read(masked):
    with pytest.raises(ValueError, match="has not learned to answer"):
        answer_questions(load(masked.folder), ["a"], ["b"])


def test_predictions_for_records(reader):
    held_out = [record for _, record in validation_records(load(reader.folder).config.data)][:3]
    found = list(predict(reader.folder, held_out, k=2))
    for record, line in zip(held_out, found, strict=True):
        assert line["prediction"] == record["context"][line["start"] : line["end"]]
        assert line["predictions"][0]["prediction"] == line["prediction"] and len(line["predictions"]) == 2
    with pytest.raises(ValueError, match="a record has no text in the field 'context'"):
        list(predict(reader.folder, [{"question": "what?"}]))


def test_an_answer_has_no_spaces_around_it(reader, monkeypatch):
    """Tokens of metaspace and byte-level models have the space before a word with them."""
    model = load(reader.folder)
    example = next(iter(validation_records(model.config.data)))[1]

    def spaced(*given):
        for window in windows(*given):
            yield window._replace(offsets=np.maximum(window.offsets - [1, 0], 0))

    monkeypatch.setattr(module, "windows", spaced)
    ((*found,),) = answer_questions(model, [example["question"]], [example["context"]], k=20)
    assert all(a.text == a.text.strip() == example["context"][a.start : a.end] for a in found) and len(found) > 5


def test_spans_of_a_window_by_hand():
    ends = np.array([[9, 9], [0, 0], [5, 0], [0, 2], [1, 4]], np.float32)  # [CLS] question a b c: the text from 2 on
    window = Window(0, np.arange(5), np.zeros(5, int), 2, np.array([[0, 1], [2, 3], [4, 6]]))
    assert module._spans(ends, window, 3)[:3] == [(9, 0, 6), (7, 0, 3), (5, 4, 6)]
    assert {end - start for _, start, end in module._spans(ends, window, 1)} == {1, 2}  # single tokens alone
