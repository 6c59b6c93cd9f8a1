"""Results as lines of text, for a terminal."""

from typing import Any

from jaxencoder.evaluation.report import one_line


def table(results: dict[str, dict[str, Any]]) -> str:
    """Lines of text: one for each set, with a column for each metric; fractions are given times 100."""
    columns = list(next(iter(results.values())))
    rows = [["", *columns]] + [
        [one_line(name), *(_cell(result[column]) for column in columns)] for name, result in results.items()
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *(x.rjust(n) for x, n in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    )


def summary(result: dict[str, Any]) -> str:
    """Lines of text for what `evaluate` returns: its numbers, and a table for each group of them."""
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
        tables["decided by them"] = {"": {name: x for name, x in tuned.items() if isinstance(x, float)}}
    tables |= {f"by {name}": parts for name, parts in result.get("slices", {}).items()}
    for title, rows in tables.items():
        if rows and all(rows.values()):
            lines += ["", *([title] if title else []), table(rows)]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{100 * value:.2f}"
    return one_line(", ".join(value) if isinstance(value, list) else str(value))
