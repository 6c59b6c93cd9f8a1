"""Phases of a run: settings and rows of each, and interruption at their borders."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxencoder
from jaxencoder.checkpoints.orbax import restore_step
from jaxencoder.cli.main import main
from jaxencoder.config import EncoderConfig, MaskedLM, Masking, RunConfig
from jaxencoder.config_io import save
from jaxencoder.evaluation.evaluate import evaluate
from jaxencoder.training import agreement
from jaxencoder.training.config import Phase, batch_warmup
from jaxencoder.training.loop import train
from jaxencoder.training.phases import phase_batches
from jaxencoder.training.setup import set_up

from .conftest import interrupted, losses


@pytest.fixture(scope="module")
def phased(home: Path, config: RunConfig) -> RunConfig:
    """Length, batch and sources change, and with them the masking rate, learning rate and rotary wavelengths."""
    lines = (home / "text.jsonl").read_text().splitlines(keepends=True)
    (home / "other.jsonl").write_text("".join(lines[:60]))
    return replace(
        config,
        # Few parts, to compile quickly; large weights, because small ones attend to all tokens alike.
        model=EncoderConfig(
            num_layers=1, hidden_size=16, mlp_size=16, num_heads=2, max_length=16, token_types=0,
            attention_bias=False, mlp_bias=False, norm_bias=False, head_transform=False, output_bias=False,
            dropout=0.0, attention_dropout=0.0, initializer_std=0.5, positions="rotary", rope_theta=1e5,
        ),
        training=replace(config.training, steps=0, accumulation=1, ema_decay=0.0, eval_batches=0, keep_checkpoints=9),
        phases=(
            Phase(steps=3, row_length=8, batch_size=4, rope_theta=2.0),
            Phase(steps=3, batch_size=4, rope_theta=2.0),
            Phase(steps=2, train=(str(home / "other.jsonl"),), rate=0.4, learning_rate=1e-3),
        ),
    )  # fmt: skip


@pytest.fixture(scope="module")
def reference(phased: RunConfig, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("phases") / "reference"
    train(phased, folder)
    return folder


def same_params(one: Path, other: Path) -> bool:
    trees = (restore_step(folder / "checkpoints")[1] for folder in (one, other))
    return jax.tree.all(jax.tree.map(np.array_equal, *trees))


def test_batch_warmup():
    assert batch_warmup(64, 256, 3, 301, row_length=32) == (
        Phase(steps=100, batch_size=64, row_length=32),
        Phase(steps=100, batch_size=128, row_length=32),
        Phase(steps=101, batch_size=192, row_length=32),
    )
    with pytest.raises(ValueError, match="does not grow from 64 to 256 rows in 5 equal parts"):
        batch_warmup(64, 256, 5, 300)
    with pytest.raises(ValueError, match="steps of a phase must be at least 1, got 0"):
        batch_warmup(64, 256, 3, 2)


def test_reference(reference: Path, phased: RunConfig) -> None:
    lines = [line for line in losses(reference) if "loss" in line]
    assert [line["step"] for line in lines] == list(range(1, 9))
    assert [line["phase"] for line in lines] == [0, 0, 0, 1, 1, 1, 2, 2]
    rates = np.array([line["learning_rate"] for line in lines])
    straight = 1 - np.arange(8) / 8  # the schedule knows of phases only the peak
    assert rates == pytest.approx(straight * np.repeat([1e-2, 1e-3], [6, 2]), rel=1e-5)
    assert [line["step"] for line in losses(reference) if "validation_loss" in line] == [4, 8]
    assert json.loads((reference / "config.json").read_text())["training"]["steps"] == 8
    rows = ("training rows", "training rows of phase 1", "training rows of phase 2", "held-out rows")
    assert set(json.loads((reference / "data.json").read_text())) == set(rows)


def test_stopped_at_every_border_and_around(reference: Path, phased: RunConfig, tmp_path: Path, sigterm, capfd) -> None:
    for step in (2, 3, 4, 6, 7):
        sigterm([step])
        interrupted(phased, tmp_path)
    train(phased, tmp_path)
    assert losses(tmp_path) == losses(reference) and same_params(tmp_path, reference)
    said = [line.split(":")[0] for line in capfd.readouterr().err.splitlines() if line.startswith("Phase")]
    one, two, three = ("Phase 0, steps 1 to 3", "Phase 1, steps 4 to 6", "Phase 2, steps 7 to 8")
    assert said == [one, one, two, two, three, three]


def test_a_phase_is_a_run_with_its_settings(phased: RunConfig) -> None:
    changed = {"batch_size": 4, "accumulation": 2}
    phase = Phase(steps=1, row_length=8, train=("a", "b"), rate=0.4, learning_rate=1e-3, rope_theta=2.0, **changed)
    weighted = replace(phased.data, train=("c", "d"), weights=(1.0, 3.0))
    phases = (phase, replace(phase, weights=(2.0, 1.0)), Phase(steps=1, weights=(1.0, 1.0)), Phase(steps=1))
    config = replace(phased, data=weighted, training=replace(phased.training, steps=0), phases=phases)
    plain = replace(config, training=replace(config.training, steps=1), phases=())
    first, second, *rest = config.phase_configs
    assert first == replace(
        plain,
        model=replace(plain.model, rope_theta=2.0),
        objective=MaskedLM(Masking(rate=0.4)),
        data=replace(plain.data, row_length=8, train=("a", "b"), weights=()),
        optimizer=replace(plain.optimizer, learning_rate=1e-3),
        training=replace(plain.training, **changed),
    )
    assert second.data == replace(first.data, weights=(2.0, 1.0))
    assert rest == [replace(plain, data=replace(weighted, weights=(1.0, 1.0))), plain]
    assert plain.phase_configs == (plain,)


def test_the_third_phase_computes_with_its_own_settings(reference: Path, phased: RunConfig) -> None:
    setup = set_up(phased, reference)
    params = restore_step(reference / "checkpoints", step=6)[1]
    batch = phase_batches(setup)[2].batch(0)
    key = jax.random.fold_in(jax.random.key(phased.training.seed), 6)

    def loss(rope_theta: float) -> float:
        model = replace(setup.config.model, rope_theta=rope_theta)
        objective = MaskedLM(Masking(rate=0.4)).build(model, phased.compute, setup.tokenizer)
        return float(jax.jit(objective.loss, static_argnums=3)(params, batch, key, True)[0])

    (logged,) = (line["loss"] for line in losses(reference) if line["step"] == 7 and "loss" in line)
    assert loss(1e5) == pytest.approx(logged, rel=1e-6) != pytest.approx(loss(2.0), rel=1e-4)


def test_rows_of_phases(reference: Path, phased: RunConfig, tmp_path: Path) -> None:
    """Phases of the same data share one stream; different data has another order."""
    sizes = (Phase(steps=3, batch_size=2), Phase(steps=1, row_length=8), Phase(steps=2, batch_size=4), Phase(steps=1))
    config = replace(phased, phases=sizes, training=replace(phased.training, steps=0))
    first, short, second, third = phase_batches(set_up(config, tmp_path / "run"))
    plain = phase_batches(set_up(replace(config, phases=()), tmp_path / "plain"))[0]
    cut = [first.batch(0), first.batch(1), first.batch(2), second.batch(0), second.batch(1), third.batch(0)]
    full = [plain.batch(step)["token_ids"] for step in range(3)]
    assert np.array_equal(np.concatenate([batch["token_ids"] for batch in cut])[:22], np.concatenate(full)[:22])
    short_rows, rows = short.batch(0)["row_ids"], plain.batch(0)["row_ids"]
    assert not np.array_equal(short_rows, rows) and short.batch(0)["token_ids"].shape == (8, 8)


def test_a_run_stopped_early_opens_as_its_phase_left_it(reference: Path) -> None:
    thetas = [jaxencoder.load(reference, step=step).config.model.rope_theta for step in (6, "latest")]
    assert thetas == [2.0, 1e5]
    (logged,) = (line["validation_loss"] for line in losses(reference) if line["step"] == 4 and "loss" not in line)
    assert evaluate(reference, step=4)["loss"] == pytest.approx(logged, rel=1e-5)


def test_until(phased: RunConfig) -> None:
    begun = {step: len(phased.at_step(step).phases) for step in (0, 1, 3, 4, 6, 7, 8, 99)}
    assert begun == {0: 1, 1: 1, 3: 1, 4: 2, 6: 2, 7: 3, 8: 3, 99: 3}
    assert phased.at_step(4).training.steps == 6 and phased.at_step(8) == phased
    plain = replace(phased, phases=())
    assert plain.at_step(3) is plain


def test_learned_positions_reach_as_far_as_the_rows(phased: RunConfig, reference: Path) -> None:
    learned = replace(
        phased,
        model=replace(phased.model, positions="learned"),
        training=replace(phased.training, steps=0),
        phases=(Phase(steps=2, row_length=8), Phase(steps=2, row_length=12)),
    )
    model = jaxencoder.load(reference)
    assert [replace(model, config=learned.at_step(step)).max_length for step in (2, 3)] == [8, 12]


# Continuing with other phases


def refused(old: RunConfig, done: int, *phases: Phase) -> list[str]:
    new = replace(old, phases=phases, training=replace(old.training, steps=0))
    return [name for name, *_ in agreement._phase_differences(old, new, done)]


def test_what_has_begun_may_not_change(phased: RunConfig) -> None:
    a, b, c = phased.phases
    assert refused(phased, 8, replace(a, batch_size=8), b, c) == ["phases.0.batch_size"]
    assert refused(phased, 4, replace(a, steps=2), b, c) == ["phases.0.steps"]
    assert refused(phased, 8, a, b) == ["phases"]
    assert refused(phased, 5, a, replace(b, steps=1), c) == ["phases.1.steps"]


def test_what_is_to_come_may_change(phased: RunConfig) -> None:
    a, b, c = phased.phases
    assert refused(phased, 3, a) == refused(phased, 3, a, c) == refused(phased, 6, a, b, replace(c, rate=0.2)) == []
    assert refused(phased, 5, a, replace(b, steps=2), c) == refused(phased, 8, a, b, replace(c, steps=9), a) == []
    plain = replace(phased, phases=(), training=replace(phased.training, steps=8))
    assert refused(plain, 8, Phase(steps=8), c) == [] and refused(plain, 8, Phase(steps=8, row_length=8), c)


def test_one_more_phase(reference: Path, phased: RunConfig, tmp_path: Path) -> None:
    run = shutil.copytree(reference, tmp_path / "run")
    longer = (*phased.phases, Phase(steps=1, row_length=8))
    config = replace(phased, phases=longer, training=replace(phased.training, steps=0))
    set_up(config, run)
    digests = json.loads((run / "data.json").read_text())
    assert digests.items() > json.loads((reference / "data.json").read_text()).items() and len(digests) == 5
    for name in ("held-out rows", "training rows of phase 2"):
        (run / "data.json").write_text(json.dumps({"training rows of phase 3": "not begun", name: "other"}))
        with pytest.raises(ValueError, match=f"the {name} are not those"):
            set_up(config, run)


# The commands


def test_prepare(phased: RunConfig, tmp_path: Path, capsys) -> None:
    save(phased, tmp_path)
    capsys.readouterr()
    assert main(["prepare", str(tmp_path)]) == 0
    made = [line.split(",")[0] for line in capsys.readouterr().out.splitlines() if line.endswith("padding")]
    sizes = ["train:8 tokens", "train:16 tokens", "train:16 tokens", "validation:16 tokens"]
    assert [line.split()[0] + line.rpartition(" of ")[2] for line in made] == sizes


def test_classes_of_all_phases(config: RunConfig, home: Path, tmp_path: Path) -> None:
    records = [{"text": "abc " * (i + 1), "label": ["no", "perhaps"][i % 2]} for i in range(40)]
    (tmp_path / "one.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    config = replace(
        config,
        objective=jaxencoder.config.Classification(),
        data=replace(config.data, label_field="label"),
        training=replace(config.training, steps=0),
        phases=(Phase(steps=1), Phase(steps=1, train=(str(tmp_path / "one.jsonl"),))),
    )
    with pytest.raises(ValueError, match="the phases have the classes .*no.*yes.* and .*no.*perhaps.*data.labels"):
        set_up(config, tmp_path / "run")
