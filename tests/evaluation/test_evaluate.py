import json
import logging
import math
import os
import shutil
from pathlib import Path

import pytest

from jaxencoder.api import load
from jaxencoder.evaluation import evaluate as module
from jaxencoder.evaluation.evaluate import data_name, evaluate, evaluate_task
from jaxencoder.evaluation.tables import format_metrics
from tests.tasks.conftest import write_data


def results(folder) -> dict:
    return json.loads((folder / "results.json").read_text())


def test_masked_language_model_as_the_trainer_saw_it(masked):
    result = evaluate(masked.folder)
    assert result == pytest.approx(masked.result, rel=1e-5)
    assert result["perplexity"] == pytest.approx(math.exp(result["loss"]))
    assert result["unigram_loss"] < math.log(60) and 0 <= result["accuracy"] <= 1
    assert results(masked.folder)["validation"] == result | {"checkpoint": "latest", "step": 3}


def test_classifier_as_the_trainer_saw_it(classifier):
    result = evaluate(classifier.folder)
    assert result["examples"] == 53
    for name in ("loss", "accuracy"):
        assert result[name] == pytest.approx(classifier.result[name], rel=1e-4)
    assert list(result["classes"]) == ["no", "yes"]
    assert sum(values["examples"] for values in result["classes"].values()) == 53


def test_regression(regressor):
    result = evaluate(regressor.folder)
    assert set(result) == {"loss", "pearson", "spearman", "examples", "slices", "report"}
    assert result["loss"] == pytest.approx(regressor.result["loss"], rel=1e-4)


def test_results_of_other_data_stand_beside(classifier, tmp_path):
    first = evaluate(classifier.folder)
    other = write_data(tmp_path / "other.jsonl", 20, lambda positive, i: "yes" if positive else "no", seed=9)
    second = evaluate(classifier.folder, data=other)
    assert second["examples"] == 20
    actual = results(classifier.folder)  # beside what other tests have measured
    assert actual["validation"] == first | {"checkpoint": "latest", "step": 30}
    assert actual[other] == second | {"checkpoint": "latest", "step": 30}


def test_two_evaluations_at_a_time(run_copy, monkeypatch):
    """What another has written since the first began is kept."""

    def measure(*_):
        (run_copy / "results.json").write_text('{"other": {"loss": 2.0}}')
        return {"loss": 1.0}

    monkeypatch.setattr(module, "_evaluate_masked", measure)
    evaluate(run_copy)
    assert results(run_copy) == {"other": {"loss": 2.0}, "validation": {"loss": 1.0, "checkpoint": "latest", "step": 3}}


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


def test_report(classifier, tmp_path):
    """In the run's folder under the name of the data, or where it is wanted; each file is replaced."""
    first = evaluate(classifier.folder, slice_by=["label"])
    assert first["report"] == str(classifier.folder / "report" / "validation")
    assert list(first["slices"]) == ["length in tokens", "label"] and set(first["slices"]["label"]) == {"no", "yes"}
    other = write_data(tmp_path / "other.jsonl", 20, lambda positive, i: "yes" if positive else "no", seed=9)
    second = evaluate(classifier.folder, data=other, report=tmp_path / "here")
    assert second["report"] == str(tmp_path / "here")
    for folder, number in ((first["report"], 53), (second["report"], 20)):
        files = {path.name for path in Path(folder).iterdir()}
        assert files == {"report.md", "confusion.png", "reliability.png", "predictions.jsonl"}
        lines = [json.loads(line) for line in (Path(folder) / "predictions.jsonl").read_text().splitlines()]
        assert len(lines) == number and all(line["truth"] == line["record"]["label"] for line in lines)
    accuracy = sum(line["truth"] == line["prediction"] for line in lines) / 20
    assert second["accuracy"] == pytest.approx(accuracy)


def test_thresholds_tuned_on_other_data(classifier, tmp_path):
    label = lambda positive, i: "yes" if positive else "no"  # noqa: E731
    test = write_data(tmp_path / "test.jsonl", 40, label, seed=9)
    tuned = evaluate(classifier.folder, data=test, tune_threshold="validation")
    assert tuned["tuned"]["on"] == tuned["calibration"]["fitted_on"] == "validation"
    assert set(tuned["tuned"]["classes"]) == {"yes"} and 0 < tuned["tuned"]["classes"]["yes"]["threshold"] < 1
    plain = evaluate(classifier.folder, data=test)
    assert "tuned" not in plain and plain["calibration"]["fitted_on"] == test
    assert {name: tuned[name] for name in ("loss", "accuracy", "f1")} == pytest.approx(
        {name: plain[name] for name in ("loss", "accuracy", "f1")}
    )
    by_file = evaluate(classifier.folder, tune_threshold=test)
    assert by_file["tuned"]["on"] == test
    with pytest.raises(ValueError, match="thresholds tuned on validation cannot be measured on it"):
        evaluate(classifier.folder, tune_threshold="validation")
    (held_out,) = load(classifier.folder).config.data.validation
    with pytest.raises(ValueError, match="cannot be measured on it; name other data"):  # by whichever name
        evaluate(classifier.folder, data=held_out, tune_threshold="validation")
    with pytest.raises(ValueError, match="cannot be measured on it; name other data"):
        evaluate(classifier.folder, data=test, tune_threshold=os.path.relpath(test))


def test_a_class_that_the_data_lacks(classifier, tmp_path, caplog):
    data = write_data(tmp_path / "one.jsonl", 20, lambda positive, i: "yes", seed=9)
    with caplog.at_level(logging.WARNING):
        result = evaluate(classifier.folder, data=data)
    assert [record.getMessage() for record in caplog.records] == [f"{data} holds no example of 1 of the 2 classes: no."]
    assert result["classes"]["no"]["examples"] == 0 and result["matthews"] == 0


def test_what_has_no_thresholds_or_no_report(regressor, masked, tmp_path):
    data = write_data(tmp_path / "a.jsonl", 5, lambda positive, i: i / 2, seed=9)
    with pytest.raises(ValueError, match="predicts values, which have no threshold"):
        evaluate(regressor.folder, data=data, tune_threshold="validation")
    with pytest.raises(ValueError, match="slice_by is not an option for pretraining; leave it out"):
        evaluate(masked.folder, slice_by=["label"])
    with pytest.raises(ValueError, match="no report; leave its options out"):
        evaluate(masked.folder, report=tmp_path / "report")


def test_summary(classifier, tmp_path):
    test = write_data(tmp_path / "test.jsonl", 40, lambda positive, i: "yes" if positive else "no", seed=9)
    result = evaluate(classifier.folder, data=test, tune_threshold="validation")
    lines = format_metrics(result).splitlines()
    assert f"accuracy                 {result['accuracy']:.4f}" in lines and "examples                 40" in lines
    for title in ("calibration", "with thresholds of the best F1 on validation", "by length in tokens"):
        assert title in lines
    assert any(line.startswith("yes ") for line in lines)
    assert format_metrics({"loss": 0.5}) == "loss                     0.5000"


def test_says_what_is_wrong(masked, tmp_path):
    with pytest.raises(FileNotFoundError, match="no such run"):
        evaluate(tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match="no such file"):
        evaluate(masked.folder, data=str(tmp_path / "absent.jsonl"))
    with pytest.raises(FileNotFoundError, match="No checkpoint 7"):
        evaluate(masked.folder, step=7)
    copy = shutil.copytree(masked.folder, tmp_path / "copy")
    for content, message in (
        ("{", r"results\.json is not JSON.*; delete it"),
        ("[]", "does not hold a JSON object.*; delete it"),
    ):
        (copy / "results.json").write_text(content)
        with pytest.raises(ValueError, match=message):
            evaluate(copy)
    assert not list(copy.glob(".results*"))


def test_nothing_held_out(masked, tmp_path):
    copy = shutil.copytree(masked.folder, tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    config["data"] |= {"validation": [], "validation_fraction": 0.0}
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="held nothing out; name a source"):
        evaluate(copy)


def write_pairs(path: Path, scores: list[float]) -> str:
    path.parent.mkdir(exist_ok=True)
    texts = ["lovely film", "awful film", "the plot was bad", "a great cast"]
    records = [{"text1": "good film", "text2": texts[i % 4], "score": score} for i, score in enumerate(scores)]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


@pytest.fixture
def run_copy(masked, tmp_path) -> Path:
    return shutil.copytree(masked.folder, tmp_path / "run_copy", ignore=shutil.ignore_patterns("results.json"))


@pytest.fixture
def published(masked, tmp_path) -> Path:
    load(masked.folder).save(tmp_path / "published", format="sentence-transformers")
    return tmp_path / "published"


def test_vectors_of_a_run(run_copy, tmp_path, monkeypatch):
    """Files of one name do not collide, nor does one file that is named in two ways."""
    (run_copy / "results.json").write_text('{"validation": {"loss": 1.0}}')
    data = [write_pairs(tmp_path / name / "test.jsonl", scores) for name, scores in (("a", [1, 2, 3]), ("b", [3, 1]))]
    actual = evaluate_task(run_copy, "similarity", data)
    assert list(actual) == data and actual[data[0]]["pairs"] == 3
    entries = {path: result | {"checkpoint": "latest", "step": 3} for path, result in actual.items()}
    assert results(run_copy) == {"validation": {"loss": 1.0}, "similarity": entries}

    write_pairs(tmp_path / "a" / "test.jsonl", [1, 2, 3, 4])
    monkeypatch.chdir(tmp_path / "a")
    again = evaluate_task(run_copy, "similarity", ["test.jsonl"])["test.jsonl"]
    assert again["pairs"] == 4
    entries[data[0]] = again | {"checkpoint": "latest", "step": 3}
    assert results(run_copy) == {"validation": {"loss": 1.0}, "similarity": entries}


def test_commas_join_sources_to_one_set(run_copy, tmp_path):
    data = [write_pairs(tmp_path / name / "test.jsonl", scores) for name, scores in (("a", [1, 2, 3]), ("b", [3, 1]))]
    assert evaluate_task(run_copy, "similarity", [",".join(data)])[",".join(data)]["pairs"] == 5
    assert list(results(run_copy)["similarity"]) == [",".join(data)]


def test_results_with_several_rows_and_with_training_texts(run_copy, tmp_path):
    data, checkpoint = write_pairs(tmp_path / "a" / "test.jsonl", [1, 0, 1]), {"checkpoint": "latest", "step": 3}
    rows = evaluate_task(run_copy, "pair_classification", [data], similarity="all")[data]
    assert list(rows) == ["cosine", "dot", "euclidean", "manhattan"]
    assert results(run_copy)["pair_classification"][data] == rows | checkpoint
    train = write_data(tmp_path / "train.jsonl", 20, lambda positive, i: int(positive), seed=0)
    result = evaluate_task(run_copy, "classification", [train], train=train, experiments=1)[train]
    assert results(run_copy)["classification"][train] == result | checkpoint | {"train": train}


def test_retrieval_of_each_split_stands_alone(run_copy, tmp_path):
    lines = {"corpus.jsonl": '{"_id": "d", "text": "bad plot"}', "queries.jsonl": '{"_id": "q", "text": "bad plot"}'}
    lines |= {"qrels/test.tsv": "q\td\t1", "qrels/dev.tsv": "q\td\t2"}
    (tmp_path / "qrels").mkdir()
    for name, line in lines.items():
        (tmp_path / name).write_text(line + "\n")
    for split in ("test", "dev"):
        actual = evaluate_task(run_copy, "retrieval", [str(tmp_path)], split=split)[str(tmp_path)]
        assert actual["ndcg@10"] == 1
        name = str(tmp_path / "qrels" / f"{split}.tsv")
        assert results(run_copy)["retrieval"][name] == actual | {"checkpoint": "latest", "step": 3}
    assert len(results(run_copy)["retrieval"]) == 2


def test_vectors_of_a_published_model(published, run_copy, tmp_path):
    data = write_pairs(tmp_path / "a" / "test.jsonl", [1, 2, 3])
    before = sorted(tmp_path.rglob("*"))
    actual = evaluate_task(published, "similarity", [data])
    assert sorted(tmp_path.rglob("*")) == before
    output = tmp_path / "all.json"
    assert evaluate_task(published, "similarity", [data], output) == actual
    expected = {"model": str(published), "similarity": actual}
    assert json.loads(output.read_text()) == expected
    with pytest.raises(ValueError, match=r"all\.json holds results of .*published; give another --output"):
        evaluate_task(run_copy, "similarity", [data], output)
    assert json.loads(output.read_text()) == expected
    other = write_pairs(tmp_path / "b" / "test.jsonl", [3, 1, 2])
    added = evaluate_task(published, "similarity", [other], str(output))
    assert json.loads(output.read_text()) == expected | {"similarity": actual | added}
    with pytest.raises(FileNotFoundError, match="no folder .*absent"):
        evaluate_task(published, "similarity", [data], tmp_path / "absent" / "all.json")
    with pytest.raises(ValueError, match="is no run and has no head of a task"):
        evaluate(published)


def test_what_is_known_is_kept_when_the_next_set_fails(run_copy, tmp_path):
    data = write_pairs(tmp_path / "a" / "test.jsonl", [1, 2, 3])
    with pytest.raises(FileNotFoundError):
        evaluate_task(run_copy, "similarity", [data, str(tmp_path / "absent.jsonl")])
    assert list(results(run_copy)["similarity"]) == [data]


def test_names_of_data(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    here = os.getcwd()
    assert data_name("a/../b.jsonl,c/*.jsonl") == f"{here}/b.jsonl,{here}/c/*.jsonl"
    for source in ("validation", "pydocs", "tfds:glue/stsb:test", "s3://bucket/a.jsonl"):
        assert data_name(source) == source
