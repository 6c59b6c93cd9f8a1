"""Comparison of two sides, each of one or more runs or files of predictions, on the same examples."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxencoder.evaluation.evaluate import Step, open_run
from jaxencoder.evaluation.report import PREDICTIONS_FILE, prediction_records
from jaxencoder.evaluation.seeds import format_mean
from jaxencoder.evaluation.significance import RESAMPLES, Difference, compare_classes, compare_values
from jaxencoder.evaluation.tables import text_table
from jaxencoder.tasks.classification.predict import predictions


class Comparison(NamedTuple):
    """The number of examples, and the difference of each metric, the main one first."""

    examples: int
    differences: list[Difference]


class _RunPredictions(NamedTuple):
    """A run's predictions; each example is its record as JSON."""

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
    all_runs = [_read_predictions(Path(name), data, step) for name in (*a, *b)]
    for run in all_runs[1:]:
        _check_same_examples(all_runs[0], run)
    columns = [all_runs[0].truths, *(run.predictions for run in all_runs)]
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


def _read_predictions(path: Path, data: str | None, step: Step | None) -> _RunPredictions:
    if path.suffix == ".jsonl":
        if data is not None:
            raise ValueError(f"{path} holds predictions for its own data; leave --data out, or name a run")
        records = _read_file(path)
    else:
        records = prediction_records(predictions(open_run(path, step), data))
    examples = [json.dumps(x["record"], sort_keys=True, default=str) for x in records]
    return _RunPredictions(str(path), examples, [x["truth"] for x in records], [x["prediction"] for x in records])


def _read_file(path: Path) -> list[dict[str, Any]]:
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


def _check_same_examples(a: _RunPredictions, b: _RunPredictions) -> None:
    if len(a.examples) != len(b.examples):
        raise ValueError(
            f"{a.name} predicts {len(a.examples)} examples and {b.name} {len(b.examples)}; they must be the same ones: "
            "name them with --data"
        )
    pairs = (zip(run.examples, run.truths, strict=True) for run in (a, b))
    for number, (example_a, example_b) in enumerate(zip(*pairs, strict=True), 1):
        if example_a != example_b:
            raise ValueError(
                f"example {number} of {a.name} is not that of {b.name}; they must be the same ones, in the same order"
            )
