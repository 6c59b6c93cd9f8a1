"""The loop on tiny runs: stopped and continued, on other meshes, diverging, damaged, on a full disk."""

import contextlib
import json
import logging
import resource
import shutil
import signal
import textwrap
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxencoder.checkpoints.orbax import CheckpointManager, restore_step
from jaxencoder.cli.main import main
from jaxencoder.config import Classification, ComputeConfig, RunConfig
from jaxencoder.config_io import save
from jaxencoder.objectives.mlm import MaskedLM
from jaxencoder.sharding import MeshConfig, make_mesh
from jaxencoder.text.batches import prefetch
from jaxencoder.training import evaluator, loop, phases
from jaxencoder.training.loop import train
from jaxencoder.training.setup import set_up
from jaxencoder.training.step import TrainState
from jaxencoder.training.telemetry import Diverged
from tests.devices import end, free_port, popen

from .conftest import interrupted, losses

EIGHT = MeshConfig(data=1, fsdp=2, tensor=2, context=2)


def assert_close(folder: Path, reference: list[dict]) -> None:
    lines = losses(folder)
    assert [sorted(line) for line in lines] == [sorted(line) for line in reference]
    for line, other in zip(lines, reference, strict=True):
        for name in ("step", "loss", "accuracy", "validation_loss"):
            assert line.get(name, 0) == pytest.approx(other.get(name, 0), rel=1e-5), (name, line, other)


@pytest.fixture(scope="module")
def reference(home: Path, config: RunConfig) -> Path:
    train(config, home / "reference")
    return home / "reference"


def training(config: RunConfig, **settings) -> RunConfig:
    return replace(config, training=replace(config.training, **settings))


def test_reference(reference: Path, config: RunConfig) -> None:
    lines = losses(reference)
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 13))
    assert [line["step"] for line in lines if "validation_loss" in line] == [4, 8, 12]
    assert lines[-2]["loss"] < lines[0]["loss"] - 0.1
    compiles = [json.loads(line).get("compiles") for line in (reference / "metrics.jsonl").read_text().splitlines()]
    assert len(set(compiles[6:]) - {None}) == 1  # after the first step, evaluation and save nothing is compiled again


def test_pairs(home: Path, config: RunConfig) -> None:
    """Sentence order and masked tokens are trained together and both measured, on training and held-out rows."""
    texts = [json.loads(line)["text"] for line in (home / "text.jsonl").read_text().splitlines()]
    path = home / "sentences.jsonl"
    groups = [". ".join(texts[start : start + 5]) for start in range(0, 150, 5)]
    path.write_text("".join(json.dumps({"text": f"{group}."}) + "\n" for group in groups))
    sections = {
        "data": replace(config.data, train=(str(path),), pairs="sop"),
        "objective": MaskedLM(pairs=True),
        "model": replace(config.model, num_layers=1, dropout=0.0),
        "training": replace(config.training, steps=3, accumulation=1, ema_decay=0.0),
    }
    result = train(replace(config, **sections), home / "pairs")
    lines = [line for line in losses(home / "pairs") if "loss" in line]
    assert [line["step"] for line in lines] == [1, 2, 3]
    for line in lines:
        assert line["loss"] == pytest.approx(line["mlm_loss"] + line["pair_loss"], rel=1e-4)
        assert 0.3 < line["pair_loss"] < 1.2 and 0 <= line["pair_accuracy"] <= 1
    assert 0.3 < result["pair_loss"] < 1.2


def test_sigterm(reference: Path, config: RunConfig, tmp_path: Path, sigterm) -> None:
    steps = (1, 4, 11)
    sigterm(steps)
    for step in steps:
        interrupted(config, tmp_path)
        assert max(int(path.name) for path in (tmp_path / "checkpoints").iterdir()) == step
    train(config, tmp_path)
    assert losses(tmp_path) == losses(reference)
    one, other = (restore_step(folder / "checkpoints", part="ema")[1] for folder in (tmp_path, reference))
    assert jax.tree.all(jax.tree.map(np.array_equal, one, other))


def test_sigterm_in_the_last_step(reference: Path, config: RunConfig, tmp_path: Path, sigterm) -> None:
    """The run is complete, and its caller still exits."""
    sigterm([12])
    interrupted(config, tmp_path)
    assert losses(tmp_path) == losses(reference)
    assert train(config, tmp_path)["loss"] > 0  # finished: the last evaluation


def test_sigterm_handler_is_given_back(reference: Path, config: RunConfig) -> None:
    before = signal.getsignal(signal.SIGTERM)
    train(config, reference)
    assert signal.getsignal(signal.SIGTERM) is before


CHILD = """
    import os, signal, sys, threading, time
    from pathlib import Path
    from jaxencoder.config_io import load
    from jaxencoder.text import cache, store
    from jaxencoder.checkpoints import orbax as checkpoint
    from jaxencoder.training import telemetry

    target, run_dir, moment, number = sys.argv[1:5]
    signal_number = getattr(signal, os.environ.get("WITH", "SIGKILL"))
    owner, name = {
        "tokenizer": (cache, "train_tokenizer"),
        "rows": (store.Writer, "close"),
        "save": (checkpoint.CheckpointManager, "save"),
        "step": (telemetry.Telemetry, "step"),
        "none": (telemetry.Telemetry, "__enter__"),
    }[moment]
    before, calls = getattr(owner, name), 0

    def hook(*args, **kwargs):
        global calls
        calls += 1
        result = before(*args, **kwargs)
        if calls == int(number):
            if moment == "save":
                time.sleep(float(os.environ["WAIT"]))
            os.kill(os.getpid(), signal_number)
        return result

    setattr(owner, name, hook)
    from jaxencoder.cli.main import main
    sys.exit(main(["train", target, "--run-dir", run_dir, *sys.argv[5:]]))
"""


def start(target: Path, folder: Path, moment: str, number: int, *words: str, devices: int = 1, **settings: str):
    settings |= {"JAX_ENABLE_COMPILATION_CACHE": "true"}
    arguments = "-c", textwrap.dedent(CHILD), target, folder, moment, number, *words
    return popen(*arguments, devices=devices, **settings)


def test_sigkill(reference: Path, config: RunConfig, tmp_path: Path) -> None:
    """During the training of the tokenizer, the preparation of rows, a save, and right after a step."""
    save(config, tmp_path)
    words = ("--data.cache", str(tmp_path / "cache"))
    wait = str(np.random.default_rng().uniform(0, 0.1))
    for moment, number in (("tokenizer", 1), ("rows", 2), ("save", 2), ("step", 2)):
        codes, output = end(start(tmp_path / "config.json", tmp_path / "run", moment, number, *words, WAIT=wait))
        assert codes == [-signal.SIGKILL], output
    train(replace(config, data=replace(config.data, cache=str(tmp_path / "cache"))), tmp_path / "run")
    assert losses(tmp_path / "run") == losses(reference)
    left = [path.name for path in (tmp_path / "cache" / "rows").iterdir() if not path.name.endswith(".lock")]
    assert len(left) == 2 and not any(name.startswith(".") for name in left)


def test_eight_devices_then_one(reference: Path, config: RunConfig, tmp_path: Path) -> None:
    save(replace(config, mesh=EIGHT), tmp_path)
    codes, output = end(start(tmp_path, tmp_path / "run", "step", 9, devices=8, WITH="SIGTERM"))
    assert codes == [143], output
    train(config, tmp_path / "run")
    assert_close(tmp_path / "run", losses(reference))


def test_one_device_then_eight(reference: Path, config: RunConfig, tmp_path: Path, sigterm) -> None:
    sigterm([3])
    interrupted(config, tmp_path / "run")
    save(replace(config, mesh=EIGHT), tmp_path)
    codes, output = end(start(tmp_path, tmp_path / "run", "none", 0, devices=8))
    assert codes == [0], output
    assert_close(tmp_path / "run", losses(reference))


def pair(target: Path, folder: Path, moment: str, number: int, *words: tuple[str, ...], **environment: str):
    address = f"127.0.0.1:{free_port()}"
    several = {"JAXENCODER_DISTRIBUTED": "1", "JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2"}
    run = partial(start, target, folder, moment, number, **several, **environment)
    return end(*(run(*words[i], JAX_PROCESS_ID=str(i)) for i in range(2)))


def test_two_processes(reference: Path, config: RunConfig, tmp_path: Path) -> None:
    save(config, tmp_path)
    codes, output = pair(tmp_path, tmp_path / "run", "step", 4, (), (), WITH="SIGTERM")
    assert codes == [143, 143], output
    assert 4 <= len([line for line in losses(tmp_path / "run") if "loss" in line]) < 12
    codes, output = pair(tmp_path, tmp_path / "run", "none", 0, (), ())
    assert codes == [0, 0], output
    assert_close(tmp_path / "run", losses(reference))
    assert output.count("Reusing") == 2  # one of them speaks


def test_two_processes_that_disagree(reference: Path, config: RunConfig, tmp_path: Path) -> None:
    save(config, tmp_path)
    codes, output = pair(tmp_path, tmp_path / "run", "none", 0, (), ("--training.seed", "1"))
    assert codes == [2, 2], output
    assert output.count("the processes of this run do not have the same settings") == 2
    assert not (tmp_path / "run").exists()


def test_finished(reference: Path, config: RunConfig, capsys) -> None:
    def files() -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in reference.rglob("*") if path.is_file()}

    before = files()
    last = losses(reference)[-1]
    capsys.readouterr()
    result = {name.removeprefix("validation_"): value for name, value in last.items() if name != "step"}
    assert train(config, reference) == result
    said = capsys.readouterr().out.splitlines()
    assert f"{reference} is finished: 12 of 12 steps" in said[-1] and "loss" in said[-1]
    assert files() == before


def test_repeated_from_its_configuration(reference: Path, tmp_path: Path) -> None:
    assert main(["train", str(reference / "config.json"), "--run-dir", str(tmp_path / "again")]) == 0
    assert losses(tmp_path / "again") == losses(reference)


def test_more_steps(reference: Path, config: RunConfig, tmp_path: Path) -> None:
    shutil.copytree(reference, tmp_path / "run")
    train(training(config, steps=14), tmp_path / "run")
    assert losses(tmp_path / "run")[: len(losses(reference))] == losses(reference)
    assert [line["step"] for line in losses(tmp_path / "run") if "loss" in line] == list(range(1, 15))


@pytest.mark.parametrize("depth", [1, 7])
def test_depth_of_prefetching(depth: int, reference: Path, config: RunConfig, tmp_path: Path, monkeypatch) -> None:
    for module in (phases, evaluator):
        monkeypatch.setattr(module, "prefetch", partial(prefetch, depth=depth))
    train(config, tmp_path)
    assert losses(tmp_path) == losses(reference)


def test_divergence(reference: Path, tmp_path: Path, capsys) -> None:
    words = ["--optimizer.learning-rate", "1e30", "--training.checkpoint-every", "1"]
    assert main(["train", str(reference / "config.json"), "--run-dir", str(tmp_path), *words]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("jaxencoder: The loss or its gradient is not finite at step 1") and "metrics.jsonl" in error
    assert not list((tmp_path / "checkpoints").iterdir())


def test_divergence_keeps_the_last_good_checkpoint(config: RunConfig, tmp_path: Path, sigterm, monkeypatch) -> None:
    sigterm([5])
    interrupted(config, tmp_path)
    before = phases.restore_state

    def poisoned(*args):
        state = before(*args)
        return state._replace(params=jax.tree.map(lambda x: x * jnp.nan, state.params))

    monkeypatch.setattr(phases, "restore_state", poisoned)
    with pytest.raises(Diverged, match="step 6 .* last good checkpoint is kept"):
        train(config, tmp_path)
    assert sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir())[-1] == 5
    assert jax.tree.all(jax.tree.map(lambda x: np.isfinite(x).all(), restore_step(tmp_path / "checkpoints")[1]))


def test_damaged_checkpoint(reference: Path, config: RunConfig, tmp_path: Path, caplog) -> None:
    run = shutil.copytree(reference, tmp_path / "run")
    for path in (run / "checkpoints" / "12").rglob("d/*"):
        path.write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        train(config, run)
    assert [record.levelname for record in caplog.records] == ["WARNING"] and "using 9" in caplog.text
    assert losses(run) == losses(reference)


def test_moving_average_is_what_is_evaluated(reference: Path, config: RunConfig) -> None:
    params, ema = (restore_step(reference / "checkpoints", part=part)[1] for part in ("params", "ema"))
    mesh = make_mesh(config.mesh)
    with jax.set_mesh(mesh):
        evaluate = evaluator.evaluator(set_up(config, reference), mesh)
        averaged, plain = (evaluate(TrainState(jnp.int32(0), tree, None, None)) for tree in (ema, params))
    assert averaged["loss"] == losses(reference)[-1]["validation_loss"] != plain["loss"]


def test_checkpoints_that_are_kept(config: RunConfig, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(loop, "evaluator", lambda *_: lambda state: {"loss": abs(int(state.step) - 4.0)})
    train(training(config, keep_checkpoints=1), tmp_path)
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"4", "12"}


def test_best_by_a_metric_that_there_is_not(config: RunConfig, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="best_metric is 'f1', but .* measures accuracy, loss,.* perplexity"):
        train(training(config, best_metric="f1"), tmp_path / "run")
    assert train(training(config, best_metric="f1", keep_best=False, eval_every=0), tmp_path / "run")


def test_nothing_held_out(config: RunConfig, tmp_path: Path) -> None:
    config = replace(config, data=replace(config.data, validation_fraction=0.0))
    assert train(training(config, profile_steps=(2,)), tmp_path) == {}
    assert not any("validation_loss" in line for line in losses(tmp_path))
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))
    assert train(config, tmp_path) == {}


def test_evaluation_at_the_end_only(config: RunConfig, tmp_path: Path) -> None:
    result = train(training(config, eval_every=0), tmp_path)
    assert [line["step"] for line in losses(tmp_path) if "validation_loss" in line] == [12]
    assert result["loss"] == losses(tmp_path)[-1]["validation_loss"]


def test_no_room(reference: Path, tmp_path: Path, capsys) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, before[1]))
    try:
        assert main(["train", str(reference / "config.json"), "--run-dir", str(tmp_path)]) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "Could not save a checkpoint" in capsys.readouterr().err.splitlines()[-1]
    assert not [path for path in (tmp_path / "checkpoints").iterdir() if path.name.isdecimal()]
    assert main(["train", str(tmp_path)]) == 0
    assert losses(tmp_path) == losses(reference)


@pytest.mark.parametrize(("dtype", "old"), [("bfloat16", True), ("bfloat16", False), ("float32", True)])
def test_bfloat16_on_gpus_that_have_none(config: RunConfig, dtype: str, old: bool, monkeypatch, caplog) -> None:
    monkeypatch.setattr(loop, "before_ampere", lambda: old)
    monkeypatch.setattr(loop, "set_up", lambda config, run_dir: SimpleNamespace(config=config))
    loop._checked_setup(replace(config, compute=ComputeConfig(dtype=dtype)), Path(), make_mesh(config.mesh))
    assert len(caplog.records) == (old and dtype == "bfloat16")


def test_fine_tuning_from_random_weights_says_so(config: RunConfig, tmp_path: Path, capsys) -> None:
    mesh = make_mesh(config.mesh, jax.devices()[:1])
    labeled = replace(config, objective=Classification(), data=replace(config.data, label_field="label"))
    with jax.set_mesh(mesh):
        for name, run in (("labeled", labeled), ("plain", config)):
            setup = set_up(run, tmp_path / name)
            capsys.readouterr()
            with contextlib.closing(CheckpointManager(tmp_path / name / "checkpoints")) as checkpoints:
                phases.compile_updates(setup, mesh, checkpoints)
            note = "Starting from random weights: no --init-from\n"
            assert capsys.readouterr().out == (note if run is labeled else "")


def test_rows_that_the_devices_do_not_share(config: RunConfig) -> None:
    axes = ("data", "fsdp", "tensor", "context")
    mesh = jax.sharding.AbstractMesh((8, 1, 1, 1), axes, axis_types=(jax.sharding.AxisType.Auto,) * 4)
    with pytest.raises(ValueError, match=r"batch_size 8 in 2 part\(s\) is not divisible by the 8 data shards"):
        loop.check_shards(config, mesh)
