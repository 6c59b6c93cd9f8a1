"""Multiple choice: which of some texts goes with a context, and how often that is the right one.

Zellers et al. 2018 (SWAG), arXiv:1808.05326; Lai et al. 2017 (RACE), arXiv:1704.04683.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import scipy.special

from jaxencoder.inference.embed import chunks
from jaxencoder.inference.model import OpenedModel
from jaxencoder.inference.writers import refuse_fields
from jaxencoder.tasks.classification.classify import document_scores, row_length, run_scores
from jaxencoder.tasks.multiple_choice.data import encode_choices
from jaxencoder.tasks.multiple_choice.objective import MultipleChoice
from jaxencoder.tasks.records import with_texts
from jaxencoder.text.examples import choices_of
from jaxencoder.text.sources import Record, read

log = logging.getLogger(__name__)

ADDED = ("prediction", "choice", "probability", "probabilities")


def choose(
    model: OpenedModel, contexts: Sequence[str], choices: Sequence[Sequence[str]], batch_tokens: int | None = None
) -> list[np.ndarray]:
    """How probable each choice is: for each context float64 [its choices], summing to 1.

    What is longer than a row is cut as in training, with one warning.

    Args:
        model: of a run with the objective MultipleChoice.
        contexts, choices: as many of both; two choices or more for each context.
        batch_tokens: as in `Model.embed`.

    Raises:
        ValueError: a model that has not learned to choose, or choices that are no lists of texts or do not fit in a
            row.
    """
    if not isinstance(model.config.objective, MultipleChoice) or "classifier" not in model.params:
        raise ValueError("this model has not learned to choose; fine-tune it with the objective MultipleChoice")
    for number, own in enumerate(choices, 1):
        choices_of(own, f"example {number}")
    groups, cut = encode_choices(model.tokenizer, contexts, choices, row_length(model))
    if cut:
        log.warning("%d of %d examples are longer than %d tokens and were cut.", cut, len(groups), row_length(model))
    ids, types = ([getattr(x, name) for group in groups for x in group] for name in ("ids", "type_ids"))
    scores = document_scores(model, run_scores(model), 1, ids, types, batch_tokens, row_length(model))[:, 0]
    ends = np.cumsum([len(group) for group in groups], dtype=np.int64)
    return [scipy.special.softmax(part) for part in np.split(scores, ends[:-1])] if groups else []


def predict_choices(
    model: OpenedModel,
    source: str | Iterable[Record],
    text_field: str | None = None,
    pair_field: str | None = None,
    batch_tokens: int | None = None,
) -> Iterator[list[Record]]:
    """Records with "prediction", the number from 0 of the best choice, its text as "choice", its "probability", and
    those of all choices as "probabilities".

    Args:
        model: as in `choose`.
        source: as in `jaxencoder.text.sources`, or records; without labels.
        text_field, pair_field: of the context and of the list of choices; None: those of the run.
        batch_tokens: as in `Model.embed`.

    Raises:
        ValueError: a record without text or choices, or with a field of one of these names, or what `choose` raises.
    """
    data = model.config.data
    text_field, pair_field = text_field or data.text_field, pair_field or data.pair_field
    where = "record"
    if isinstance(source, str):
        where = f"{source}, record"
        source = read(source, text_field=text_field, required=(pair_field,), text_unit=data.text_unit)
    every = (
        (with_texts(record, (text_field,), f"{where} {i}"), choices_of(record.get(pair_field), f"{where} {i}"))
        for i, record in enumerate(source, 1)
    )
    for chunk in chunks(every, lambda one: len(one[0][text_field]) + sum(map(len, one[1]))):
        records, choices = zip(*chunk, strict=True)
        refuse_fields(records, ADDED)
        found = choose(model, [record[text_field] for record in records], choices, batch_tokens)
        yield [record | _added(own, shares) for record, own, shares in zip(records, choices, found, strict=True)]


def _added(choices: Sequence[str], shares: np.ndarray) -> Record:
    best = int(shares.argmax())
    values = best, choices[best], float(shares[best]), shares.tolist()
    return dict(zip(ADDED, values, strict=True))


def choice_metrics(shares: Sequence[np.ndarray], right: Sequence[int]) -> dict[str, float]:
    """How often the right one is chosen.

    Args:
        shares: of each example the probabilities of its choices, float64.
        right: of each the number of the right one.

    Returns:
        loss (nats an example), accuracy, chance (the accuracy of a blind guess), and examples, their number; all 0
        without any.
    """
    pairs = list(zip(shares, right, strict=True))
    with np.errstate(divide="ignore"):
        values = {
            "loss": [-np.log(own[i]) for own, i in pairs],
            "accuracy": [own.argmax() == i for own, i in pairs],
            "chance": [1 / len(own) for own, _ in pairs],
        }
    return {name: float(np.mean(x)) if x else 0.0 for name, x in values.items()} | {"examples": len(pairs)}


def evaluate_chooser(model: OpenedModel, examples: Iterable[tuple[str, Sequence[str], int]]) -> dict[str, float]:
    """`choice_metrics` of a model on (context, choices, number of the right one)."""
    shares, right = [], []
    for chunk in chunks(examples, lambda example: len(example[0]) + sum(map(len, example[1]))):
        contexts, choices, numbers = zip(*chunk, strict=True)
        shares += choose(model, contexts, choices)
        right += numbers
    if not right:
        raise ValueError("the data holds no choices to measure on; name other data with --data")
    return choice_metrics(shares, right)
