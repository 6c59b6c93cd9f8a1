"""Sweeps: train and evaluate a grid of settings with several seeds, and rank the settings.

Small data sets need several seeds, because results vary much between them: Dodge et al. 2020, arXiv:2002.06305.
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
from jaxencoder.evaluation.suite import Outcome, Run, format_failures, run_suite
from jaxencoder.evaluation.tables import format_mean, markdown_table, mean_and_sd

# Metrics to rank settings by if training.best_metric is not among the results, and whether more or less is better.
_COMMON_METRICS = {"accuracy": "max", "f1": "max", "micro_f1": "max", "exact": "max", "loss": "min"}


def run_sweep(
    config: RunConfig, folder: str | Path, seeds: Sequence[int] = (), vary: Sequence[str] = (), jobs: int = 1
) -> str:
    """Train and evaluate every combination of settings with every seed.

    Args:
        config: settings that all runs share.
        folder: has the runs SETTING/seed_N/ and the suite's results.json and report.md.
        seeds: values of training.seed; empty: the one in `config`.
        vary: "NAME=VALUE,VALUE": a dotted setting and its values; a value of several words is quoted.
        jobs: as for `run_suite`.

    Returns:
        The report: a table of means and standard deviations over the seeds, the best setting by the runs'
        training.best_metric, and the runs that have failed.

    Raises:
        ValueError: a setting is unknown, malformed or contradicts another, or every run has failed.
    """
    folder, settings = Path(folder), grid(config, vary)
    seeds = tuple(dict.fromkeys(seeds)) or (config.training.seed,)
    groups = {name: [f"{name}/seed_{seed}" if vary else f"seed_{seed}" for seed in seeds] for name in settings}
    runs = [
        Run(path, dataclasses.replace(setting, training=dataclasses.replace(setting.training, seed=seed)))
        for name, setting in settings.items()
        for seed, path in zip(seeds, groups[name], strict=True)
    ]

    def summarize(outcomes: dict[str, Outcome]) -> tuple[dict[str, Any], str]:
        # The data has set what the best metric of a finished run may depend on: classes.
        finished = (folder / name for name, outcome in outcomes.items() if "results" in outcome)
        completed = next((saved_config(run) for run in finished if (run / CONFIG_FILE).is_file()), config)
        summary = summarize_settings(outcomes, groups, completed)
        return summary, format_report(summary, outcomes, len(seeds))

    return summarize(run_suite(runs, folder, summarize, jobs))[1]


def grid(config: RunConfig, vary: Sequence[str]) -> dict[str, RunConfig]:
    """All combinations of settings by name, such as "learning_rate=1e-4,rank=8"; the last setting varies fastest."""
    axes: dict[str, list[str]] = {}
    for text in vary:
        name, _, values = text.partition("=")
        name = name.lstrip("-").replace("-", "_")
        values = [value.strip() for value in values.split(",")]
        if not name or not all(values):
            raise ValueError(f"{text!r} is not NAME=VALUE,VALUE, such as optimizer.learning_rate=1e-4,3e-4")
        if name == "training.seed":
            raise ValueError(f"{text!r} varies the seed; give seeds as such, so that their results are averaged")
        if name in axes or len(set(values)) < len(values):
            raise ValueError(f"{text!r} repeats a setting or a value; name each once")
        axes[name] = values
    last_parts = [name.rpartition(".")[2] for name in axes]
    short = [end if last_parts.count(end) == 1 else name for name, end in zip(axes, last_parts, strict=True)]
    settings: dict[str, RunConfig] = {}
    for values in itertools.product(*axes.values()):
        options = [x for name, value in zip(axes, values, strict=True) for x in (f"--{name}", *shlex.split(value))]
        # A folder has this name: runs/small becomes runs_small.
        plain = [re.sub(r"[^\w.+-]+", "_", value) for value in values]
        name = ",".join(f"{name}={value}" for name, value in zip(short, plain, strict=True)) or "all"
        if name in settings:
            raise ValueError(f"two settings have the same name {name}; write one of their values in another way")
        settings[name] = override(config, options, "jaxencoder sweep")
    return settings


def summarize_settings(outcomes: dict[str, Outcome], groups: dict[str, list[str]], config: RunConfig) -> dict[str, Any]:
    """Means over seeds and the best setting, as in results.json, from outcomes and names of the runs of each setting.

    The config's training.best_metric ranks the settings, or a common metric if the results lack it.
    """
    settings = {}
    for name, runs in groups.items():
        results = [outcomes[run]["results"]["validation"] for run in runs if "results" in outcomes.get(run, {})]
        if results:
            settings[name] = {metric: mean_and_sd([x[metric] for x in results]) for metric in results[0]}
    best_metric, best_mode = config.best
    modes = {best_metric: best_mode} | {x: mode for x, mode in _COMMON_METRICS.items() if x != best_metric}
    metric = next((name for name in modes if all(name in metrics for metrics in settings.values())), None)
    if metric is None:
        return {"best": None, "by": None, "settings": settings}
    sign = 1 if modes[metric] == "max" else -1

    def rank(name: str) -> tuple[int, float]:
        """A setting with fewer results, because runs have diverged, comes after all others."""
        result = settings[name][metric]
        return result["runs"], sign * result["mean"] if math.isfinite(result["mean"]) else -math.inf

    return {"best": max(settings, key=rank, default=None), "by": metric, "settings": settings}


def format_report(summary: dict[str, Any], outcomes: dict[str, Outcome], seeds: int) -> str:
    """The table of settings, the best one and the failures, as Markdown."""
    settings, lines = summary["settings"], []
    if settings:
        metrics = [name for name in next(iter(settings.values())) if name != "examples"]
        counts = [results[metrics[0]]["runs"] for results in settings.values()]
        shows_runs = min(counts) < seeds
        rows = [
            [name, *([str(count)] if shows_runs else []), *(format_mean(results.get(x)) for x in metrics)]
            for (name, results), count in zip(settings.items(), counts, strict=True)
        ]
        lines.append(markdown_table(["setting", *(["runs"] if shows_runs else []), *metrics], rows))
    if summary["best"] is not None:
        best = settings[summary["best"]][summary["by"]]
        among = f", of {len(settings)} settings" if len(settings) > 1 else ""
        over = f"mean over {best['runs']} seeds" if best["runs"] > 1 else "one seed"
        lines.append(f"Best: {summary['best']}, {summary['by']} {format_mean(best)} ({over}{among})")
    return "\n\n".join((lines + format_failures(outcomes)) or ["No run has ended yet."])
