"""Many runs in one command: each trained and measured in a folder of its own, those that are finished never again.

What is known lies in the suite's results.json, whole at any moment. A run that was interrupted is continued, and gives
what an uninterrupted one gives; so a suite that was killed goes on with the same command.
"""

import contextlib
import functools
import hashlib
import json
import math
import os
import queue
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import filelock
import jax
from jax.experimental.compilation_cache import compilation_cache

from jaxencoder.config import RunConfig
from jaxencoder.config_io import CONFIG_FILE, from_json, read, to_json
from jaxencoder.evaluation.evaluate import evaluate, kept_step
from jaxencoder.evaluation.results import RESULTS_FILE
from jaxencoder.files import write_atomic
from jaxencoder.text.sources import fingerprint
from jaxencoder.training.loop import train
from jaxencoder.training.memory import computes_on_cpu, keep_freed_memory
from jaxencoder.training.telemetry import METRICS_FILE, Diverged

REPORT_FILE = "report.md"
LOG_FILE = "log.txt"

Outcome = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """One of the runs of a suite.

    Attributes:
        name: of its folder within that of the suite.
        config: what is trained.
        data: sources to measure besides what the run holds out, by the names of their results.
    """

    name: str
    config: RunConfig
    data: Mapping[str, str] = field(default_factory=dict)

    @property
    def sources(self) -> list[str]:
        """Of all phases those to train and to validate on, and those to measure."""
        data = [part.data for part in self.config.phase_configs]
        return [*(source for one in data for source in (*one.train, *one.validation)), *self.data.values()]


def identities(runs: Sequence[Run]) -> dict[str, str]:
    """By name a digest of what decides the outcome of each run: its settings, and the `fingerprint` of its sources.

    Of local files, up to a GiB a source, what they hold counts: to copy or touch them changes nothing. Of larger and
    remote ones the size and time of change count, or the ETag; of a source that is missing its name alone.
    """

    @functools.cache
    def held(source: str) -> str:
        try:
            return fingerprint(source, content=True)
        except (ValueError, OSError):
            return ""  # the run itself will say what is wrong

    found = {}
    for run in runs:
        parts = [to_json(run.config), *run.data.items(), *map(held, run.sources)]
        found[run.name] = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
    return found


def perform(
    runs: Sequence[Run],
    folder: Path,
    summarize: Callable[[dict[str, Outcome]], tuple[dict[str, Any], str]],
    jobs: int = 1,
) -> dict[str, Outcome]:
    """Train and measure runs, and keep the suite's results and report up to date.

    Args:
        runs: each with a name of its own.
        folder: of the suite; NAME/ are the runs, results.json and report.md what came of them.
        summarize: from the outcomes so far, by name, to what results.json has besides "runs", and the report.
        jobs: runs at a time; more than one are processes, each on its share of the cores, with NAME/log.txt.

    Returns:
        By name, in the order of `runs`: "results" ({"validation": metrics, ...}), "steps", "tokens_per_second" and
        "seconds" of training without compiling and measuring; or "diverged" or "failed", why there are none. What has
        failed, unlike what has diverged, is tried again by the next call.

    Raises:
        ValueError: jobs are more than cores, or not for this machine; several hosts would do the runs; another suite
            is at work in the folder, or its results are of other settings or data, see `identities`; or each of the
            runs has failed.
        OSError: the folder cannot be written.
    """
    if os.environ.get("JAXENCODER_DISTRIBUTED") or jax.distributed.is_initialized():
        raise ValueError("a suite is for one host; unset JAXENCODER_DISTRIBUTED, and train large runs one by one")
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if not 1 <= jobs <= max(len(cores), 1):
        raise ValueError(f"jobs is {jobs}; give at least 1 and at most {max(len(cores), 1)}, the number of cores")
    if jobs > 1 and not computes_on_cpu():
        raise ValueError(f"jobs is {jobs}, but an accelerator does one run at a time; set it to 1")
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        return _perform(runs, folder, summarize, cores, jobs)


def _perform(
    runs: Sequence[Run],
    folder: Path,
    summarize: Callable[[dict[str, Outcome]], tuple[dict[str, Any], str]],
    cores: Sequence[int],
    jobs: int,
) -> dict[str, Outcome]:
    path = folder / RESULTS_FILE
    known, identity = _known(path), identities(runs)
    for run in runs:
        if "results" in (there := known.get(run.name, {})) and there.get("identity") != identity[run.name]:
            raise ValueError(
                f"{path} has results of {run.name} with other settings or data; name another folder for these"
            )
    ended = {
        run.name: known[run.name]
        for run in runs
        if known.get(run.name, {}).get("identity") == identity[run.name] and "failed" not in known[run.name]
    }

    def write() -> None:
        ordered = {run.name: ended[run.name] for run in runs if run.name in ended}
        summary, report = summarize(ordered)
        write_atomic(path, json.dumps(summary | {"runs": known | ordered}, indent=2, ensure_ascii=False) + "\n")
        write_atomic(folder / REPORT_FILE, report + "\n")

    def end(run: Run, outcome: Outcome) -> None:
        ended[run.name] = {"identity": identity[run.name]} | outcome
        write()
        print(f"{run.name} ({len(ended)} of {len(runs)}): {_said(outcome)}", flush=True)

    if ended:
        print(f"Finished before: {', '.join(run.name for run in runs if run.name in ended)}", flush=True)
    write()
    waiting = [run for run in runs if run.name not in ended]
    with _shared_programs():
        if jobs > 1:
            shares = [cores[i * len(cores) // jobs : (i + 1) * len(cores) // jobs] for i in range(jobs)]
            _side_by_side(waiting, folder, shares, end)
        else:
            for run in waiting:
                end(run, _outcome(run, folder / run.name))
                jax.clear_caches()  # what the next can use is on disk
    if runs and all("failed" in outcome for outcome in ended.values()):
        raise ValueError(f"every run has failed; {runs[0].name}: {ended[runs[0].name]['failed']}")
    return {run.name: ended[run.name] for run in runs}


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keeps other suites out of the folder."""
    lock = filelock.FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise ValueError(f"another suite is at work in {folder}; wait for it, or name another folder") from None
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def _shared_programs() -> Iterator[None]:
    """Keeps what is compiled on disk for a while, where jax does not already: other seeds need the same programs."""
    if jax.config.jax_compilation_cache_dir:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="jaxencoder-programs-") as folder:
        try:
            jax.config.update("jax_compilation_cache_dir", folder)
            compilation_cache.reset_cache()  # it would not look at the setting a second time
            yield
        finally:
            jax.config.update("jax_compilation_cache_dir", None)
            compilation_cache.reset_cache()


def _known(path: Path) -> dict[str, Outcome]:
    """The outcomes that an earlier call has written."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))["runs"]) if path.exists() else {}
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path} holds no results of a suite; name another folder, or delete it") from None


def _said(outcome: Outcome) -> str:
    if "results" not in outcome:
        return next(f"{how}: {why}" for how, why in outcome.items())
    return "; ".join(
        f"{name} " + ", ".join(f"{metric} {value:.4g}" for metric, value in metrics.items())
        for name, metrics in outcome["results"].items()
    )


def _outcome(run: Run, folder: Path) -> Outcome:
    """Train and measure one run, from wherever it stands."""
    folder.mkdir(parents=True, exist_ok=True)
    step = kept_step(run.config)
    try:
        with filelock.FileLock(folder / ".lock"):  # a suite that was killed may leave a process that still saves
            train(run.config, folder)
            results = {"validation": evaluate(folder, step=step)}
            for name, source in run.data.items():
                results[name] = evaluate(folder, data=source, step=step)
    except Diverged as error:
        return {"diverged": str(error)}
    except (ValueError, OSError) as error:
        return {"failed": " ".join(str(error).split()) or type(error).__name__}
    except jax.errors.JaxRuntimeError as error:  # such as too little memory, of which the other lines tell in detail
        return {"failed": str(error).partition("\n")[0]}
    numbers = {
        name: {metric: value for metric, value in found.items() if isinstance(value, int | float)}
        for name, found in results.items()
    }
    return {"results": numbers} | _speed(folder)


def _speed(folder: Path) -> dict[str, float]:
    """Steps of a run, its tokens a second, and seconds of training, whatever interruptions it has had."""
    config = read(folder / CONFIG_FILE)
    parts = config.phase_configs
    step, tokens, rates = 0, 0.0, []
    for record in map(json.loads, (folder / METRICS_FILE).read_text(encoding="utf-8").split("\n")[:-1]):
        if "padding" in record:
            part = parts[record["phase"]]
            places = part.training.batch_size * part.data.row_length
            tokens += (record["step"] - step) * places * (1 - record["padding"])
            step = record["step"]
        rates += [record["tokens_per_second"]] if "tokens_per_second" in record else []
    rate = statistics.median(rates) if rates else math.nan
    speed = {"tokens_per_second": rate, "seconds": tokens / rate} if rates else {}
    return {"steps": step} | speed


# Several at a time


def _side_by_side(
    runs: Sequence[Run], folder: Path, shares: Sequence[Sequence[int]], end: Callable[[Run, Outcome], None]
) -> None:
    """Each run in a process of its own, as many at a time as there are shares of the cores."""
    free: queue.Queue = queue.Queue()
    for share in shares:
        free.put(share)
    children: set[subprocess.Popen] = set()

    def one(run: Run) -> Outcome:
        cores = free.get()
        try:
            return _in_process(run, folder / run.name, cores, children)
        finally:
            free.put(cores)

    executor = ThreadPoolExecutor(len(shares), "suite")
    futures = {executor.submit(one, run): run for run in runs}
    try:
        for future in as_completed(futures):
            end(futures[future], future.result())
    finally:
        for future in futures:
            future.cancel()
        for child in list(children):
            child.stdin.close()  # it saves, and leaves
        executor.shutdown()


def _in_process(run: Run, folder: Path, cores: Sequence[int], children: set[subprocess.Popen]) -> Outcome:
    folder.mkdir(parents=True, exist_ok=True)
    request = {"name": run.name, "config": to_json(run.config), "data": dict(run.data)}
    request |= {"folder": str(folder), "cores": list(cores)}
    with (folder / LOG_FILE).open("a", encoding="utf-8") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "jaxencoder.evaluation.suite"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=os.environ | {"JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir},
            text=True,
            start_new_session=True,  # Ctrl-C is told to it through its input
        )
    children.add(child)
    try:
        print(f"{run.name} begins, see {folder / LOG_FILE}", flush=True)
        child.stdin.write(json.dumps(request) + "\n")
        child.stdin.flush()
        answer = child.stdout.read()
        code = child.wait()
    finally:
        children.discard(child)
        child.stdout.close()
        child.stdin.close()
    if answer:
        return json.loads(answer)
    return {"failed": f"its process ended with exit code {code}; see {folder / LOG_FILE}"}


def _child() -> None:
    """Performs the run that is asked for on the standard input; what is printed goes to stderr, the log."""
    request = json.loads(sys.stdin.readline())
    answer = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    if request["cores"]:
        os.sched_setaffinity(0, request["cores"])  # before jax counts them
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    keep_freed_memory()
    run = Run(request["name"], from_json(request["config"]), request["data"])
    outcome = _outcome(run, Path(request["folder"]))
    with answer:
        json.dump(outcome, answer)


def _leave_with_parent() -> None:
    """The end of the input is that of the parent, however it came: save and leave, as at any SIGTERM."""
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGTERM)


# What the runs of one setting come to


def spread(outcomes: Iterable[Outcome], name: str = "validation") -> dict[str, dict[str, float]]:
    """Of each metric what `mean_and_sd` says of the runs that have results.

    Returns:
        {"accuracy": {"mean": 0.8, "sd": 0.01, "runs": 3}, ...}; empty if none has results.
    """
    found = [outcome["results"][name] for outcome in outcomes if name in outcome.get("results", {})]
    return {metric: mean_and_sd([metrics[metric] for metrics in found]) for metric in (found[0] if found else {})}


def mean_and_sd(values: Sequence[float]) -> dict[str, float]:
    """The mean, the standard deviation of a sample, and the number of values.

    The deviation is None of one value, and where one is not finite.
    """
    if not all(map(math.isfinite, values)):
        return {"mean": sum(values) / len(values), "sd": None, "runs": len(values)}
    sd = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "sd": sd, "runs": len(values)}


def told(part: Mapping[str, float] | None, scale: float = 1.0, digits: int = 4) -> str:
    """A mean with its deviation: "0.8312 ± 0.0041"."""
    if part is None:
        return ""
    sd = "" if part["sd"] is None else f" ± {scale * part['sd']:.{digits}f}"
    return f"{scale * part['mean']:.{digits}f}{sd}"


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of Markdown that reads well as it is: first column to the left, numbers to the right."""
    cells = [list(header), *map(list, rows)]
    widths = [max(3, *map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        [row[0].ljust(widths[0]), *(x.rjust(n) for x, n in zip(row[1:], widths[1:], strict=True))] for row in cells
    ]
    lines.insert(1, ["-" * widths[0], *("-" * (n - 1) + ":" for n in widths[1:])])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    _child()
