"""Multiple choice: the probability of each choice that it goes with a context.

Zellers et al. 2018 (SWAG), arXiv:1808.05326; Lai et al. 2017 (RACE), arXiv:1704.04683.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import scipy.special

from jaxencoder.tasks.multiple_choice.data import SCHEMA, check_choices, choice_index, encode_choices
from jaxencoder.tasks.multiple_choice.objective import MultipleChoice
from jaxencoder.tasks.records import check_new_fields, chunks, labeled_records, numbered, with_texts
from jaxencoder.tasks.running import objective_scores, row_length, score_texts
from jaxencoder.tasks.task import Evaluation, TaskModel
from jaxencoder.text.buckets import require_tokenizer, warn_truncated
from jaxencoder.text.sources.records import Record

ADDED = ("prediction", "choice", "probability", "probabilities")


def choice_probabilities(
    model: TaskModel, contexts: Sequence[str], choices: Sequence[Sequence[str]], batch_tokens: int | None = None
) -> list[np.ndarray]:
    """Probabilities of the choices of each context, float64 [choices], summing to 1, by a run of MultipleChoice.

    Examples longer than a row are truncated as in training, with one warning; `batch_tokens` is as in `Model.embed`.
    ValueError for another model, or choices that are not lists of at least two texts or do not fit in a row.
    """
    if not isinstance(model.config.objective, MultipleChoice) or "classifier" not in model.params:
        raise ValueError(
            "this model was not trained for multiple choice; fine-tune it with the objective MultipleChoice"
        )
    for number, texts in enumerate(choices, 1):
        check_choices(texts, f"example {number}")
    length = row_length(model)
    groups, truncated = encode_choices(require_tokenizer(model.tokenizer), contexts, choices, length)
    warn_truncated(truncated, len(groups), length, "examples")
    ids, types = ([getattr(x, name) for group in groups for x in group] for name in ("ids", "type_ids"))
    scores = score_texts(model, objective_scores(model), 1, ids, types, batch_tokens, length)[:, 0]
    ends = np.cumsum([len(group) for group in groups], dtype=np.int64)
    return [scipy.special.softmax(part) for part in np.split(scores, ends[:-1])] if groups else []


def predict_choices(
    model: TaskModel,
    source: str | Iterable[Record],
    text_field: str | None = None,
    pair_field: str | None = None,
    batch_tokens: int | None = None,
) -> Iterator[list[Record]]:
    """Add to records "prediction", the index of the best choice, its text as "choice", its "probability", and the
    "probabilities" of all choices.

    Args:
        model, batch_tokens: as in `choice_probabilities`.
        source: as in `jaxencoder.text.sources`, or records; labels are not needed.
        text_field, pair_field: of the context and of the list of choices; None: those of the run.

    Raises:
        ValueError: as in `choice_probabilities`, or a record that lacks its texts or has one of these fields.
    """
    data = model.config.data
    text_field, pair_field = text_field or data.text_field, pair_field or data.pair_field
    examples = (
        (with_texts(record, (text_field,), where), check_choices(record.get(pair_field), where))
        for where, record in numbered(source, text_field, (pair_field,), data.text_unit)
    )
    for chunk in chunks(examples, lambda example: len(example[0][text_field]) + sum(map(len, example[1]))):
        records, choices = zip(*chunk, strict=True)
        check_new_fields(records, ADDED)
        probabilities = choice_probabilities(model, [record[text_field] for record in records], choices, batch_tokens)
        yield [record | _prediction(x, p) for record, x, p in zip(records, choices, probabilities, strict=True)]


def _prediction(choices: Sequence[str], probabilities: np.ndarray) -> Record:
    best = int(probabilities.argmax())
    values = best, choices[best], float(probabilities[best]), probabilities.tolist()
    return dict(zip(ADDED, values, strict=True))


def evaluate_choices(model: TaskModel, source: str | None = None) -> Evaluation:
    """`choice_metrics` on the records held out by the run, or on a source with the same fields."""
    data = model.config.data
    examples = (
        (record[data.text_field], choices, choice_index(record[data.label_field], choices, where))
        for where, record in labeled_records(SCHEMA, data, source)
        if (choices := check_choices(record[data.pair_field], where))
    )
    probabilities, right = [], []
    for chunk in chunks(examples, lambda example: len(example[0]) + sum(map(len, example[1]))):
        contexts, choices, numbers = zip(*chunk, strict=True)
        probabilities += choice_probabilities(model, contexts, choices)
        right += numbers
    return Evaluation(choice_metrics(probabilities, right))


def choice_metrics(probabilities: Sequence[np.ndarray], right: Sequence[int]) -> dict[str, float]:
    """loss (nats per example), accuracy, chance (the accuracy of a random guess) and examples, their number.

    `probabilities` are those of each example's choices, `right` is the index of its right one.
    """
    pairs = list(zip(probabilities, right, strict=True))
    with np.errstate(divide="ignore"):
        values = {
            "loss": [-np.log(shares[i]) for shares, i in pairs],
            "accuracy": [shares.argmax() == i for shares, i in pairs],
            "chance": [1 / len(shares) for shares, _ in pairs],
        }
    return {name: float(np.mean(x)) for name, x in values.items()} | {"examples": len(pairs)}
