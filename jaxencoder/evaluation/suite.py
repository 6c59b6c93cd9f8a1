"""Suites of runs: each is trained and evaluated in its own folder, and finished runs are never repeated.

All results are in the suite's results.json. An interrupted run continues and gives the results of an uninterrupted
one, so the same command continues a suite that was killed.
"""

import contextlib
import functools
import hashlib
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import filelock
import jax
from jax.experimental.compilation_cache import compilation_cache

from jaxencoder.config import RunConfig
from jaxencoder.config_io import CONFIG_FILE, from_json, read, to_json
from jaxencoder.evaluation.evaluate import RESULTS_FILE, evaluate, kept_step
from jaxencoder.files import read_json, write_atomic, write_json
from jaxencoder.text.sources import fingerprint
from jaxencoder.training.loop import train
from jaxencoder.training.memory import computes_on_cpu, keep_freed_memory
from jaxencoder.training.telemetry import METRICS_FILE, Diverged

LOG_FILE = "log.txt"
Outcome = dict[str, Any]
Summarize = Callable[[dict[str, Outcome]], tuple[dict[str, Any], str]]


@dataclass(frozen=True)
class Run:
    """One run of a suite."""

    name: str  # of its folder within the suite's
    config: RunConfig
    data: Mapping[str, str] = field(default_factory=dict)  # sources besides the validation data, by name of the result


def identities(runs: Sequence[Run]) -> dict[str, str]:
    """Digests, by name, of all that decides a run's results: its settings, and the `fingerprint` of its sources.

    The content of local files counts, up to a GiB per source, so that copying or touching them changes nothing. For
    larger and remote files the size and modification time or the ETag count; for a missing source only its name.
    """

    @functools.cache
    def content_of(source: str) -> str:
        try:
            return fingerprint(source, content=True)
        except (ValueError, OSError):
            return ""  # the run itself reports the error

    def digest(run: Run) -> str:
        phases = [phase.data for phase in run.config.phase_configs]
        sources = [*(source for data in phases for source in (*data.train, *data.validation)), *run.data.values()]
        parts = [to_json(run.config), *run.data.items(), *map(content_of, sources)]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]

    return {run.name: digest(run) for run in runs}


def run_suite(runs: Sequence[Run], folder: Path, summarize: Summarize, jobs: int = 1) -> dict[str, Outcome]:
    """Train and evaluate runs, and keep the suite's results and report up to date.

    Args:
        runs: with distinct names.
        folder: of the suite, with a folder NAME per run, results.json and report.md.
        summarize: maps the outcomes so far, by name, to the entries of results.json besides "runs", and the report.
        jobs: runs at a time; with more than one, each is a process on its share of the cores and logs to NAME/log.txt.

    Returns:
        Outcomes by name, in the order of `runs`: "results" ({"validation": metrics, ...}), "steps",
        "tokens_per_second" and "seconds" of training without compilation and evaluation; or the reason as "diverged" or
        "failed". The next call repeats failed runs, but not diverged ones.

    Raises:
        ValueError: jobs exceed the cores, or 1 on an accelerator; several hosts are configured; another suite is
            running in the folder, or its results have another identity, see `identities`; or every run has failed.
    """
    cores = _usable_cores(jobs)
    folder.mkdir(parents=True, exist_ok=True)
    with _exclusive(folder), _shared_compilation_cache():
        results = _SuiteResults(runs, folder, summarize)
        pending = [run for run in runs if run.name not in results.finished]
        if jobs > 1:
            shares = [cores[i * len(cores) // jobs : (i + 1) * len(cores) // jobs] for i in range(jobs)]
            _run_in_processes(pending, folder, shares, results.add)
        else:
            for run in pending:
                results.add(run, _train_and_evaluate(run, folder / run.name))
                jax.clear_caches()  # programs that later runs share are on disk
    outcomes = results.ordered
    if runs and all("failed" in outcome for outcome in outcomes.values()):
        raise ValueError(f"every run has failed; {runs[0].name}: {outcomes[runs[0].name]['failed']}")
    return outcomes


def _usable_cores(jobs: int) -> list[int]:
    """Cores of this process; ValueError if they do not allow this number of jobs."""
    if os.environ.get("JAXENCODER_DISTRIBUTED") or jax.distributed.is_initialized():
        raise ValueError("a suite is for one host; unset JAXENCODER_DISTRIBUTED, and train large runs one by one")
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if not 1 <= jobs <= max(len(cores), 1):
        raise ValueError(f"jobs is {jobs}; give at least 1 and at most {max(len(cores), 1)}, the number of cores")
    if jobs > 1 and not computes_on_cpu():
        raise ValueError(f"jobs is {jobs}, but an accelerator does one run at a time; set it to 1")
    return cores


class _SuiteResults:
    """Outcomes of a suite, in results.json and report.md."""

    def __init__(self, runs: Sequence[Run], folder: Path, summarize: Summarize):
        self.runs, self.folder, self.summarize = runs, folder, summarize
        path = folder / RESULTS_FILE
        self.previous = _read_outcomes(path)  # some may be of other runs
        self.identity = identities(runs)
        self.finished: dict[str, Outcome] = {}  # of `runs`, without those that have failed before
        for run in runs:
            outcome = self.previous.get(run.name, {})
            if outcome.get("identity") == self.identity[run.name]:
                if "failed" not in outcome:
                    self.finished[run.name] = outcome
            elif "results" in outcome:
                raise ValueError(f"{path} has results of {run.name} with other settings or data; name another folder")
        if self.finished:
            print(f"Finished before: {', '.join(self.finished)}", flush=True)
        self.write()

    @property
    def ordered(self) -> dict[str, Outcome]:
        """The outcomes so far, in the order of the runs."""
        return {run.name: self.finished[run.name] for run in self.runs if run.name in self.finished}

    def add(self, run: Run, outcome: Outcome) -> None:
        self.finished[run.name] = {"identity": self.identity[run.name]} | outcome
        self.write()
        print(f"{run.name} ({len(self.finished)} of {len(self.runs)}): {_format_outcome(outcome)}", flush=True)

    def write(self) -> None:
        summary, report = self.summarize(self.ordered)
        write_json(self.folder / RESULTS_FILE, summary | {"runs": self.previous | self.ordered})
        write_atomic(self.folder / "report.md", report + "\n")


def _read_outcomes(path: Path) -> dict[str, Outcome]:
    try:
        return dict(read_json(path, dict)["runs"]) if path.exists() else {}
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path} holds no results of a suite; name another folder, or delete it") from None


def format_failures(outcomes: Mapping[str, Outcome]) -> list[str]:
    """A line for each run without results."""
    statuses = ("diverged", "failed")
    return [f"{name} has {x}: {outcome[x]}" for name, outcome in outcomes.items() for x in statuses if x in outcome]


def _format_outcome(outcome: Outcome) -> str:
    if "results" not in outcome:
        return next(f"{status}: {reason}" for status, reason in outcome.items())
    return "; ".join(
        f"{name} " + ", ".join(f"{metric} {value:.4g}" for metric, value in metrics.items())
        for name, metrics in outcome["results"].items()
    )


def _exclusive(folder: Path) -> contextlib.AbstractContextManager:
    """Keeps other suites out of the folder."""
    try:
        return filelock.FileLock(folder / ".lock").acquire(timeout=0)
    except filelock.Timeout:
        raise ValueError(f"another suite is running in {folder}; wait for it, or name another folder") from None


def _compilation_cache_folder() -> str:
    """The folder in which jax keeps compiled programs; empty for none."""
    return jax.config.jax_compilation_cache_dir or ""  # pyright: ignore[reportAttributeAccessIssue]  # set at run time


@contextlib.contextmanager
def _shared_compilation_cache() -> Iterator[None]:
    """Keeps compiled programs on disk during the suite, unless jax already does: all seeds need the same ones."""
    if _compilation_cache_folder():
        yield
        return
    with tempfile.TemporaryDirectory(prefix="jaxencoder-programs-") as folder:
        try:
            jax.config.update("jax_compilation_cache_dir", folder)
            compilation_cache.reset_cache()  # jax reads the setting only once otherwise
            yield
        finally:
            jax.config.update("jax_compilation_cache_dir", None)
            compilation_cache.reset_cache()


def _train_and_evaluate(run: Run, folder: Path) -> Outcome:
    """Train one run, or continue it, and evaluate it."""
    folder.mkdir(parents=True, exist_ok=True)
    step = kept_step(run.config)
    try:
        with filelock.FileLock(folder / ".lock"):  # a suite that was killed may leave a process that still saves
            train(run.config, folder)
            results = {"validation": evaluate(folder, step=step)}
            results |= {name: evaluate(folder, data=source, step=step) for name, source in run.data.items()}
    except Diverged as error:
        return {"diverged": str(error)}
    except (ValueError, OSError) as error:
        return {"failed": " ".join(str(error).split()) or type(error).__name__}
    except jax.errors.JaxRuntimeError as error:  # such as out of memory, where the other lines list allocations
        return {"failed": str(error).partition("\n")[0]}
    for name, result in results.items():
        results[name] = {metric: value for metric, value in result.items() if isinstance(value, int | float)}
    return {"results": results} | _training_speed(folder)


def _training_speed(folder: Path) -> dict[str, float]:
    """Steps, tokens per second and seconds of training, without the interruptions of a run."""
    phases = read(folder / CONFIG_FILE).phase_configs
    step, tokens, rates = 0, 0.0, []
    for record in map(json.loads, (folder / METRICS_FILE).read_text(encoding="utf-8").split("\n")[:-1]):
        if "padding" in record:
            phase = phases[record["phase"]]
            positions = phase.training.batch_size * phase.data.row_length
            tokens += (record["step"] - step) * positions * (1 - record["padding"])
            step = record["step"]
        rates += [record["tokens_per_second"]] if "tokens_per_second" in record else []
    rate = statistics.median(rates) if rates else math.nan
    speed = {"tokens_per_second": rate, "seconds": tokens / rate} if rates else {}
    return {"steps": step} | speed


# Several runs at a time. A pool of processes (concurrent.futures, loky) would end all runs when one is killed, and has
# no way to let the others save; so each run has its own process, which its standard input controls.


def _run_in_processes(
    runs: Sequence[Run], folder: Path, shares: Sequence[Sequence[int]], add: Callable[[Run, Outcome], None]
) -> None:
    """Run each in its own process, at most one per share of the cores at a time."""
    pending, free = list(runs), list(shares)
    running: dict[subprocess.Popen, tuple[Run, Sequence[int], IO[str]]] = {}
    try:
        while pending or running:
            while pending and free:
                run, cores = pending.pop(0), free.pop(0)
                # Not a pipe, which would fill up while nobody reads it.
                outcome = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115 - closed with the process
                child = _start(folder / run.name, outcome)
                running[child] = run, cores, outcome
                _request(child, run, folder / run.name, cores)
            time.sleep(0.05)
            for child in [child for child in running if child.poll() is not None]:
                run, cores, outcome = running.pop(child)
                free.append(cores)
                add(run, _answer(child, outcome, folder / run.name))
    finally:
        for child in running:
            _close_input(child)
        for child, (_, _, outcome) in running.items():
            child.wait()
            outcome.close()


def _start(folder: Path, outcome: IO[str]) -> subprocess.Popen:
    """A process that waits for the request of a run, and writes the outcome into a file."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOG_FILE).open("a", encoding="utf-8") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "jaxencoder.evaluation.suite"],
            stdin=subprocess.PIPE,
            stdout=outcome,
            stderr=log,
            env=os.environ | {"JAX_COMPILATION_CACHE_DIR": _compilation_cache_folder()},
            text=True,
            start_new_session=True,  # Ctrl-C must not kill it before it has saved
        )


def _request(child: subprocess.Popen, run: Run, folder: Path, cores: Sequence[int]) -> None:
    request = {"name": run.name, "config": to_json(run.config), "data": dict(run.data)}
    request |= {"folder": str(folder), "cores": list(cores)}
    assert child.stdin  # a pipe
    with contextlib.suppress(BrokenPipeError):  # it has died, which `_answer` reports
        child.stdin.write(json.dumps(request) + "\n")
        child.stdin.flush()
    print(f"{run.name} begins, see {folder / LOG_FILE}", flush=True)


def _close_input(child: subprocess.Popen) -> None:
    """Let a process save and exit, see `_exit_with_parent`."""
    with contextlib.suppress(BrokenPipeError):
        assert child.stdin
        child.stdin.close()


def _answer(child: subprocess.Popen, outcome: IO[str], folder: Path) -> Outcome:
    """The outcome of a process that has ended."""
    _close_input(child)
    with outcome:
        outcome.seek(0)
        if answer := outcome.read():
            return json.loads(answer)
    return {"failed": f"its process ended with exit code {child.returncode}; see {folder / LOG_FILE}"}


def _child_main() -> None:
    """Perform the run that standard input describes; all output but its outcome goes to stderr, the log."""
    request = json.loads(sys.stdin.readline())
    answer = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    if request["cores"]:
        os.sched_setaffinity(0, request["cores"])  # before jax counts them
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    keep_freed_memory()
    run = Run(request["name"], from_json(request["config"]), request["data"])
    outcome = _train_and_evaluate(run, Path(request["folder"]))
    with answer:
        json.dump(outcome, answer)


def _exit_with_parent() -> None:
    """Save and exit, as after any SIGTERM, when the input ends: the parent has closed it or has died."""
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    _child_main()
