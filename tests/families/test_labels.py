"""Names of classes in config.json, whatever their type and however many."""

from typing import Any

import pytest

from jaxencoder.families.labels import label_names, labels, labels_for_outputs

THREE = ("LABEL_0", "LABEL_1", "LABEL_2")


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({}, THREE),
        ({"num_labels": 3}, THREE),
        ({"_num_labels": 3}, THREE),
        ({"id2label": None, "num_labels": 7}, THREE),  # the weights decide
        ({"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}, THREE),
        ({"id2label": {"2": "c", "0": "a", "1": "b"}, "num_labels": 2}, ("a", "b", "c")),
        ({"id2label": {2: "c", 0: "a", 1: "b"}, "label2id": {"x": 0}}, ("a", "b", "c")),
        ({"id2label": ["a", "b", "c"]}, ("a", "b", "c")),
        ({"label2id": {"b": 1, "a": 0, "c": "2"}}, ("a", "b", "c")),
        ({"id2label": {"0": 1, "1": 1.5, "2": True}}, ("1", "1.5", "True")),
    ],
)
def test_a_name_for_each_output(settings: dict[str, Any], names: tuple[str, ...]) -> None:
    found = labels_for_outputs(settings | {"model_type": "bert"}, 3)
    assert label_names(found) == names and labels(found) == 3
    assert found["num_labels"] == 3 and "_num_labels" not in found and found["model_type"] == "bert"
    assert found["id2label"] == {str(i): name for i, name in enumerate(names)}
    assert found["label2id"] == {name: i for i, name in enumerate(names)}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"id2label": {"0": "a", "1": "b"}}, "id2label with 2 names, but the weights have 3 classes"),
        ({"label2id": {"a": 0, "b": 1}}, "label2id with 2 names, but the weights have 3 classes"),
        ({"id2label": {"0": "a", "2": "b", "3": "c"}}, "id2label with the ids 0, 2, 3; number the 3 classes from 0"),
        ({"id2label": {"1": "a", "2": "b", "3": "c"}}, "id2label with the ids 1, 2, 3"),
        ({"id2label": {"0": "a", "00": "b", "1": "c"}}, "id2label with the ids 0, 00, 1"),
        ({"id2label": {"a": 0, "b": 1, "c": 2}}, "id2label with the id 'a'"),
        ({"label2id": {"a": 0.0, "b": 1, "c": 2}}, "label2id with the id 0.0"),
        ({"id2label": {"0": "a", "1": "a", "2": "b"}}, "id2label with several classes named 'a'"),
        ({"id2label": {"0": 1, "1": "1", "2": "b"}}, "id2label with several classes named '1'"),
        ({"id2label": {"0": None, "1": "a", "2": "b"}}, "id2label with the name None"),
        ({"id2label": "abc"}, "id2label 'abc'; a name for each id is needed"),
    ],
)
def test_names_that_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^config.json has {message}"):
        labels_for_outputs(settings, 3)
