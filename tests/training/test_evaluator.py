"""Early stopping, also of interrupted runs."""

import json
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest

from jaxencoder.config import RunConfig
from jaxencoder.training import loop
from jaxencoder.training.config import TrainingConfig
from jaxencoder.training.evaluator import past_evaluations, should_stop
from jaxencoder.training.loop import train
from tests.devices import run_twice

from .conftest import interrupted, losses

NAN = float("nan")


@pytest.mark.parametrize(
    ("mode", "patience", "values", "ends"),
    [
        ("max", 2, [], False),
        ("max", 2, [0.5, 0.4], False),
        ("max", 2, [0.5, 0.4, 0.4], True),
        ("max", 2, [0.5, 0.5, 0.5], True),  # as good is no better
        ("max", 2, [0.5, 0.4, 0.6, 0.5], False),
        ("min", 2, [0.5, 0.6, 0.4, 0.3], False),
        ("min", 1, [0.5, 0.6], True),
        ("min", 2, [NAN, NAN, 3.0], False),
        ("min", 2, [3.0, NAN, NAN], True),
        ("min", 0, [1.0, 2.0, 3.0, 4.0], False),
    ],
)
def test_without_gain(mode: str, patience: int, values: list[float], ends: bool) -> None:
    settings = TrainingConfig(best_metric="f1", best_mode=mode, patience=patience)
    assert should_stop([{"f1": value, "loss": 1.0} for value in values], settings) is ends
    assert not should_stop([{"loss": 1.0}] * 9, settings)


def test_evaluations(tmp_path: Path) -> None:
    assert past_evaluations(tmp_path, 5) == []
    lines = [{"step": 2, "loss": 1.0}, {"step": 2, "validation_loss": 0.5}, {"step": 4, "validation_loss": None}]
    lines.append({"step": 6, "validation_loss": 0.1})
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + '\n{"step": 5, "validation_lo')
    assert past_evaluations(tmp_path, 0) == []
    assert past_evaluations(tmp_path, 3) == [{"loss": 0.5}]
    assert str(past_evaluations(tmp_path, 5)) == "[{'loss': 0.5}, {'loss': nan}]"
    assert len(past_evaluations(tmp_path, 6)) == 3


TWO = """
    import sys
    from pathlib import Path
    import jax
    folder, port, index = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    jax.distributed.initialize(f"127.0.0.1:{port}", 2, index)
    from jaxencoder.training.evaluator import past_evaluations
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    with jax.set_mesh(mesh):
        read = [past_evaluations(folder / str(index), done) for done in (0, 3, 5)]
    (folder / f"{index}.txt").write_text(str(read))
"""


def test_processes_of_which_one_has_the_file(tmp_path: Path) -> None:
    (tmp_path / "0").mkdir()
    lines = [{"step": 2, "validation_loss": 0.1 + 0.2}, {"step": 4, "validation_loss": None}]
    (tmp_path / "0" / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    run_twice("-c", textwrap.dedent(TWO), tmp_path)
    one = "{'loss': 0.30000000000000004}"
    for index in (0, 1):
        assert (tmp_path / f"{index}.txt").read_text() == f"[[], [{one}], [{one}, {{'loss': nan}}]]"


def test_a_run_that_gains_no_more(config: RunConfig, tmp_path: Path, sigterm, monkeypatch, capsys) -> None:
    """With an evaluation after every step, the second the best, and a patience of 3, the fifth step is the last."""
    monkeypatch.setattr(loop, "evaluator", lambda *_: lambda state: {"loss": abs(int(state.step) - 2.0)})
    settings = replace(config.training, eval_every=1, checkpoint_every=5, patience=3)
    config = replace(config, training=settings)
    full, cut = tmp_path / "whole", tmp_path / "cut"
    assert train(config, full) == {"loss": 3.0}
    assert "Stopping early: 3 evaluations without a better loss" in capsys.readouterr().err
    assert {path.name for path in (full / "checkpoints").iterdir()} == {"2", "5"}
    sigterm([1, 4])
    interrupted(config, cut)
    interrupted(config, cut)
    assert train(config, cut) == {"loss": 3.0}
    assert losses(cut) == losses(full) and losses(cut)[-1]["step"] == 5
    capsys.readouterr()
    for folder in (cut, full):
        assert train(config, folder) == {"loss": 3.0}
        assert f"{folder} is finished: 5 of 12 steps" in capsys.readouterr().out
    assert train(replace(config, training=replace(settings, patience=4)), cut) == {"loss": 4.0}
    assert losses(cut)[-1]["step"] == 6


def test_nothing_to_gain_by(config: RunConfig, tmp_path: Path) -> None:
    data = replace(config.data, validation_fraction=0.0)
    config = replace(config, data=data, training=replace(config.training, patience=1))
    with pytest.raises(ValueError, match="patience is 1, but no data is held out; set it to 0"):
        train(config, tmp_path / "run")
