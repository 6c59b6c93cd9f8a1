import json

import numpy as np
import pytest

from jaxencoder.config import DataConfig, RunConfig
from jaxencoder.config_io import save
from jaxencoder.evaluation import evaluate as module
from jaxencoder.evaluation.compare import compare, format_comparison
from jaxencoder.evaluation.evaluate import evaluate
from jaxencoder.evaluation.significance import compare_classes, compare_values
from jaxencoder.training.config import TrainingConfig
from tests.tasks.conftest import write_data


def write(path, truths, predictions, record=lambda i: {"text": f"t{i}"}):
    columns = enumerate(zip(truths, predictions, strict=True))
    lines = [{"record": record(i), "truth": truth, "prediction": prediction} for i, (truth, prediction) in columns]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def sides(tmp_path):
    random = np.random.default_rng(0)
    labels = random.integers(3, size=60)
    runs = [np.where(random.random(60) < share, labels, random.integers(3, size=60)) for share in (0.4, 0.5, 0.8)]
    names = np.array(["neutral", "bad", "good"])
    files = [write(tmp_path / f"{i}.jsonl", names[labels].tolist(), names[run].tolist()) for i, run in enumerate(runs)]
    return files, labels, runs


def test_files_of_classes(sides):
    files, labels, runs = sides
    found = compare(files[:1], files[2:])
    assert found.examples == 60 and found.differences[0].test == "McNemar's exact test"
    expected = compare_classes(labels, *(np.array(run)[None] for run in (runs[0], runs[2])), 3)
    for one, other in zip(found.differences, expected, strict=True):
        assert (one.metric, one.a, one.b) == (other.metric, pytest.approx(other.a), pytest.approx(other.b))
        assert one.p == pytest.approx(other.p, abs=0.02)  # classes of another order draw other resamples
    several = compare(files[:2], files[2:]).differences[0]
    accuracies = [(run == labels).mean() for run in runs]
    assert several.a == pytest.approx(np.mean(accuracies[:2])) and several.b == pytest.approx(accuracies[2])
    assert several.a_std == pytest.approx(np.std(accuracies[:2], ddof=1)) and several.b_std is None


def test_files_of_values(tmp_path):
    labels = np.random.default_rng(0).standard_normal(40)
    runs = labels + np.random.default_rng(1).standard_normal((2, 40))
    files = [write(tmp_path / f"{i}.jsonl", labels.tolist(), run.tolist()) for i, run in enumerate(runs)]
    assert compare(files[:1], files[1:], resamples=99).differences == compare_values(
        labels, runs[:1], runs[1:], resamples=99
    )


def test_lines_of_a_file_end_where_json_does(tmp_path):
    """Texts may hold what Unicode calls the end of a line, and are written as they are."""
    texts = ["one\u2028two", "one\u2029two", "one\x85two"]
    lines = [{"record": {"text": text}, "truth": "a", "prediction": "b"} for text in texts]
    file = tmp_path / "a.jsonl"
    file.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    assert compare([file], [file], resamples=9).examples == 3


def test_runs_and_files_of_them(classifier, regressor, tmp_path):
    label = lambda positive, i: "yes" if positive else "no"  # noqa: E731
    data = write_data(tmp_path / "test.jsonl", 20, label, seed=9)
    result = evaluate(classifier.folder, data=data, report=tmp_path / "report")
    own = compare([classifier.folder], [classifier.folder], data, resamples=9)
    assert own.examples == 20 and own.differences[0].a == pytest.approx(result["accuracy"])
    assert all((x.difference, x.p) == (0, 1) for x in own.differences)
    held_out = compare([classifier.folder], [classifier.folder], resamples=9)
    assert held_out.examples == 53
    evaluate(classifier.folder, report=tmp_path / "report")
    mixed = compare([classifier.folder], [tmp_path / "report" / "predictions.jsonl"], resamples=9)
    assert mixed.differences == held_out.differences
    with pytest.raises(ValueError, match="example 1 of .*classifier is not that of .*regressor"):
        compare([classifier.folder], [regressor.folder], step="latest")


def test_which_checkpoint(tmp_path, monkeypatch):
    """Of a run the best where one is kept, as sweep and glue have it, or the one that is asked for."""

    def load(folder, step):
        raise FileNotFoundError(f"asked for {step}")

    monkeypatch.setattr(module, "load", load)
    for keep_best, share, default in ((True, 0.1, "best"), (True, 0.0, "latest"), (False, 0.1, "latest")):
        folder = tmp_path / f"{keep_best}{share}"
        (folder / "checkpoints").mkdir(parents=True)
        data, training = DataConfig(validation_fraction=share), TrainingConfig(keep_best=keep_best)
        save(RunConfig(data=data, training=training), folder)
        for step, expected in ((None, default), ("latest", "latest"), ("best", "best"), (7, 7)):
            with pytest.raises(FileNotFoundError, match=f"asked for {expected}$"):
                compare([folder], [folder], step=step)


@pytest.mark.parametrize(
    ("truths", "predictions", "record", "message"),
    [
        (["a"], ["a"], lambda i: {"text": "t0"}, "predicts 2 examples and .* 1; they must be the same ones"),
        (["a", "b"], ["a", "b"], lambda i: {"text": "t0"}, "example 2 of .* is not that of"),
        (["a", "a"], ["a", "b"], lambda i: {"text": f"t{i}"}, "example 2 of .* is not that of"),
        (["a", "b"], ["a", 0.5], lambda i: {"text": f"t{i}"}, "some of these predict classes, and some values"),
    ],
)
def test_sides_that_cannot_be_compared(tmp_path, truths, predictions, record, message):
    a = write(tmp_path / "a.jsonl", ["a", "b"], ["a", "a"])
    with pytest.raises(ValueError, match=message):
        compare([a], [write(tmp_path / "b.jsonl", truths, predictions, record)])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty: it holds no predictions"),
        ("{", r"b\.jsonl:1: not JSON"),
        ('{"text": "a"}', r"b\.jsonl:1: not a line of a predictions\.jsonl"),
        ("7", r"b\.jsonl:1: not a line of"),
        ("[" * 100_000, r"b\.jsonl:1: not JSON"),
        ('{"record": {}, "truth": {"a": 1}, "prediction": "a"}', r"b\.jsonl:1: not a line of"),
        ('{"record": {}, "truth": "a", "prediction": null}', r"b\.jsonl:1: not a line of"),
    ],
)
def test_files_that_hold_no_predictions(tmp_path, text, message):
    a = write(tmp_path / "a.jsonl", ["a", "b"], ["a", "a"])
    (tmp_path / "b.jsonl").write_text(text)
    with pytest.raises(ValueError, match=message):
        compare([a], [tmp_path / "b.jsonl"])


def test_other_mistakes(tmp_path):
    a = write(tmp_path / "a.jsonl", [1.0, 2.0], [1.0, float("nan")])
    with pytest.raises(ValueError, match="not finite"):
        compare([a], [a])
    with pytest.raises(ValueError, match="seed is -1; give 0 or a positive whole number"):
        compare([tmp_path / "absent.jsonl"], [a], seed=-1)  # before anything is read
    with pytest.raises(ValueError, match="holds predictions for its own data"):
        compare([a], [a], data="test.jsonl")
    with pytest.raises(FileNotFoundError):
        compare([a], [tmp_path / "absent.jsonl"])


def test_table(sides):
    found = compare(sides[0][:2], sides[0][2:])
    lines = format_comparison(found).splitlines()
    assert len(lines) == 4 and lines[0].split() == ["metric", "A", "B", "B", "-", "A", "95%", "interval", "p", "test"]
    accuracy = found.differences[0]
    assert f"{100 * accuracy.a:.2f} ± {100 * accuracy.a_std:.2f}  {100 * accuracy.b:.2f}" in lines[1]
