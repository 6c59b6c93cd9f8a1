"""Telemetry of a run: metrics.jsonl, TensorBoard, a progress bar, profiler traces.

Metrics are fetched one step late, while the next step runs, so that logging does not slow the run down.
"""

import json
import math
import os
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from tensorboardX import SummaryWriter
from tqdm import tqdm

from jaxencoder.config import RunConfig
from jaxencoder.files import write_atomic
from jaxencoder.objectives.objective import Metrics
from jaxencoder.training.flops import peak_flops
from jaxencoder.training.layerwise import trainable_mask
from jaxencoder.training.schedules import learning_rate_schedule
from jaxencoder.training.step import means

METRICS_FILE = "metrics.jsonl"
COMPILE_EVENT = "/jax/core/compile/backend_compile_duration"


class Diverged(ValueError):
    """The loss or its gradient became NaN or infinite."""


class MetricsFile:
    """One JSON object per line, in order of steps; numbers that are not finite are null."""

    def __init__(self, path: Path, start: int):
        """Open the file and drop the lines of steps after `start` and any half-written line."""
        content = path.read_bytes() if path.exists() else b""
        kept = b"".join(line for line in content.splitlines(keepends=True) if _step_of(line) <= start)
        if kept != content:
            write_atomic(path, kept)
        self._file = path.open("a", encoding="utf-8")

    def write(self, record: dict[str, Any]) -> None:
        plain = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
        self._file.write(json.dumps(plain) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def _step_of(line: bytes) -> float:
    try:
        return json.loads(line)["step"] if line.endswith(b"\n") else math.inf
    except (ValueError, KeyError, TypeError):
        return math.inf


class CompileCounter:
    """Number of programs that XLA compiles while it is open; if it keeps growing, shapes keep changing."""

    def __init__(self) -> None:
        self.count = 0
        jax.monitoring.register_event_duration_secs_listener(self._listen)

    def _listen(self, event: str, duration_secs: float, **_: Any) -> None:
        self.count += event == COMPILE_EVENT

    def close(self) -> None:
        jax.monitoring.unregister_event_duration_listener(self._listen)


class _Phase(NamedTuple):
    steps: int
    last: int  # step of the run
    rows: int  # per batch
    length: int  # tokens per row
    flops: float  # per token
    work: float  # FLOPs of a step without padding


def _phases(config: RunConfig) -> list[_Phase]:
    phases, last = [], 0
    for phase in config.phase_configs:
        steps, rows, length = phase.training.steps, phase.training.batch_size, phase.data.row_length
        last, flops = last + steps, phase.objective.flops(phase.model, length)
        phases.append(_Phase(steps, last, rows, length, flops, rows * length * flops))
    return phases


class Telemetry:
    """A context around the training loop. Every process calls it; only process 0 writes."""

    def __init__(self, run_dir: str | os.PathLike[str], config: RunConfig, params: Any, start: int = 0):
        """`params` are only counted. `start` is the number of steps done; records of later ones are dropped."""
        self._folder, self._training, self._dtype = Path(run_dir), config.training, config.compute.dtype
        self._writes, self._tracing = jax.process_index() == 0, False
        self._start, self._pending = start, []
        self._clock: float | None = None
        self._reset_counts()
        schedule = learning_rate_schedule(config.optimizer, config.training.steps, config.phase_learning_rates)
        self._learning_rate = jax.jit(schedule)
        self._phases, self._number = _phases(config), 0
        self._parameters = self._trainable = sum(x.size for x in jax.tree.leaves(params))
        if patterns := config.trainable_patterns:
            pairs = zip(jax.tree.leaves(params), jax.tree.leaves(trainable_mask(patterns)(params)), strict=True)
            self._trainable = sum(x.size for x, trainable in pairs if trainable)

    def __enter__(self) -> "Telemetry":
        self._compiles = CompileCounter()
        self._peak = peak_flops(jax.local_devices()[0], self._dtype) * jax.device_count()
        self._file = self._board = None
        if self._writes:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._file = MetricsFile(self._folder / METRICS_FILE, self._start)
            if self._training.tensorboard:
                self._board = SummaryWriter(str(self._folder / "tensorboard"), purge_step=self._start + 1)
        hidden = not (self._writes and sys.stderr.isatty())
        total = self._training.steps
        self._bar = tqdm(total=total, initial=self._start, disable=hidden, unit="step", dynamic_ncols=True)
        trainable = f", {self._trainable:,} of them trainable" if self._trainable < self._parameters else ""
        self.print(f"{self._parameters:,} parameters{trainable}; peak {self._peak:.3g} FLOP/s")
        self._trace_around(self._start)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self.flush()
        finally:
            if self._tracing:
                jax.profiler.stop_trace()
            self._bar.close()
            self._compiles.close()
            for sink in (self._file, self._board):
                if sink is not None:
                    sink.close()

    def print(self, text: str) -> None:
        """Print a line on stderr, above the progress bar if there is one."""
        if self._writes:
            tqdm.write(text, file=sys.stderr)

    def begin_phase(self, number: int) -> None:
        """Begin or continue a phase; the following steps belong to it. Raises Diverged as `flush` does."""
        self.flush()
        self._reset_counts()
        self._number = number
        steps, last, rows, length, flops, _ = self._phases[number]
        size = f"{rows} rows of {length} tokens, {flops:.3g} FLOPs per token"
        self.print(f"Phase {number}, steps {last - steps + 1} to {last}: {size}")

    def step(self, step: int, metrics: Metrics) -> None:
        """Record an update that has been dispatched, the step-th; raises Diverged if an earlier one was not finite.

        In the metrics, (sum, weight) pairs on the device, "filled" counts tokens and positions, and "finite" must be 1.
        """
        if self._pending and self._is_logged(self._pending[-1][0]):
            self._drain()
        self._pending.append((step, metrics))
        self._bar.update(step - self._bar.n)
        if self._clock is None:
            # The first step after a pause may compile or wait for data, so the clock starts when it is done.
            jax.block_until_ready(metrics)
            self._drain()
            self._clock = time.perf_counter()
        self._trace_around(step, metrics)

    def evaluation(self, step: int, result: dict[str, float]) -> None:
        """Write held-out metrics as validation_NAME. Call `flush` before the evaluation, to exclude its time."""
        self._clock = None
        self._drain()
        if result:
            self._write({"step": step} | {f"validation_{name}": value for name, value in result.items()})
            self.print(f"step {step}: held-out " + ", ".join(f"{name} {value:.4g}" for name, value in result.items()))

    def flush(self) -> None:
        """Write all records and stop the clock until the next step; raises Diverged if a step was not finite."""
        self._drain()
        self._clock = None

    def _is_logged(self, step: int) -> bool:
        return step % self._training.log_every == 0 or step == self._training.steps

    def _drain(self) -> None:
        pending, self._pending = self._pending, []
        fetched = jax.device_get([metrics for _, metrics in pending])
        if self._clock is not None:
            now = time.perf_counter()
            self._seconds, self._clock = self._seconds + now - self._clock, now
            self._tokens += sum(float(m["filled"][0]) for m in fetched if "filled" in m)
            self._steps += len(fetched)
        for (step, _), metrics in zip(pending, fetched, strict=True):
            # The batch may have nothing that a metric is of, such as another source's loss.
            values = means({name: x for name, x in metrics.items() if name == "loss" or np.any(x[1])})
            if self._is_logged(step) or values.get("finite", 1.0) < 1:
                self._log(step, values)
            if values.get("finite", 1.0) < 1:
                raise Diverged(
                    f"The loss or its gradient is not finite at step {step} (loss {values.get('loss', math.nan):.4g}); "
                    f"the last good checkpoint is kept: look at {self._folder / METRICS_FILE}, then lower "
                    "optimizer.learning_rate or optimizer.clip_norm, or raise optimizer.warmup_ratio."
                )

    def _log(self, step: int, values: dict[str, float]) -> None:
        record = {"step": step, "phase": self._number}
        record |= {name: value for name, value in values.items() if name not in ("filled", "finite")}
        record["learning_rate"] = float(self._learning_rate(step - 1))
        if "filled" in values:
            record["padding"] = 1.0 - values["filled"]
        if self._seconds and self._steps:
            phase, tokens_per_second = self._phases[self._number], self._tokens / self._seconds
            record["tokens_per_second"] = tokens_per_second
            record["mfu"] = tokens_per_second * phase.flops / self._peak
            work_left = sum(min(p.steps, max(p.last - step, 0)) * p.work for p in self._phases)
            record["seconds_left"] = work_left / phase.work * self._seconds / self._steps
            self._reset_counts()
        record["compiles"] = self._compiles.count
        self._write(record)
        words = _summary(record)
        if self._bar.disable:
            self.print(f"step {step}/{self._training.steps}  {words}")
        else:
            self._bar.set_postfix_str(words)

    def _reset_counts(self) -> None:  # between two records
        self._seconds, self._tokens, self._steps = 0.0, 0.0, 0

    def _write(self, record: dict[str, Any]) -> None:
        if self._file is not None:
            self._file.write(record)
        if self._board is not None:
            for name in record:
                if name != "step":
                    self._board.add_scalar(name, record[name], record["step"])
            self._board.flush()

    def _trace_around(self, step: int, metrics: Metrics | None = None) -> None:
        """Start or stop the profiler between `step` and the next, with nothing else in flight."""
        trace_next = self._writes and step + 1 in self._training.profile_steps
        if trace_next != self._tracing:
            jax.block_until_ready(metrics)
            if trace_next:
                jax.profiler.start_trace(str(self._folder / "profile"))
            else:
                jax.profiler.stop_trace()
            self._tracing = trace_next


def _summary(record: dict[str, Any]) -> str:
    words = [f"loss {record['loss']:.4f}"] if "loss" in record else []
    if "tokens_per_second" in record:
        words += [f"{record['tokens_per_second']:,.0f} tokens/s", f"MFU {record['mfu']:.1%}"]
        minutes, seconds = divmod(round(record["seconds_left"]), 60)
        words.append(f"{minutes // 60}:{minutes % 60:02}:{seconds:02} left")
    return "  ".join(words)
