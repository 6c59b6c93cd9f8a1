"""Choices: as the trainer saw them, and predicted for records."""

import logging

import numpy as np
import pytest

from jaxencoder.api import load
from jaxencoder.evaluation.evaluate import evaluate
from jaxencoder.inference.predict import predict
from jaxencoder.tasks.multiple_choice.predict import choice_metrics, choice_probabilities
from jaxencoder.text.config import WindowConfig


def test_metrics_by_hand():
    found = choice_metrics([np.array([0.2, 0.8]), np.array([0.5, 0.3, 0.2])], [1, 2])
    assert found == pytest.approx(
        {"loss": -(np.log(0.8) + np.log(0.2)) / 2, "accuracy": 0.5, "chance": (1 / 2 + 1 / 3) / 2, "examples": 2}
    )


def test_a_run_as_the_trainer_saw_it(multiple_choice_model, tmp_path):
    result = evaluate(multiple_choice_model.folder)
    assert result["examples"] == 40 and result["accuracy"] > result["chance"] + 0.2
    for name in ("loss", "accuracy"):
        assert result[name] == pytest.approx(multiple_choice_model.result[name], rel=1e-4)
    with pytest.raises(ValueError, match="no report; leave its options out"):
        evaluate(multiple_choice_model.folder, report=tmp_path)


def test_predictions_for_records(multiple_choice_model):
    records = [
        {"context": "the Elbe", "choices": ["a Spree", "a Elbe"], "id": 3},
        {"context": "the Oder", "choices": ["a Oder", "a Spree", "a Elbe"]},
    ]
    found = list(predict(multiple_choice_model.folder, records))
    for record, line in zip(records, found, strict=True):
        assert {name: line[name] for name in record} == record
        assert line["choice"] == record["choices"][line["prediction"]]
        assert line["probability"] == max(line["probabilities"]) == line["probabilities"][line["prediction"]]
        assert sum(line["probabilities"]) == pytest.approx(1) and len(line["probabilities"]) == len(record["choices"])
    # The order of the choices and of the records changes nothing.
    model = load(multiple_choice_model.folder)
    (turned,) = choice_probabilities(model, ["the Oder"], [["a Elbe", "a Spree", "a Oder"]])
    assert turned[::-1].tolist() == pytest.approx(found[1]["probabilities"], abs=1e-5)
    assert choice_probabilities(model, [], []) == []


def test_long_ones_with_one_warning(multiple_choice_model, caplog):
    model = load(multiple_choice_model.folder)
    with caplog.at_level(logging.WARNING):
        (found,) = choice_probabilities(model, ["the river " * 40], [["a Elbe", "a Oder"]])
    assert found.sum() == pytest.approx(1)
    assert caplog.messages == ["1 of 1 examples are longer than 32 tokens and were truncated."]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"choices": ["a", "b"]}, "record 1: no field 'context' among choices"),
        ({"context": 3, "choices": ["a", "b"]}, "record 1: field 'context' is int, not text"),
        ({"context": "the Elbe"}, "record 1: the choices 'None' are no list of texts"),
        ({"context": "the Elbe", "choices": ["a"]}, "record 1: there is nothing to choose among"),
        ({"context": "the Elbe", "choices": ["a", "b"], "choice": 1}, "already have a field 'choice'"),
    ],
)
def test_mistakes(multiple_choice_model, record, message):
    with pytest.raises(ValueError, match=message):
        list(predict(multiple_choice_model.folder, [record]))


def test_what_cannot_choose_or_has_no_such_option(multiple_choice_model, classifier):
    with pytest.raises(ValueError, match="was not trained for multiple choice"):
        choice_probabilities(load(classifier.folder), ["a"], [["b", "c"]])
    with pytest.raises(ValueError, match="windows is WindowConfig.*, which is no option of multiple choice"):
        list(predict(multiple_choice_model.folder, [{"context": "a", "choices": ["b", "c"]}], windows=WindowConfig()))
