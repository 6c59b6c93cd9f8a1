"""Tables of results, plain text for a terminal and Markdown, and their cells: means over the runs of one setting."""

import math
import re
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def one_line(text: str) -> str:
    """The text with a space in place of line breaks and of characters that move a terminal's cursor."""
    return " ".join(_CONTROL.sub(" ", text).split())


def mean_and_sd(values: Sequence[float]) -> dict[str, Any]:
    """The mean, the sample standard deviation and the number of values, as "mean", "sd" and "runs".

    The deviation is None for a single value, or if a value is not finite.
    """
    is_finite = all(map(math.isfinite, values))
    mean = statistics.fmean(values) if is_finite else sum(values) / len(values)  # fmean raises for inf - inf
    sd = statistics.stdev(values) if is_finite and len(values) > 1 else None
    return {"mean": mean, "sd": sd, "runs": len(values)}


def format_mean(mean: Mapping[str, Any] | None, scale: float = 1.0, digits: int = 4) -> str:
    """A mean with its deviation, "0.8312 ± 0.0041"; empty for None."""
    if mean is None:
        return ""
    sd = "" if mean["sd"] is None else f" ± {scale * mean['sd']:.{digits}f}"
    return f"{scale * mean['mean']:.{digits}f}{sd}"


def text_table(rows: Iterable[Sequence[str]], justify: Callable[[str, int], str] = str.rjust) -> str:
    """Lines of aligned columns; `justify` applies to all but the first, which is flush left."""
    return "\n".join("  ".join(row).rstrip() for row in _align(rows, justify))


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table with aligned columns: the first one flush left, the others flush right."""
    lines = _align([header, *rows], str.rjust, minimum=3)
    first, *widths = map(len, lines[0])
    lines.insert(1, ["-" * first, *("-" * (n - 1) + ":" for n in widths)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _align(rows: Iterable[Sequence[str]], justify: Callable[[str, int], str], minimum: int = 0) -> list[list[str]]:
    rows = list(rows)
    first, *widths = (max(minimum, *map(len, column)) for column in zip(*rows, strict=True))
    return [[row[0].ljust(first), *(justify(x, n) for x, n in zip(row[1:], widths, strict=True))] for row in rows]


def format_results(results: dict[str, dict[str, Any]]) -> str:
    """A text table with a row for each set and a column for each metric; fractions are multiplied by 100.

    A set whose result is several, by name, has a row for each. Thresholds are no fractions. The cell of a metric that a
    set does not have is empty.
    """
    results = dict(_rows(results))
    columns = list(dict.fromkeys(column for result in results.values() for column in result))
    rows = [
        [one_line(name), *(_cell(result[x], x.endswith("threshold")) if x in result else "" for x in columns)]
        for name, result in results.items()
    ]
    return text_table([["", *columns], *rows])


def format_metrics(result: dict[str, Any]) -> str:
    """The result of `evaluate` as text: a line for each number, and a table for each group of numbers."""
    lines = [
        f"{name:<24} {value:.4f}" if isinstance(value, float) else f"{name:<24} {value}"
        for name, value in result.items()
        if not isinstance(value, dict)
    ]
    tables = {"": result.get("classes", {})}
    if "calibration" in result:
        names = ("ece", "mce", "brier", "scaled_ece")
        tables["calibration"] = {"": {name: result["calibration"][name] for name in names}}
    if "tuned" in result:
        tuned = result["tuned"]
        tables[f"with thresholds of the best F1 on {tuned['on']}"] = tuned["classes"]
        tables["overall with these thresholds"] = {"": {name: x for name, x in tuned.items() if isinstance(x, float)}}
    tables |= {f"by {name}": parts for name, parts in result.get("slices", {}).items()}
    for title, rows in tables.items():
        if rows and all(rows.values()):
            lines += ["", *([title] if title else []), format_results(rows)]
    return "\n".join(lines)


def _rows(results: Mapping[str, dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, result in results.items():
        if all(isinstance(value, dict) for value in result.values()):
            yield from ((f"{name} {part}", value) for part, value in result.items())
        else:
            yield name, result


def _cell(value: Any, is_threshold: bool = False) -> str:
    if isinstance(value, float):
        return f"{value:.4f}" if is_threshold else f"{100 * value:.2f}"
    return one_line(", ".join(value) if isinstance(value, list) else str(value))
