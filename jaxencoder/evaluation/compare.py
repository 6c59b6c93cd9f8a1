"""Comparison of two sides, each of one or more runs or files of predictions, on the same examples."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxencoder.checkpoints.run import Step
from jaxencoder.evaluation.evaluate import open_run
from jaxencoder.evaluation.report import PREDICTIONS_FILE, prediction_records
from jaxencoder.evaluation.significance import RESAMPLES, Difference, compare_classes, compare_values
from jaxencoder.evaluation.tables import format_mean, text_table
from jaxencoder.tasks.classification.predict import predictions
from jaxencoder.text.sources.records import Record


class Comparison(NamedTuple):
    """The number of examples, and the difference of each metric, the main one first."""

    examples: int
    differences: list[Difference]


def compare(
    a: Sequence[str | Path],
    b: Sequence[str | Path],
    data: str | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
    step: Step | None = None,
) -> Comparison:
    """Test whether two sides differ by more than chance.

    Args:
        a, b: the folders of runs, of one or several seeds, or their predictions.jsonl files as `evaluate` writes them.
        data: source on which the runs predict; None: their validation data, which must be the same.
        seed, resamples: of the tests.
        step: checkpoint of the runs; None: as for `kept_step`, which `run_sweep` and `run_glue` measure.

    Returns:
        For classes accuracy, macro_f1 and matthews; for values spearman and pearson. See `Difference`.

    Raises:
        ValueError: the examples differ, some runs predict classes and some values, or the seed is negative.
        OSError: a run, a file or the data cannot be read.
    """
    if seed < 0:
        raise ValueError(f"seed is {seed}; give 0 or a positive whole number")
    names = [str(name) for name in (*a, *b)]
    all_runs = [_read_predictions(Path(name), data, step) for name in names]
    _check_same_examples(names, all_runs)
    columns = [[x["truth"] for x in all_runs[0]], *([x["prediction"] for x in run] for run in all_runs)]
    if any(isinstance(x, list) for column in columns for x in column):
        raise ValueError("these predict lists of classes; compare runs that predict one class or a value for a record")
    is_class = {isinstance(x, str) for column in columns for x in column}
    if len(is_class) > 1:
        raise ValueError("some of these predict classes, and some values; compare those of one kind")
    if is_class == {True}:
        ids = {name: i for i, name in enumerate(sorted({x for column in columns for x in column}))}
        labels, *runs = np.array([[ids[x] for x in column] for column in columns], np.int64)
        test = partial(compare_classes, classes=len(ids))
    else:
        labels, *runs = np.array(columns, np.float64)
        test = compare_values
        if not np.isfinite(runs).all():
            raise ValueError("some predictions are not finite, so they cannot be compared; is a model damaged?")
    sides = (np.array(side) for side in (runs[: len(a)], runs[len(a) :]))
    return Comparison(len(labels), test(labels, *sides, seed=seed, resamples=resamples))


def format_comparison(comparison: Comparison) -> str:
    """A text table with a row for each metric, times 100, and deviations over the runs of a side."""
    rows: list[Sequence[str]] = [("metric", "A", "B", "B - A", "95% interval", "p", "test")]
    for x in comparison.differences:
        sides = (format_mean({"mean": mean, "sd": sd}, 100, 2) for mean, sd in ((x.a, x.a_std), (x.b, x.b_std)))
        interval = f"{100 * x.low:+.2f} to {100 * x.high:+.2f}"
        rows.append((x.metric, *sides, f"{100 * x.difference:+.2f}", interval, f"{x.p:.4f}", x.test))
    return text_table(rows, str.ljust)


def _read_predictions(path: Path, data: str | None, step: Step | None) -> list[Record]:
    """Records as of `prediction_records`."""
    if path.suffix != ".jsonl":
        return prediction_records(predictions(open_run(path, step), data))
    if data is not None:
        raise ValueError(f"{path} holds predictions for its own data; leave --data out, or name a run")
    records = []
    with path.open(encoding="utf-8") as file:  # str.splitlines would also split at the U+2028 of a text
        for number, line in enumerate(file, 1):
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{path}:{number}: not JSON ({error})") from None
            is_prediction = isinstance(record, dict) and "record" in record
            values = (record.get("truth"), record.get("prediction")) if is_prediction else (None,)
            if not all(isinstance(value, str | list | int | float) for value in values):
                raise ValueError(f"{path}:{number}: not a line of a {PREDICTIONS_FILE}, as evaluate writes it")
            records.append(record)
    if not records:
        raise ValueError(f"{path} is empty: it holds no predictions")
    return records


def _check_same_examples(names: Sequence[str], all_runs: Sequence[Sequence[Record]]) -> None:
    first, *rest = (
        [(json.dumps(x["record"], sort_keys=True, default=str), x["truth"]) for x in run] for run in all_runs
    )
    for name, examples in zip(names[1:], rest, strict=True):
        if len(examples) != len(first):
            counts = f"{names[0]} predicts {len(first)} examples and {name} {len(examples)}"
            raise ValueError(f"{counts}; they must be the same ones: name them with --data")
        for number, (example_a, example_b) in enumerate(zip(first, examples, strict=True), 1):
            if example_a != example_b:
                where = f"example {number} of {names[0]} is not that of {name}"
                raise ValueError(f"{where}; they must be the same ones, in the same order")
