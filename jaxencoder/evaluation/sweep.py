"""A grid of settings and seeds, each trained and measured, and the table that says which setting is the best.

Small data sets need several seeds, because one says little: Dodge et al. 2020, arXiv:2002.06305.
"""

import dataclasses
import itertools
import math
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxencoder.checkpoints.run import saved_config
from jaxencoder.config import RunConfig
from jaxencoder.config_io import CONFIG_FILE, override
from jaxencoder.evaluation.suite import Outcome, Run, markdown, perform, spread, told

# Metrics that settings are ranked by where that of training is not among the results, and which way.
_USUAL = (("accuracy", "max"), ("f1", "max"), ("micro_f1", "max"), ("exact", "max"), ("loss", "min"))


def sweep(
    config: RunConfig, folder: str | Path, seeds: Sequence[int] = (), vary: Sequence[str] = (), jobs: int = 1
) -> str:
    """Train and measure every combination of settings with every seed.

    Args:
        config: what all of them share.
        folder: SETTING/seed_N/ are the runs; results.json and report.md are kept up to date.
        seeds: of training.seed; none: the one of `config`.
        vary: "NAME=VALUE,VALUE": a dotted setting and its values; one of several words is given in quotes.
        jobs: runs at a time, see `perform`.

    Returns:
        The report: a table with the mean and the standard deviation over the seeds, the best setting by the runs' own
        training.best_metric, and what has failed.

    Raises:
        ValueError: a setting is unknown, malformed or contradicts another, or every run has failed.
        OSError: the folder cannot be written.
    """
    settings = grid(config, vary)
    seeds = tuple(dict.fromkeys(seeds)) or (config.training.seed,)
    runs = {}
    for name, changed in settings.items():
        for seed in seeds:
            training = dataclasses.replace(changed.training, seed=seed)
            path = f"{name}/seed_{seed}" if vary else f"seed_{seed}"
            runs[name, seed] = Run(path, dataclasses.replace(changed, training=training))
    groups = {name: [runs[name, seed].name for seed in seeds] for name in settings}
    report = ""

    def summarize(outcomes: dict[str, Outcome]) -> tuple[dict[str, Any], str]:
        nonlocal report
        summary = summary_of(outcomes, groups, _resolved(config, Path(folder), outcomes))
        report = report_of(summary, outcomes, len(seeds))
        return summary, report

    perform(list(runs.values()), Path(folder), summarize, jobs)
    return report


def _resolved(config: RunConfig, folder: Path, outcomes: dict[str, Outcome]) -> RunConfig:
    """The configuration as the data has completed it, where a run has ended: what is best may depend on the classes."""
    ended = (folder / name for name, outcome in outcomes.items() if "results" in outcome)
    return next((saved_config(run) for run in ended if (run / CONFIG_FILE).is_file()), config)


def grid(config: RunConfig, vary: Sequence[str]) -> dict[str, RunConfig]:
    """The combinations of settings by name, such as "learning_rate=1e-4,rank=8"; the last one varies fastest.

    Raises:
        ValueError: not NAME=VALUE,VALUE, a setting that is named twice, or one that the configuration refuses.
    """
    axes: dict[str, list[str]] = {}
    for words in vary:
        name, _, values = words.partition("=")
        name = name.lstrip("-").replace("-", "_")
        values = [value.strip() for value in values.split(",")]
        if not name or not all(values):
            raise ValueError(f"{words!r} is not NAME=VALUE,VALUE, such as optimizer.learning_rate=1e-4,3e-4")
        if name == "training.seed":
            raise ValueError(f"{words!r} varies the seed; name seeds as such, their results are averaged")
        if name in axes or len(set(values)) < len(values):
            raise ValueError(f"{words!r} names a setting or a value for the second time; name each once")
        axes[name] = values
    ends = [name.rpartition(".")[2] for name in axes]
    short = [end if ends.count(end) == 1 else name for name, end in zip(axes, ends, strict=True)]
    found: dict[str, RunConfig] = {}
    for values in itertools.product(*axes.values()):
        words = [word for name, value in zip(axes, values, strict=True) for word in (f"--{name}", *shlex.split(value))]
        name = ",".join(f"{name}={_plain(value)}" for name, value in zip(short, values, strict=True)) or "all"
        if name in found:
            raise ValueError(f"two settings have the same name {name}; write one of their values in another way")
        found[name] = override(config, words, "jaxencoder sweep")
    return found


def _plain(value: str) -> str:
    """As a part of a folder's name: "runs/small" -> "runs_small"."""
    return re.sub(r"[^\w.+-]+", "_", value)


def summary_of(outcomes: dict[str, Outcome], groups: dict[str, list[str]], config: RunConfig) -> dict[str, Any]:
    """What results.json says of the settings, each a group of runs that differ in their seeds.

    The best one is that by the training.best_metric of `config`, or by a usual metric where results lack that.
    """
    settings = {name: spread(outcomes[run] for run in names if run in outcomes) for name, names in groups.items()}
    settings = {name: found for name, found in settings.items() if found}
    named = config.training.best_metric, config.training.best_mode
    metric, mode = named if named[0] else config.objective.best
    shared = [name for name, _ in ((metric, mode), *_USUAL) if all(name in found for found in settings.values())]
    if not shared:
        return {"best": None, "by": None, "settings": settings}
    if metric != shared[0]:
        metric, mode = shared[0], dict(_USUAL)[shared[0]]
    sign = 1 if mode == "max" else -1

    def rank(name: str) -> tuple[int, float]:
        """One with fewer results, because runs have diverged, comes after all others."""
        mean = settings[name][metric]["mean"]
        return settings[name][metric]["runs"], sign * mean if math.isfinite(mean) else -math.inf

    return {"best": max(settings, key=rank, default=None), "by": metric, "settings": settings}


def report_of(summary: dict[str, Any], outcomes: dict[str, Outcome], seeds: int) -> str:
    """The table, the best setting and what has failed, as Markdown."""
    settings = summary["settings"]
    lines = []
    if settings:
        metrics = [name for name in next(iter(settings.values())) if name != "examples"]
        counted = any(found[metrics[0]]["runs"] < seeds for found in settings.values())
        rows = [
            [name, *([str(found[metrics[0]]["runs"])] if counted else []), *(told(found.get(m)) for m in metrics)]
            for name, found in settings.items()
        ]
        lines.append(markdown(["setting", *(["runs"] if counted else []), *metrics], rows))
    if summary["best"] is not None:
        best = settings[summary["best"]][summary["by"]]
        among = f", of {len(settings)} settings" if len(settings) > 1 else ""
        over = f"mean over {best['runs']} seeds" if best["runs"] > 1 else "one seed"
        lines.append(f"Best: {summary['best']}, {summary['by']} {told(best)} ({over}{among})")
    lines += [
        f"{name} has {how}: {one[how]}"
        for name, one in outcomes.items()
        for how in ("diverged", "failed")
        if how in one
    ]
    return "\n\n".join(lines or ["No run has ended yet."])
