"""Suites of runs: what is finished is not repeated, what fails stops no other, and no death loses anything."""

import json
import os
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import jax
import pytest

from jaxencoder.config import Phase, RunConfig
from jaxencoder.config_io import load, save, to_json
from jaxencoder.evaluation import suite
from jaxencoder.evaluation.suite import Run, identities, run_suite
from jaxencoder.evaluation.sweep import run_sweep
from jaxencoder.text.config import DataConfig
from jaxencoder.training.config import TrainingConfig
from jaxencoder.training.telemetry import Diverged

ROOT = Path(__file__).resolve().parents[2]
CONFIG = RunConfig(training=TrainingConfig(steps=3))


def runs(*names: str) -> list[Run]:
    return [Run(name, replace(CONFIG, name=name)) for name in names]


def summarize(outcomes: dict) -> tuple[dict, str]:
    return {"count": len(outcomes)}, f"report of {', '.join(outcomes)}"


def written(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())


@pytest.fixture
def trained(monkeypatch):
    """Stands in for training and measuring: the names of what was trained, and what happens then, by name."""
    names, events = [], {}

    def train(config, folder):
        names.append(config.name)
        if config.name in events:
            raise events[config.name]

    def evaluate(folder, data=None, step=None):
        return {"loss": 0.5, "classes": {"no": {"f1": 1.0}}, "data": str(data), "examples": 7}

    monkeypatch.setattr(suite, "train", train)
    monkeypatch.setattr(suite, "evaluate", evaluate)
    monkeypatch.setattr(suite, "_training_speed", lambda folder: {"steps": 3})
    return names, events


def test_finished_runs_are_not_repeated(trained, tmp_path: Path, capsys) -> None:
    names, _ = trained
    actual = run_suite(runs("a", "b"), tmp_path, summarize)
    assert names == ["a", "b"] and list(actual) == ["a", "b"]
    result = {"results": {"validation": {"loss": 0.5, "examples": 7}}, "steps": 3}
    assert actual["a"] == {"identity": identities(runs("a"))["a"]} | result
    assert written(tmp_path) == {"count": 2, "runs": actual}
    assert (tmp_path / "report.md").read_text() == "report of a, b\n"
    assert "a (1 of 2): validation loss 0.5, examples 7" in capsys.readouterr().out
    run_suite(runs("b", "c"), tmp_path, summarize)
    assert names == ["a", "b", "c"] and "Finished before: b\n" in capsys.readouterr().out
    assert list(written(tmp_path)["runs"]) == ["a", "b", "c"] and written(tmp_path)["count"] == 2


@pytest.mark.parametrize("change", [{"config": replace(CONFIG, name="b", init_from="x")}, {"data": {"other": "y"}}])
def test_results_are_kept_from_other_settings(trained, tmp_path: Path, change: dict) -> None:
    names, events = trained
    events["c"] = OSError("no room")
    run_suite(runs("a", "b", "c"), tmp_path, summarize)
    before = written(tmp_path)
    a, b, c = runs("a", "b", "c")
    with pytest.raises(ValueError, match=r"results\.json has results of b with other settings or data; name another"):
        run_suite([a, replace(b, **change)], tmp_path, summarize)
    assert names == ["a", "b", "c"] and written(tmp_path) == before
    events.clear()
    assert "results" in run_suite([replace(c, data={"other": "y"})], tmp_path, summarize)["c"]  # nothing would be lost


@pytest.mark.parametrize("part", ["train", "validation", "phase", "data"])
def test_results_are_kept_from_other_data(trained, tmp_path: Path, part: str) -> None:
    """What the files hold counts, and not when they were written; a file that is missing stops nothing."""
    source, folder = tmp_path / "text.jsonl", tmp_path / "runs"
    source.write_text('{"text": "a", "label": 0}\n')
    (run,) = runs("a")
    if part == "data":
        run = replace(run, data={"other": str(source)})
    elif part == "phase":
        phases = (Phase(1), Phase(2, train=(str(source),)))
        run = replace(run, config=replace(run.config, training=TrainingConfig(), phases=phases))
    else:
        data = replace(run.config.data, validation_fraction=0.0, **{part: (str(source),)})
        run = replace(run, config=replace(run.config, data=data))
    actual = run_suite([run], folder, summarize)
    os.utime(source, (1, 1))
    assert run_suite([run], folder, summarize) == actual and trained[0] == ["a"]
    source.write_text('{"text": "a", "label": 1}\n')
    os.utime(source, (1, 1))
    before = written(folder)
    with pytest.raises(ValueError, match="has results of a with other settings or data; name another folder"):
        run_suite([run], folder, summarize)
    assert trained[0] == ["a"] and written(folder) == before
    source.unlink()
    missing = run_suite([run], tmp_path / "others", summarize)
    assert missing["a"]["identity"] != actual["a"]["identity"] and "results" in missing["a"]


def test_one_suite_at_a_time(trained, tmp_path: Path) -> None:
    def second(outcomes: dict) -> tuple[dict, str]:
        if not outcomes:
            with pytest.raises(ValueError, match="another suite is running in .*; wait for it, or name another folder"):
                run_suite(runs("b"), tmp_path, summarize)
        return summarize(outcomes)

    run_suite(runs("a"), tmp_path, second)
    assert trained[0] == ["a"] and list(run_suite(runs("b"), tmp_path, summarize)) == ["b"]


def test_several_hosts(trained, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("JAXENCODER_DISTRIBUTED", "1")
    with pytest.raises(ValueError, match="a suite is for one host; unset JAXENCODER_DISTRIBUTED"):
        run_suite(runs("a"), tmp_path / "runs", summarize)
    assert trained[0] == [] and not (tmp_path / "runs").exists()


def test_what_fails_stops_no_other(trained, tmp_path: Path) -> None:
    names, events = trained
    events.update(a=Diverged("not finite"), b=OSError("no\n  room"))
    actual = run_suite(runs("a", "b", "c"), tmp_path, summarize)
    assert [set(one) - {"identity", "steps"} for one in actual.values()] == [{"diverged"}, {"failed"}, {"results"}]
    assert actual["b"]["failed"] == "no room" and written(tmp_path)["runs"] == actual
    events.clear()
    again = run_suite(runs("a", "b", "c"), tmp_path, summarize)
    assert names == ["a", "b", "c", "b"]  # what diverged would diverge again
    assert "results" in again["b"] and again["a"] == actual["a"]
    events["d"] = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory.\nAllocations:\n1. 16 GiB")
    last = run_suite(runs("d", "e"), tmp_path, summarize)
    assert last["d"]["failed"] == "RESOURCE_EXHAUSTED: Out of memory." and "results" in last["e"]


def test_every_run_fails(trained, tmp_path: Path) -> None:
    trained[1].update(a=ValueError("no such data"), b=ValueError("other"))
    with pytest.raises(ValueError, match="every run has failed; a: no such data"):
        run_suite(runs("a", "b"), tmp_path, summarize)


def test_results_are_whole_at_any_moment(trained, tmp_path: Path) -> None:
    names, events = trained
    events["b"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        run_suite(runs("a", "b", "c"), tmp_path, summarize)
    assert list(written(tmp_path)["runs"]) == ["a"]
    events.clear()
    run_suite(runs("a", "b", "c"), tmp_path, summarize)
    assert names == ["a", "b", "b", "c"] and list(written(tmp_path)["runs"]) == ["a", "b", "c"]
    assert {path.name for path in tmp_path.iterdir()} - {".lock"} == {"a", "b", "c", "report.md", "results.json"}


def test_results_of_something_else(trained, tmp_path: Path) -> None:
    for text in ("{", "[]", '{"validation": {}}'):
        (tmp_path / "results.json").write_text(text)
        with pytest.raises(ValueError, match=r"results\.json holds no results of a suite"):
            run_suite(runs("a"), tmp_path, summarize)
        assert (tmp_path / "results.json").read_text() == text


def test_jobs(tmp_path: Path, monkeypatch) -> None:
    for jobs in (0, 10_000):
        with pytest.raises(ValueError, match=f"jobs is {jobs}; give at least 1 and at most"):
            run_suite(runs("a"), tmp_path, summarize, jobs)
    monkeypatch.setattr(suite, "computes_on_cpu", lambda: False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    with pytest.raises(ValueError, match="jobs is 2, but an accelerator does one run at a time"):
        run_suite(runs("a"), tmp_path, summarize, 2)


def test_programs_are_shared(trained, tmp_path: Path, monkeypatch) -> None:
    """Within the suite alone, and in the folder that jax has been given, if any."""
    seen = []
    monkeypatch.setattr(suite, "train", lambda *_: seen.append(jax.config.jax_compilation_cache_dir))
    given = jax.config.jax_compilation_cache_dir
    run_suite(runs("a"), tmp_path, summarize)
    assert seen == [given] == [jax.config.jax_compilation_cache_dir]
    jax.config.update("jax_compilation_cache_dir", None)
    try:
        run_suite(runs("b", "c"), tmp_path, summarize)
        assert seen[1] == seen[2] and not Path(seen[1]).exists() and jax.config.jax_compilation_cache_dir is None
    finally:
        jax.config.update("jax_compilation_cache_dir", given)


def test_training_speed(tmp_path: Path) -> None:
    """Two phases of 10 and 4 rows of 128 tokens, half of them padding: 640 tokens a step, then 256."""
    config = replace(CONFIG, training=TrainingConfig(), phases=(Phase(steps=4, batch_size=10), Phase(3, batch_size=4)))
    save(config, tmp_path)
    lines = [
        {"step": 2, "phase": 0, "padding": 0.5},  # the clock begins
        {"step": 4, "phase": 0, "padding": 0.5, "tokens_per_second": 100.0},
        {"step": 4, "validation_loss": 1.0},
        {"step": 7, "phase": 1, "padding": 0.5, "tokens_per_second": 300.0},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    tokens = 4 * 640 + 3 * 256
    assert suite._training_speed(tmp_path) == {"steps": 7, "tokens_per_second": 200.0, "seconds": tokens / 200}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(lines[0]) + "\n")
    assert suite._training_speed(tmp_path) == {"steps": 2}


# Real processes

PARENT = """
    import sys
    from pathlib import Path
    from jaxencoder.config_io import from_json
    from jaxencoder.evaluation.sweep import run_sweep

    run_sweep(from_json(Path(sys.argv[1]).read_text()), sys.argv[2], seeds=(0, 1), jobs=2)
"""


two_cores = pytest.mark.skipif(
    len(getattr(os, "sched_getaffinity", lambda _: ())(0)) < 2, reason="needs two cores to share"
)


@two_cores
def test_a_long_reason_side_by_side(tmp_path: Path, monkeypatch) -> None:
    """An outcome larger than the buffer of a pipe, 64 KiB, arrives whole."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    source = "x" * 100_000
    failing = [replace(run, config=replace(run.config, data=DataConfig(train=(source,)))) for run in runs("a", "b")]
    with pytest.raises(ValueError, match=f"every run has failed; a: .*{source}"):
        run_suite(failing, tmp_path, summarize, jobs=2)
    assert source in written(tmp_path)["runs"]["b"]["failed"]


@two_cores
def test_side_by_side_and_killed(classifier, tmp_path: Path, monkeypatch, capsys) -> None:
    """The parent dies without a word: its children save and leave, and the next call goes on from there."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    config = load(classifier.folder)
    config = replace(config, training=replace(config.training, steps=1000, log_every=1, checkpoint_every=1000))
    (tmp_path / "config.json").write_text(to_json(config))
    folder = tmp_path / "runs"
    logs = [folder / f"seed_{seed}" / "log.txt" for seed in (0, 1)]
    command = [sys.executable, "-c", textwrap.dedent(PARENT), str(tmp_path / "config.json"), str(folder)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT) as parent:
        try:
            deadline = time.monotonic() + 300
            while not (begun := [log for log in logs if log.exists() and "step 5/1000" in log.read_text()]):
                assert parent.poll() is None and time.monotonic() < deadline, [log.read_text() for log in logs]
                time.sleep(0.05)
        finally:
            parent.kill()
    report = run_sweep(config, folder, seeds=(0, 1), jobs=2)
    for log in begun:
        text = log.read_text()
        assert "Stopped after step" in text and f"Continuing {log.parent} after step" in text, text
    actual = written(folder)
    assert list(actual["runs"]) == ["seed_0", "seed_1"]
    assert all(one["steps"] == 1000 and one["tokens_per_second"] > 0 for one in actual["runs"].values())
    accuracies = [one["results"]["validation"]["accuracy"] for one in actual["runs"].values()]
    assert f"{sum(accuracies) / 2:.4f} ±" in report and (folder / "report.md").read_text() == report + "\n"
    assert "seed_0 begins, see" in capsys.readouterr().out
