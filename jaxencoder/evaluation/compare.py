"""Two sides, each of one or more runs or files of predictions, on the same examples: is one better, or is it chance?"""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from jaxencoder.evaluation.evaluate import open_run
from jaxencoder.evaluation.report import PREDICTIONS_FILE, lines
from jaxencoder.evaluation.significance import RESAMPLES, Difference, compare_classes, compare_values
from jaxencoder.tasks.classification.predict import predictions


class Comparison(NamedTuple):
    """What the runs of two sides differ in: examples, their number, and each metric, the main one first."""

    examples: int
    differences: list[Difference]


class _Predicted(NamedTuple):
    """Of each example what tells it from others, what is true, and what one run predicts."""

    name: str
    examples: list[str]
    truths: list[Any]
    predictions: list[Any]


def compare(
    a: Sequence[str | Path],
    b: Sequence[str | Path],
    data: str | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
    step: int | Literal["latest", "best"] | None = None,
) -> Comparison:
    """Test whether two sides differ by more than chance.

    Args:
        a, b: of each side one run's folder, or those of several seeds; or files predictions.jsonl, as `evaluate` writes
            them.
        data: source on which the runs predict; None: what each has held out, which must be the same.
        seed, resamples: of the tests.
        step: which checkpoint of the runs; None: as `kept_step`, the one that `sweep` and `glue` measure.

    Returns:
        Of classes accuracy, macro_f1 and matthews; of values spearman and pearson. See `Difference`.

    Raises:
        ValueError: the examples are not the same, some are of classes and some values, or the seed is negative.
        OSError: a run, a file or the data cannot be read.
    """
    if seed < 0:
        raise ValueError(f"seed is {seed}; give 0 or a positive whole number")
    sides = [[_predicted(Path(name), data, step) for name in side] for side in (a, b)]
    everyone = [run for side in sides for run in side]
    first = everyone[0]
    for other in everyone[1:]:
        _check_same(first, other)
    columns = [first.truths, *(run.predictions for run in everyone)]
    if any(isinstance(x, list) for column in columns for x in column):
        raise ValueError("these predict lists of classes; compare runs that predict one class or a value for a record")
    kinds = {isinstance(x, str) for column in columns for x in column}
    if len(kinds) > 1:
        raise ValueError("some of these predict classes, and some values; compare those of one kind")
    if kinds == {True}:
        names = {name: i for i, name in enumerate(sorted({x for column in columns for x in column}))}
        labels, *runs = np.array([[names[x] for x in column] for column in columns], np.int64)
        test = partial(compare_classes, classes=len(names))
    else:
        labels, *runs = np.array(columns, np.float64)
        test = compare_values
        if not np.isfinite(runs).all():
            raise ValueError("some predictions are not finite, and nothing can be said of them; is a model damaged?")
    both = (np.array(part) for part in (runs[: len(a)], runs[len(a) :]))
    return Comparison(len(labels), test(labels, *both, seed=seed, resamples=resamples))


def table(found: Comparison) -> str:
    """Lines of text: one for each metric, times 100, with the spread of each side's runs where there are several."""
    head = ("metric", "A", "B", "B - A", "95% interval", "p", "test")
    rows = [head]
    for x in found.differences:
        sides = (_mean(x.a, x.a_std), _mean(x.b, x.b_std))
        interval = f"{100 * x.low:+.2f} to {100 * x.high:+.2f}"
        rows.append((x.metric, *sides, f"{100 * x.difference:+.2f}", interval, f"{x.p:.4f}", x.test))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(x.ljust(n) for x, n in zip(row, widths, strict=True)).rstrip() for row in rows)


def _mean(value: float, deviation: float | None) -> str:
    return f"{100 * value:.2f}" if deviation is None else f"{100 * value:.2f} ± {100 * deviation:.2f}"


def _predicted(path: Path, data: str | None, step: int | str | None) -> _Predicted:
    if path.suffix == ".jsonl":
        if data is not None:
            raise ValueError(f"{path} holds predictions, which are of no other data; leave --data out, or name a run")
        found = _read(path)
    else:
        found = lines(predictions(open_run(path, step), data))
    examples = [json.dumps(line["record"], sort_keys=True, default=str) for line in found]
    return _Predicted(str(path), examples, [x["truth"] for x in found], [x["prediction"] for x in found])


def _read(path: Path) -> list[dict[str, Any]]:
    """The lines of a file that `evaluate` has written."""
    found = []
    with path.open(encoding="utf-8") as file:  # whose lines, unlike those of str.splitlines, end at no U+2028 of a text
        for number, text in enumerate(file, 1):
            try:
                line = json.loads(text)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{path}:{number}: not JSON ({error})") from None
            values = (line.get("truth"), line.get("prediction")) if isinstance(line, dict) and "record" in line else ()
            if not values or not all(isinstance(value, str | list | int | float) for value in values):
                raise ValueError(f"{path}:{number}: not a line of a {PREDICTIONS_FILE}, as evaluate writes it")
            found.append(line)
    if not found:
        raise ValueError(f"{path} is empty: it holds no predictions")
    return found


def _check_same(a: _Predicted, b: _Predicted) -> None:
    if len(a.examples) != len(b.examples):
        raise ValueError(
            f"{a.name} predicts {len(a.examples)} examples and {b.name} {len(b.examples)}; they must be the same ones: "
            "name them with --data"
        )
    pairs = zip(zip(a.examples, a.truths, strict=True), zip(b.examples, b.truths, strict=True), strict=True)
    for number, (one, other) in enumerate(pairs, 1):
        if one != other:
            raise ValueError(
                f"example {number} of {a.name} is not that of {b.name}; they must be the same ones, in the same order"
            )
