import json
import math
import shutil

import pytest

from jaxencoder.tasks.evaluate import evaluate

from .conftest import write_data


def results(folder) -> dict:
    return json.loads((folder / "results.json").read_text())


def test_masked_language_model_as_the_trainer_saw_it(masked):
    result = evaluate(masked.folder)
    assert result == pytest.approx(masked.result, rel=1e-5)
    assert result["perplexity"] == pytest.approx(math.exp(result["loss"]))
    assert result["unigram_loss"] < math.log(60) and 0 <= result["accuracy"] <= 1
    assert results(masked.folder)["validation"] == result | {"checkpoint": "latest"}


def test_classifier_as_the_trainer_saw_it(classifier):
    result = evaluate(classifier.folder)
    assert result["examples"] == 53
    for name in ("loss", "accuracy"):
        assert result[name] == pytest.approx(classifier.result[name], rel=1e-4)


def test_regression(regressor):
    result = evaluate(regressor.folder)
    assert set(result) == {"loss", "pearson", "spearman", "examples"}
    assert result["loss"] == pytest.approx(regressor.result["loss"], rel=1e-4)


def test_results_of_other_data_stand_beside(classifier, tmp_path):
    first = evaluate(classifier.folder)
    other = write_data(tmp_path / "other.jsonl", 20, lambda positive, i: "yes" if positive else "no", seed=9)
    second = evaluate(classifier.folder, data=other)
    assert second["examples"] == 20
    assert results(classifier.folder) == {
        "validation": first | {"checkpoint": "latest"},
        other: second | {"checkpoint": "latest"},
    }


def test_classes_keep_their_ids(classifier, tmp_path):
    """Data that holds but one class, and not the first, must not be taken for class 0."""
    one = write_data(tmp_path / "one.jsonl", 20, lambda positive, i: "yes", seed=9)
    none = write_data(tmp_path / "none.jsonl", 20, lambda positive, i: "no", seed=9)
    accuracies = [evaluate(classifier.folder, data=data)["accuracy"] for data in (one, none)]
    assert sum(accuracies) == pytest.approx(1)


def test_a_class_that_training_never_saw(classifier, tmp_path):
    data = write_data(tmp_path / "new.jsonl", 5, lambda positive, i: "maybe", seed=9)
    with pytest.raises(ValueError, match="'maybe' is not among the classes no, yes"):
        evaluate(classifier.folder, data=data)


def test_says_what_is_wrong(masked, tmp_path):
    with pytest.raises(FileNotFoundError, match="no such run"):
        evaluate(tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match="no such file"):
        evaluate(masked.folder, data=str(tmp_path / "absent.jsonl"))
    with pytest.raises(FileNotFoundError, match="No checkpoint 7"):
        evaluate(masked.folder, step=7)
    copy = shutil.copytree(masked.folder, tmp_path / "copy")
    (copy / "results.json").write_text("{")
    with pytest.raises(ValueError, match=r"results\.json is not JSON"):
        evaluate(copy)
    assert not list(copy.glob(".results*"))


def test_nothing_held_out(masked, tmp_path):
    copy = shutil.copytree(masked.folder, tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    config["data"] |= {"validation": [], "validation_share": 0.0}
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="held nothing out; name a source"):
        evaluate(copy)
