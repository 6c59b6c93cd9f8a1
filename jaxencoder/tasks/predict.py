"""What a model predicts for the records of a source, in their order: each record with the prediction added to it."""

import inspect
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from jaxencoder.inference.load import opened
from jaxencoder.inference.model import OpenedModel
from jaxencoder.inference.writers import open_writer
from jaxencoder.tasks.classification.classify import classifies
from jaxencoder.tasks.classification.predict import predict_classes
from jaxencoder.tasks.multiple_choice.objective import MultipleChoice
from jaxencoder.tasks.multiple_choice.predict import predict_choices
from jaxencoder.tasks.question_answering import objective as spans
from jaxencoder.tasks.question_answering.predict import predict_answers
from jaxencoder.tasks.token_classification import objective as tokens
from jaxencoder.tasks.token_classification.predict import predict_tags
from jaxencoder.text.sources.records import Record

# What the lists of predictions hold that may all be empty at first; others hold text.
_ITEMS = {
    "probability": 0.0,
    "entities": {"type": "", "text": "", "start": 0, "end": 0, "probability": 0.0},
}


def predict(run: str | Path | OpenedModel, source: str | Iterable[Record], **options: Any) -> Iterator[Record]:
    """Each record with what the model predicts for it; in bounded memory.

    Args:
        run: folder of a run or of transformers, a name of the hub, or an open model.
        source: as in `jaxencoder.text.sources`, or records. Labels are not needed, and not looked at.
        options: of the task; see `predict_classes`, `predict_choices`, `predict_tags` and `predict_answers`.

    Raises:
        ValueError: a broken source or record, or a run whose objective predicts nothing of a record.
        OSError: the run or the source cannot be read.
    """
    for chunk in _predictions(opened(run), source, options):
        yield from chunk


def predict_file(run: str | Path | OpenedModel, input: str, output: str | Path, **options: Any) -> int:
    """Write each record of a source with what the run predicts for it, to a file that appears when it is whole.

    Args:
        run, options: as in `predict`.
        input: source of records, as in `jaxencoder.text.sources`.
        output: .jsonl or .parquet.

    Returns:
        The number of records.

    Raises:
        ValueError: also an unknown extension, or records that do not make one table.
        OSError: also where the output cannot be written.
    """
    count = 0
    with open_writer(Path(output), vectors=False, items=_ITEMS) as write, tqdm(unit=" records", disable=None) as bar:
        for chunk in _predictions(opened(run), input, options):
            write(chunk)
            count += len(chunk)
            bar.update(len(chunk))
    return count


def _predictions(model: OpenedModel, source: str | Iterable[Record], options: dict[str, Any]) -> Iterator[list[Record]]:
    """Lists of records with their predictions: the one place where the tasks are told apart, by the objective's type.

    A task's function takes (model, source, **options).
    """
    kind = type(model.config.objective)
    if classifies(model):
        function = predict_classes
    elif model.published is None and kind is MultipleChoice:
        function = predict_choices
    elif tokens.NAME in model.heads:
        function = predict_tags
    elif spans.NAME in model.heads:
        function = predict_answers
    else:
        which = "has no head for it" if model.published else f"was trained for {kind.__name__}"
        raise ValueError(
            f"this model {which} and predicts nothing of a record; use a run of finetune_classification, "
            "finetune_multiple_choice, finetune_token_classification or finetune_question_answering, or a published classifier, tagger or reader"
        )
    if foreign := options.keys() - inspect.signature(function).parameters:
        name = min(foreign)
        raise ValueError(f"{name} is {options[name]!r}, which means nothing to this model; leave it out")
    return function(model, source, **options)
