"""The verbs of many runs: what they hand over, and what they say of mistakes."""

import inspect
import sys
import types
from pathlib import Path

import pytest

from jaxencoder.cli import main


@pytest.fixture
def calls(monkeypatch):
    """Stands in for the functions behind the verbs, and records what they are given."""
    record = []

    def stand_in(name):
        def call(*args, **kwargs):
            record.append((args, kwargs))
            return f"report of {name}"

        stub = types.ModuleType(f"jaxencoder.tasks.{name}")
        setattr(stub, name, call)
        monkeypatch.setitem(sys.modules, f"jaxencoder.tasks.{name}", stub)

    stand_in("sweep")
    stand_in("glue")
    return record


def test_sweep(calls, capsys) -> None:
    words = ["--vary", "optimizer.learning_rate=1e-4,3e-4", "--seeds", "0", "1", "--training.steps", "7"]
    words += ["--vary", "optimizer.b1=0.8", "--jobs", "2"]
    assert main(["sweep", "quickstart", "--run-dir", "out", *words]) == 0
    ((config, *rest), options), *others = calls
    assert rest == [Path("out"), [0, 1], ["optimizer.learning_rate=1e-4,3e-4", "optimizer.b1=0.8"], 2]
    assert (config.name, config.training.steps, options, others) == ("quickstart", 7, {}, [])
    assert capsys.readouterr().out == "report of sweep\n"
    assert main(["sweep", "quickstart", "--run-dir", "out"]) == 0
    assert calls[1][0][1:] == (Path("out"), [], [], 1)


def test_glue(calls, capsys) -> None:
    words = ["--tasks", "rte", "cola", "--seeds", "0", "1", "--limit", "100", "--optimizer.learning-rate", "1e-3"]
    assert main(["glue", "data", "--init-from", "model", "--run-dir", "out", *words, "--from-mnli"]) == 0
    options = {"seeds": [0, 1], "tasks": ["rte", "cola"], "limit": 100, "from_mnli": True, "jobs": 1}
    assert calls == [(("data", "model", Path("out")), options | {"words": ["--optimizer.learning-rate", "1e-3"]})]
    assert capsys.readouterr().out == "report of glue\n"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["sweep"], "name a RECIPE"),
        (["sweep", "quickstart"], "name the folder of the runs with --run-dir"),
        (["glue", "data", "--run-dir", "out"], "the following arguments are required: --init-from"),
        (["glue", "data", "--init-from", "model"], "name the folder of the runs with --run-dir"),
        (["glue", "data", "--init-from", "model", "--run-dir", "out", "--tasks", "imdb"], "invalid choice: 'imdb'"),
    ],
)
def test_mistakes(words, line, calls, capsys) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2 and line in capsys.readouterr().err and not calls


def test_functions_behind_the_verbs_take_what_they_are_given() -> None:
    from jaxencoder.tasks.glue import glue
    from jaxencoder.tasks.sweep import sweep

    inspect.signature(sweep).bind(*range(5))
    options = ("words", "seeds", "tasks", "limit", "from_mnli", "jobs")
    inspect.signature(glue).bind(*range(3), **dict.fromkeys(options))
