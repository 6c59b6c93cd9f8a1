"""Predictions of a fine-tuned model for the records of a source, in their order."""

import inspect
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from jaxencoder.inference.load import opened
from jaxencoder.inference.model import OpenedModel
from jaxencoder.inference.writers import open_writer
from jaxencoder.tasks.table import TASKS, task_of_model
from jaxencoder.tasks.task import Task
from jaxencoder.text.sources.records import Record


def predict(run: str | Path | OpenedModel, source: str | Iterable[Record], **options: Any) -> Iterator[Record]:
    """Add a model's predictions to records, in bounded memory.

    Args:
        run: folder of a run or of transformers, a name of the hub, or an open model.
        source: as in `jaxencoder.text.sources`, or records. Labels are not needed, and not read.
        options: of the task; see the predict.py in its folder, such as `predict_classes`.

    Raises:
        ValueError: an invalid source or record, an option of another task, or a model without the head of a task.
        OSError: the run or the source cannot be read.
    """
    _, chunks = _predictions(opened(run), source, options)
    for chunk in chunks:
        yield from chunk


def predict_file(run: str | Path | OpenedModel, input: str, output: str | Path, **options: Any) -> int:
    """Write `predict`'s records to a .jsonl or .parquet file, which appears once it is complete; return their number.

    Raises:
        ValueError: as in `predict`, or an unknown extension, or records that do not make one table.
        OSError: as in `predict`, or the output cannot be written.
    """
    task, chunks = _predictions(opened(run), input, options)
    count = 0
    with (
        open_writer(Path(output), vectors=False, items=dict(task.list_items)) as write,
        tqdm(unit=" records", disable=None) as bar,
    ):
        for chunk in chunks:
            write(chunk)
            count += len(chunk)
            bar.update(len(chunk))
    return count


def _predictions(
    model: OpenedModel, source: str | Iterable[Record], options: dict[str, Any]
) -> tuple[Task, Iterator[list[Record]]]:
    """The model's task, and chunks of records with predictions."""
    if (task := task_of_model(model)) is None:
        reason = "has no head for it" if model.published else f"was trained for {type(model.config.objective).__name__}"
        names = ", ".join(task.name for task in TASKS)
        problem = f"this model {reason} and predicts nothing of a record"
        raise ValueError(f"{problem}; use a run, or a published model, for one of: {names}")
    if unknown := options.keys() - inspect.signature(task.predict).parameters:
        name = min(unknown)
        raise ValueError(f"{name} is {options[name]!r}, which is no option of {task.name}; leave it out")
    return task, task.predict(model, source, **options)
