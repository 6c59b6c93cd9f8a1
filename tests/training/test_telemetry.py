"""Telemetry: exact records in order, truncated to the step that a run resumes from."""

import dataclasses
import json
import math
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxencoder.config import EncoderConfig, Phase, RunConfig, TrainingConfig
from jaxencoder.model.flops import training_flops
from jaxencoder.training.flops import PEAK_TFLOPS, peak_flops
from jaxencoder.training.telemetry import METRICS_FILE, CompileCounter, Diverged, MetricsFile, Telemetry


def run_config(**training: object) -> RunConfig:
    model = EncoderConfig(vocab_size=50, num_layers=2, hidden_size=16, mlp_size=32, num_heads=2)
    settings = {"steps": 20, "log_every": 5, "tensorboard": False} | training
    return dataclasses.replace(RunConfig(), model=model, training=TrainingConfig(**settings))


def metrics(step: int, finite: float = 1.0) -> dict:
    return {
        "loss": (jnp.float32(7.0 / step), jnp.float32(3)),
        "filled": (jnp.float32(90), jnp.float32(100)),
        "finite": (jnp.float32(finite), jnp.float32(1)),
    }


def follow(folder: Path, config: RunConfig, first: int, last: int, finish: bool = True) -> None:
    telemetry = Telemetry(folder, config, {"w": jnp.ones((3, 4))}, start=first - 1)
    telemetry.__enter__()
    for step in range(first, last + 1):
        telemetry.step(step, metrics(step))
        if step % 10 == 0:
            telemetry.flush()
            telemetry.evaluation(step, {"loss": 1.0 / step})
    telemetry.__exit__(None if finish else KeyboardInterrupt)  # as if killed: nothing more is written


def read(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / METRICS_FILE).read_text().splitlines()]


def test_records(tmp_path: Path) -> None:
    follow(tmp_path, run_config(), 1, 20)
    records = read(tmp_path)
    assert [r["step"] for r in records] == [5, 10, 10, 15, 20, 20]
    trained = [r for r in records if "loss" in r]
    for record in trained:
        assert record["loss"] == float(np.float32(7.0 / record["step"])) / 3
        assert record["padding"] == pytest.approx(0.1)
        assert record["tokens_per_second"] > 0 and record["mfu"] > 0
        assert record["learning_rate"] > 0 and record["compiles"] >= 0
        assert "finite" not in record and "filled" not in record
    assert trained[-1]["seconds_left"] == 0 < trained[0]["seconds_left"]
    assert [r["validation_loss"] for r in records if "validation_loss" in r] == [0.1, 0.05]


@pytest.mark.parametrize(("killed", "resumed"), [(13, 10), (17, 10), (12, 7), (19, 0)])
def test_resumed_record_equals_the_uninterrupted(tmp_path: Path, killed: int, resumed: int) -> None:
    config = run_config()
    follow(tmp_path / "straight", config, 1, 20)
    follow(tmp_path / "broken", config, 1, killed, finish=False)
    with (tmp_path / "broken" / METRICS_FILE).open("a") as file:
        file.write('{"step": 1')
    follow(tmp_path / "broken", config, resumed + 1, 20)
    same = ("step", "loss", "validation_loss", "learning_rate", "padding")
    pick = lambda records: [{k: r[k] for k in same if k in r} for r in records]  # noqa: E731
    assert pick(read(tmp_path / "broken")) == pick(read(tmp_path / "straight"))
    assert not list(tmp_path.rglob(".*"))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that Telemetry sees, of devices that do a billion FLOPs a second."""
    seconds = [0.0]
    monkeypatch.setattr("jaxencoder.training.telemetry.time.perf_counter", lambda: seconds[0])
    monkeypatch.setattr("jaxencoder.training.telemetry.peak_flops", lambda *_: 1e9)
    return seconds


def test_speed_counts_only_training(tmp_path: Path, clock: list[float]) -> None:
    with Telemetry(tmp_path, run_config(), {}) as telemetry:
        for step in range(1, 21):
            clock[0] += 100.0 if step == 1 else 2.0  # the first compiles
            telemetry.step(step, metrics(step))
            if step == 12:
                telemetry.flush()
                clock[0] += 1000.0  # an evaluation
                telemetry.evaluation(step, {"loss": 1.0})
    rates = [r["tokens_per_second"] for r in read(tmp_path) if "tokens_per_second" in r]
    # A step's end shows when the next is dispatched, 2 s later; the pauses must not show at all.
    assert len(rates) == 4
    assert all(30 <= rate <= 60 for rate in rates), rates


def test_phases(tmp_path: Path, clock: list[float], capfd: pytest.CaptureFixture) -> None:
    """With rows four times as long steps are slower and tokens cost more; phases are kept apart."""
    phases = (Phase(steps=10, row_length=32), Phase(steps=10, batch_size=16))
    config = dataclasses.replace(run_config(), phases=phases)
    short, long = (part.objective.flops(part.model, part.data.row_length) for part in config.phase_configs)
    assert short < long
    work = [short * 32 * 32, long * 16 * 128]  # of a step
    with Telemetry(tmp_path, config, {}) as telemetry:
        for step in range(1, 21):
            if step in (1, 11):
                telemetry.begin_phase(step // 11)
                clock[0] += 100.0  # compiles
            clock[0] += work[step // 11] / 1e6  # a device that does a million FLOPs a second
            telemetry.step(step, metrics(step))
    records = [r for r in read(tmp_path) if "mfu" in r]
    assert [(r["step"], r["phase"]) for r in records] == [(5, 0), (10, 0), (15, 1), (20, 1)]
    for record in records:
        phase = record["phase"]
        left = [max(10 - record["step"], 0), 20 - max(record["step"], 10)]
        assert record["seconds_left"] == pytest.approx(np.dot(left, work) / 1e6, rel=0.3)
        assert record["mfu"] == pytest.approx(record["tokens_per_second"] * [short, long][phase] / 1e9)
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("Phase")]
    assert [line.split(",", 1)[1].rpartition(",")[0] for line in lines] == [
        " steps 1 to 10: 32 rows of 32 tokens",
        " steps 11 to 20: 16 rows of 128 tokens",
    ]


@pytest.mark.parametrize("bad", [1, 5, 8])
def test_diverged(tmp_path: Path, bad: int) -> None:
    with pytest.raises(Diverged, match=f"not finite at step {bad} ") as error:
        with Telemetry(tmp_path, run_config(), {}) as telemetry:
            for step in range(1, 10):
                telemetry.step(step, metrics(step) if step != bad else metrics(step, finite=0.0))
            telemetry.flush()
    assert "\n" not in str(error.value) and "checkpoint is kept" in str(error.value)
    assert read(tmp_path)[-1]["step"] == bad


def test_lines(tmp_path: Path) -> None:
    path = tmp_path / METRICS_FILE
    path.write_bytes(b'{"step": 1}\n{"step": 2}\nrubbish\n{"step": 3}\n{"st')
    file = MetricsFile(path, 2)
    file.write({"step": 3, "loss": math.nan, "norm": math.inf})
    assert path.read_bytes() == b'{"step": 1}\n{"step": 2}\n{"step": 3, "loss": null, "norm": null}\n'
    file.close()
    before = path.stat().st_ino
    MetricsFile(path, 3).close()  # nothing to drop: the file is not rewritten
    assert path.stat().st_ino == before


def test_one_line_a_log_interval_when_nobody_watches(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    follow(tmp_path, run_config(), 1, 20)
    out, err = capfd.readouterr()
    assert out == "" and "\r" not in err
    lines = [line for line in err.splitlines() if "/20 " in line]
    assert len(lines) == 4 and all(word in lines[1] for word in ("loss", "tokens/s", "MFU", "left"))


def test_tensorboard(tmp_path: Path) -> None:
    follow(tmp_path, run_config(tensorboard=True), 1, 20)
    (events,) = (tmp_path / "tensorboard").iterdir()
    content = events.read_bytes()
    assert b"validation_loss" in content and b"tokens_per_second" in content


def test_only_the_first_process_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    follow(tmp_path / "run", run_config(tensorboard=True, profile_steps=(2,)), 1, 20)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("steps", [(1,), (3, 4)])
def test_profile(tmp_path: Path, steps: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda folder: calls.append(("start", folder)))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: calls.append(("stop", "")))
    with Telemetry(tmp_path, run_config(profile_steps=steps), {}) as telemetry:
        for step in range(1, 7):
            assert (len(calls) == 1) == (step in steps), step
            telemetry.step(step, metrics(step))
    assert calls == [("start", str(tmp_path / "profile")), ("stop", "")]


def test_compiles_are_counted() -> None:
    counter = CompileCounter()
    double = jax.jit(lambda x: 2 * x + 1)
    ones = [np.ones(n, np.float32) for n in (3, 4)]
    double(ones[0])
    first = counter.count
    double(ones[0])
    assert counter.count == first >= 1
    double(ones[1])
    assert counter.count > first
    counter.close()
    after = counter.count
    jax.jit(lambda x: 3 * x)(ones[0])
    assert counter.count == after


TFLOPS = {
    "TPU v4": 275, "TPU v5 lite": 197, "TPU v5e": 197, "TPU v5p": 459, "TPU v5": 459, "TPU v6 lite": 918,
    "NVIDIA H100 80GB HBM3": 989.4, "NVIDIA H100 PCIe": 756, "NVIDIA H200": 989.4, "NVIDIA B200": 2250,
    "NVIDIA A100-SXM4-40GB": 312, "NVIDIA A10G": 70, "NVIDIA L4": 121, "NVIDIA L40S": 362, "Tesla T4": 65,
    "Tesla V100-SXM2-16GB": 125, "NVIDIA GeForce RTX 4090": 165.2,
    "NVIDIA RTX A1000": 1, "NVIDIA T400 4GB": 1,  # measured: names match as words only
}  # fmt: skip


def test_peak_by_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jaxencoder.training.flops._measured", lambda *_: 1e12)
    # No name of the table is hidden by one before it.
    for kind, teraflops in (PEAK_TFLOPS | TFLOPS).items():
        assert peak_flops(SimpleNamespace(device_kind=kind, platform="gpu")) == teraflops * 1e12, kind


def test_peak_is_measured_where_unknown() -> None:
    device = jax.local_devices()[0]
    assert 1e9 < peak_flops(device, "float32") < 1e14
    assert peak_flops(device, "float32") == peak_flops(device, "float32")


def test_flops_of_bert_base() -> None:
    # 84.9M weights in the blocks, 6 FLOPs each, and 12 D for each key of each layer.
    got = training_flops(EncoderConfig(vocab_size=30522), 512)
    assert got == 6 * 84_934_656 + 12 * 12 * 768 * 512
    head = training_flops(EncoderConfig(vocab_size=30522), 512, predicted=0.15)
    assert head - got == pytest.approx(6 * 0.15 * (768**2 + 768 * 30522))


def test_windows_and_gates() -> None:
    def flops(**settings) -> float:
        sizes = dict(vocab_size=100, num_layers=6, hidden_size=64, mlp_size=96, num_heads=4)
        return training_flops(EncoderConfig(**sizes, **settings), 1024)

    every = flops()
    assert every - flops(windows=(0, 64, 64)) == 12 * 64 * 4 * (1024 - 129)
    assert flops(windows=(2000,)) == every
    assert flops(gated_mlp=True) - every == 6 * 6 * 64 * 96
    assert every - flops(num_kv_heads=1) == 6 * 6 * 64 * 2 * 48
    assert flops(embedding_size=32) - every == 6 * 32 * 64
    assert flops(num_layer_groups=1) == every
    assert every - flops(windows=(0, 64, 64), causal=True) == 12 * 64 * 4 * (1024 - 65)
    assert flops(head_dim=32) - every == 6 * 6 * 4 * 64 * 4 * 16 + 12 * 6 * 4 * 16 * 1024


def test_flops_equal_what_xla_counts() -> None:
    layers, d, f, t, heads = 2, 128, 256, 64, 4

    def loss(weights: list, x: jax.Array) -> jax.Array:
        for w in weights:
            q, k, v = (jnp.reshape(x @ w[name], (t, heads, -1)) for name in "qkv")
            mixed = jnp.einsum("nts,snh->tnh", jnp.einsum("tnh,snh->nts", q, k), v).reshape(t, d)
            x = x + mixed @ w["o"]
            x = x + (x @ w["up"]) @ w["down"]
        return x.sum()

    square = {name: jnp.ones((d, d)) for name in "qkvo"}
    weights = [square | {"up": jnp.ones((d, f)), "down": jnp.ones((f, d))} for _ in range(layers)]
    compiled = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(weights, jnp.ones((t, d))).compile()
    config = EncoderConfig(num_layers=layers, hidden_size=d, mlp_size=f, num_heads=heads)
    ours = t * training_flops(config, t)
    assert compiled.cost_analysis()["flops"] == pytest.approx(ours, rel=0.05)
