"""The nine tasks: their data and scores, and a suite that is interrupted, goes on, and repeats nothing."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest

from jaxencoder.config_io import load
from jaxencoder.evaluation import suite
from jaxencoder.evaluation.glue import (
    FROM_MNLI,
    TASKS,
    GlueOptions,
    Sources,
    find_sources,
    format_report,
    run_glue,
    summarize_tasks,
    task_config,
)
from jaxencoder.text.sources import field_names
from jaxencoder.training.preemption import Interrupted
from jaxencoder.training.telemetry import Telemetry


def test_tasks() -> None:
    assert len(TASKS) == 9 and set(FROM_MNLI) < set(TASKS)
    for task in TASKS.values():
        config = task_config(task, Sources("train.jsonl", "validation.jsonl"), "model", 5)
        assert (config.data.train, config.data.validation) == (("train.jsonl",), ("validation.jsonl",))
        assert (config.data.text_field, config.data.pair_field) == (task.text, task.pair)
        assert (config.training.epochs, config.training.steps) == (task.epochs, 0)
        assert (config.init_from, config.training.seed, config.training.batch_examples) == ("model", 5, 32)


def test_words_of_the_user_come_last() -> None:
    words = ["--optimizer.learning-rate", "3e-5", "--training.steps", "7", "--data.row-length", "64"]
    config = task_config(TASKS["stsb"], Sources("a", "b"), "model", 0, words)
    assert (config.optimizer.learning_rate, config.training.steps, config.data.row_length) == (3e-5, 7, 64)
    assert config.training.epochs == 0


def test_fields_of_the_real_data(shared_data: Path) -> None:
    actual = {name: find_sources(str(shared_data / "glue"), name, limit=10) for name in TASKS}
    assert {name for name, sources in actual.items() if isinstance(sources, str)} == {"qnli"}
    for name, sources in actual.items():
        for source in sources[:2] if isinstance(sources, Sources) else ():
            task = TASKS[name]
            assert {task.text, *([task.pair] if task.pair else []), "label"} <= set(field_names(source))


def test_find_sources(tmp_path: Path) -> None:
    for path in ("rte/train.parquet", "rte/validation.jsonl", "mnli/train.jsonl", "mnli/validation_matched.jsonl"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).touch()
    at = str(tmp_path)
    assert find_sources(at, "rte") == Sources(f"{at}/rte/train.parquet", f"{at}/rte/validation.jsonl")
    assert find_sources(at, "mnli", 5) == Sources(f"{at}/mnli/train.jsonl[:5]", f"{at}/mnli/validation_matched.jsonl")
    assert find_sources(at, "sst2") == f"no {at}/sst2/train.jsonl"
    (tmp_path / "mnli/validation_mismatched.jsonl").touch()
    assert find_sources(at, "mnli").mismatched == f"{at}/mnli/validation_mismatched.jsonl"
    with pytest.raises(FileNotFoundError, match=f"no folder {at}/absent; name one with a folder for each task"):
        find_sources(f"{at}/absent", "rte")


def test_sources_of_tfds() -> None:
    assert find_sources("tfds", "sst2", 100) == Sources("tfds:glue/sst2:train[:100]", "tfds:glue/sst2:validation")
    mnli = ("tfds:glue/mnli:train", "tfds:glue/mnli:validation_matched", "tfds:glue/mnli:validation_mismatched")
    assert find_sources("tfds", "mnli") == Sources(*mnli)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": ("rte", "imdb")}, "no task of GLUE is called 'imdb'; they are wnli, rte"),
        ({"tasks": ("rte",), "from_mnli": True}, "to start from MNLI needs a run on MNLI; put mnli among the tasks"),
        ({"tasks": ("rte", "sst2")}, "there is nothing to train on in .*: rte: no .*rte/train.jsonl; sst2: no"),
        ({"limit": -1}, "limit is -1"),
    ],
)
def test_mistakes(options: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        run_glue(tmp_path, "model", tmp_path / "runs", GlueOptions(**options))


OUTCOMES = {
    "rte/seed_0": {"results": {"validation": {"accuracy": 0.6, "f1": 0.1}}, "seconds": 10.0, "tokens_per_second": 50.0},
    "rte/seed_1": {"results": {"validation": {"accuracy": 0.7, "f1": 0.1}}, "seconds": 20.0, "tokens_per_second": 70.0},
    "mrpc/seed_0": {"results": {"validation": {"accuracy": 0.8, "f1": 0.9}}},
    "mrpc/seed_1": {"diverged": "not finite"},
    "mnli/seed_0": {"results": {"validation": {"accuracy": 0.5}, "mismatched": {"accuracy": 0.6}}},
}
GROUPS = {name: [f"{name}/seed_0", f"{name}/seed_1"] for name in ("rte", "mrpc", "mnli", "cola")}


def test_summary() -> None:
    summary = summarize_tasks(OUTCOMES, GROUPS, {"qnli": "no file"})
    one = {"sd": None, "runs": 1}
    rte = summary["tasks"]["rte"]
    assert rte["accuracy"] == rte["score"] == {"mean": pytest.approx(65), "sd": pytest.approx(50**0.5), "runs": 2}
    assert (rte["seconds"], rte["tokens_per_second"]) == (15, 60)
    mrpc = summary["tasks"]["mrpc"]
    assert mrpc["f1"] == one | {"mean": pytest.approx(90)} and mrpc["score"] == one | {"mean": pytest.approx(85)}
    mnli = summary["tasks"]["mnli"]
    assert mnli["accuracy"]["mean"] == pytest.approx(50) and mnli["accuracy, mismatched"]["mean"] == pytest.approx(60)
    assert mnli["score"]["mean"] == pytest.approx(55) and summary["average"] == pytest.approx((65 + 85 + 55) / 3)
    missing = {"qnli": "no file", "cola": "no run has ended", "wnli": "not asked for", "sst2": "not asked for"}
    assert summary["missing"] == missing | {"stsb": "not asked for", "qqp": "not asked for"}
    assert summarize_tasks({}, GROUPS, {})["average"] is None


def test_report() -> None:
    lines = format_report(summarize_tasks(OUTCOMES, GROUPS, {}), OUTCOMES, "model").splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    assert cells[2] == ["rte", "accuracy 65.0 ± 7.1", "65.0 ± 7.1", "2", "15", "60"]
    assert cells[3] == ["mrpc", "f1 90.0; accuracy 80.0", "85.0", "1", "", ""]
    assert cells[4][1] == "accuracy 50.0; accuracy, mismatched 60.0"
    assert "Average of 3 of the 9 tasks: 68.3; without the others it is no GLUE score." in lines
    assert lines[-1] == "mrpc/seed_1 has diverged: not finite"


def write(folder: Path, task: str, splits: dict[str, int], classes: int) -> None:
    """Pairs of which the class is how many words they share."""
    random = np.random.default_rng(0)
    words = ["lovely", "great", "fine", "good", "awful", "poor", "bad", "sad", "film", "plot", "cast", "the", "was"]
    text, pair = TASKS[task].text, TASKS[task].pair
    for split, number in splits.items():
        path = folder / task / f"{split}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w") as file:
            for i in range(number):
                first = random.permutation(words)[:4]
                second = [*first[: i % classes], *["a"] * (2 - i % classes)]
                file.write(json.dumps({text: " ".join(first), pair: " ".join(second), "label": i % classes}) + "\n")


def test_a_suite_that_is_interrupted(masked, tmp_path: Path, monkeypatch, capsys) -> None:
    """RTE from a run on MNLI, stopped in its second step and called again; the third call has nothing to do."""
    data, folder = tmp_path / "data", tmp_path / "runs"
    write(data, "rte", {"train": 40, "validation": 16}, 2)
    write(data, "mnli", {"train": 60, "validation_matched": 18, "validation_mismatched": 24}, 3)
    words = ["--data.row-length", "32", "--training.epochs", "1", "--training.log-every", "1"]
    words += ["--model.dropout", "0", "--training.no-tensorboard", "--data.workers", "1"]
    words += ["--training.batch-examples", "8"]
    options = GlueOptions(tasks=("rte", "mnli", "cola"), overrides=words, limit=54, from_mnli=True)
    before, calls = Telemetry.step, []

    def step(self, number, metrics):
        before(self, number, metrics)
        calls.append(number)
        if number == 2 and calls.count(2) == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Telemetry, "step", step)
    with pytest.raises(Interrupted):
        run_glue(data, str(masked.folder), folder, options)
    first = json.loads((folder / "results.json").read_text())
    assert list(first["runs"]) == ["mnli/seed_0"] and first["missing"]["rte"] == "no run has ended"
    report = run_glue(data, str(masked.folder), folder, options)
    actual = json.loads((folder / "results.json").read_text())
    mnli, rte = actual["runs"].values()
    assert list(actual["runs"]) == ["mnli/seed_0", "rte/seed_0"] and mnli == first["runs"]["mnli/seed_0"]
    assert calls == [*range(1, mnli["steps"] + 1), *range(1, rte["steps"] + 1)]  # none twice
    assert [mnli["results"][name]["examples"] for name in ("validation", "mismatched")] == [18, 24]
    assert load(folder / "rte" / "seed_0").init_from == str(folder / "mnli" / "seed_0")
    scores = [actual["tasks"][name]["score"]["mean"] for name in ("rte", "mnli")]
    assert actual["average"] == pytest.approx(np.mean(scores))
    assert "accuracy, mismatched" in report and "Average of 2 of the 9" in report and "cola (no " in report
    assert (folder / "report.md").read_text().strip() in report
    monkeypatch.setattr(suite, "train", lambda *_: pytest.fail("a finished task is repeated"))
    capsys.readouterr()
    again = run_glue(data, str(masked.folder), folder, options)
    assert again.rpartition("\n")[0] == report.rpartition("\n")[0]
    assert "Finished before: mnli/seed_0, rte/seed_0" in capsys.readouterr().out
