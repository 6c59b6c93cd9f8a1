"""Means and standard deviations over the runs of one setting, and their part of a suite's report."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def mean_and_sd(values: Sequence[float]) -> dict[str, Any]:
    """The mean, the sample standard deviation and the number of values, as "mean", "sd" and "runs".

    The deviation is None for a single value, or if a value is not finite.
    """
    if not all(map(math.isfinite, values)):
        return {"mean": sum(values) / len(values), "sd": None, "runs": len(values)}
    sd = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "sd": sd, "runs": len(values)}


def aggregate(outcomes: Iterable[Mapping[str, Any]], name: str = "validation") -> dict[str, dict[str, Any]]:
    """The `mean_and_sd` of each metric over the outcomes with results.

    Returns:
        {"accuracy": {"mean": 0.8, "sd": 0.01, "runs": 3}, ...}; empty without results.
    """
    results = [outcome["results"][name] for outcome in outcomes if name in outcome.get("results", {})]
    return {metric: mean_and_sd([x[metric] for x in results]) for metric in (results[0] if results else {})}


def format_mean(mean: Mapping[str, Any] | None, scale: float = 1.0, digits: int = 4) -> str:
    """A mean with its deviation, "0.8312 ± 0.0041"; empty for None."""
    if mean is None:
        return ""
    sd = "" if mean["sd"] is None else f" ± {scale * mean['sd']:.{digits}f}"
    return f"{scale * mean['mean']:.{digits}f}{sd}"


def format_failures(outcomes: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A line for each run without results."""
    return [
        f"{name} has {status}: {outcome[status]}"
        for name, outcome in outcomes.items()
        for status in ("diverged", "failed")
        if status in outcome
    ]
