"""Answers to questions out of texts that hold them, and how exact they are.

Rajpurkar et al. 2016 (SQuAD), arXiv:1606.05250, and 2018 (SQuAD 2.0, questions without an answer), arXiv:1806.03822.
Texts longer than a row are read in windows that overlap.
"""

import collections
import re
import string
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
import scipy.special

from jaxencoder.inference.embed import chunks
from jaxencoder.inference.global_tokens import global_slots
from jaxencoder.inference.model import OpenedModel
from jaxencoder.inference.outputs import encode
from jaxencoder.inference.writers import refuse_fields
from jaxencoder.model.config import ComputeConfig, EncoderConfig
from jaxencoder.model.heads import Head, HeadConfig
from jaxencoder.objectives.objective import Batch, Params
from jaxencoder.tasks.question_answering.data import Window, windows
from jaxencoder.tasks.question_answering.objective import NAME, QuestionAnswering
from jaxencoder.tasks.records import with_texts
from jaxencoder.text.buckets import Plan
from jaxencoder.text.sources import Record, read

_BEST = 20  # first and last tokens of a window that are tried with each other
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


class Answer(NamedTuple):
    """Characters [start, end) of a text, the empty text for none.

    score is the sum of the two ends' scores; probability is a softmax over all candidates that are kept.
    """

    text: str
    start: int
    end: int
    score: float
    probability: float


def answer_questions(
    model: OpenedModel,
    questions: Sequence[str],
    texts: Sequence[str],
    k: int = 1,
    batch_tokens: int | None = None,
    no_answer: bool | None = None,
) -> list[list[Answer]]:
    """For each question the k best answers out of its text, best first.

    Args:
        model: a run with the objective QuestionAnswering, or a published reader.
        questions, texts: as many of both.
        k: how many; fewer where the text has fewer spans.
        batch_tokens: as in `Model.embed`.
        no_answer: whether the empty text may be an answer; None: as the run has learned, and not for a published model.

    Raises:
        ValueError: a model that has not learned to answer, or a text that is not valid Unicode.
    """
    if NAME not in model.heads:
        raise ValueError("this model has not learned to answer; fine-tune it with the objective QuestionAnswering")
    settings = model.config.objective if isinstance(model.config.objective, QuestionAnswering) else QuestionAnswering()
    length = min(model.max_length, model.config.data.row_length)
    found = list(windows(model.tokenizer, questions, texts, length, model.config.data.overlap))
    typed, head = model.config.model.token_types > 1, model.heads[NAME]

    def more(plan: Plan) -> Batch:
        types, question = np.zeros((2, plan.rows, plan.length), np.int32)
        for number, row, start in zip(plan.texts, plan.row, plan.start, strict=True):
            ids = found[number].ids
            types[row, start : start + len(ids)] = found[number].type_ids
            if head.global_tokens == "question":
                question[row, start : start + int((ids == head.separator).argmax())] = 1
        slots = global_slots(question)
        return ({"token_type_ids": types} if typed else {}) | ({} if slots is None else {"global_slots": slots})

    candidates: list[list[tuple[float, int, int]]] = [[] for _ in questions]
    nothing = np.full(len(questions), np.inf)
    function = partial(_scores, model.config.model, model.compute, head)
    ids = [window.ids for window in found]
    for plan, values in model.run(function, ids, batch_tokens, extra=more):
        for number, row, start in zip(plan.texts, plan.row, plan.start, strict=True):
            window = found[number]
            ends = values[row, start : start + len(window.ids)]  # [n, 2]
            nothing[window.example] = min(nothing[window.example], ends[0].sum())
            candidates[window.example] += _spans(ends, window, settings.max_answer_length)
    results = []
    for text, spans, none in zip(texts, candidates, nothing, strict=True):
        places = ((score, *_inked(text, start, end)) for score, start, end in sorted(spans))
        scored = {(start, end): score for score, start, end in places if start < end}  # of two windows the better
        if (settings.no_answer if no_answer is None else no_answer) or not scored:
            scored[0, 0] = float(none)
        ranked = sorted(((score, *place) for place, score in scored.items()), reverse=True)[: max(k, _BEST)]
        shares = scipy.special.softmax([x for x, _, _ in ranked])
        answers = [Answer(text[a:b], a, b, x, float(p)) for (x, a, b), p in zip(ranked, shares, strict=True)]
        results.append(answers[:k])
    return results


def predict_answers(
    model: OpenedModel,
    source: str | Iterable[Record],
    text_field: str | None = None,
    pair_field: str | None = None,
    k: int = 1,
    batch_tokens: int | None = None,
    no_answer: bool | None = None,
) -> Iterator[list[Record]]:
    """Records with "prediction", the answer, its "start" and "end" (characters of the text) and its "probability".

    Args:
        model: as in `answer_questions`.
        source: as in `jaxencoder.text.sources`, or records.
        text_field: of the question; None: that of the run, or question.
        pair_field: of the text; None: that of the run, or context.
        k: with more than 1, so many of the best are added as "predictions".
        batch_tokens: as in `Model.embed`. no_answer: as in `answer_questions`.

    Raises:
        ValueError: a record without a question or a text or with a field of one of these names, or what
            `answer_questions` raises.
    """
    data = model.config.data
    asked = text_field or (data.text_field if data.pair_field else "question")
    context = pair_field or data.pair_field or "context"
    where = "record"
    if isinstance(source, str):
        where = f"{source}, record"
        source = read(source, text_field=asked, required=(context,))
    records = (with_texts(record, (asked, context), f"{where} {i}") for i, record in enumerate(source, 1))
    for chunk in chunks(records, lambda record: len(record[context])):
        refuse_fields(chunk, ("prediction", "start", "end", "probability", "predictions"))
        found = answer_questions(
            model,
            [record[asked] for record in chunk],
            [record[context] for record in chunk],
            k,
            batch_tokens,
            no_answer,
        )
        yield [
            record | _described(answers[0]) | ({"predictions": [_described(x) for x in answers]} if k > 1 else {})
            for record, answers in zip(chunk, found, strict=True)
        ]


def _described(answer: Answer) -> Record:
    return {"prediction": answer.text, "start": answer.start, "end": answer.end, "probability": answer.probability}


@partial(jax.jit, static_argnums=(0, 1, 2))
def _scores(encoder: EncoderConfig, compute: ComputeConfig, head: HeadConfig, params: Params, rows: Batch) -> jax.Array:
    return Head(encoder, head).apply({"params": params[NAME]}, encode(encoder, compute, params, rows))


def _spans(ends: np.ndarray, window: Window, longest: int) -> list[tuple[float, int, int]]:
    """(score, first character, last + 1) of the best spans of a window."""
    inside = ends[window.first : window.first + len(window.offsets)]
    if not len(inside):
        return []
    first, last = (np.argsort(-inside[:, i], kind="stable")[:_BEST] for i in range(2))
    length = last[None, :] - first[:, None] + 1
    kept = (length >= 1) & (length <= longest)
    scores = inside[first, 0][:, None] + inside[last, 1][None, :]
    chosen = [(float(scores[i, j]), first[i], last[j]) for i, j in zip(*np.nonzero(kept), strict=True)]
    chosen = sorted(chosen, reverse=True)[:_BEST]
    return [(score, int(window.offsets[a, 0]), int(window.offsets[b, 1])) for score, a, b in chosen]


def _inked(text: str, start: int, end: int) -> tuple[int, int]:
    """A span without the spaces at its ends: that before a word belongs to its token in many a tokenizer."""
    words = text[start:end]
    return start + len(words) - len(words.lstrip()), end - len(words) + len(words.rstrip())


def answer_metrics(predicted: Sequence[str], true: Sequence[Sequence[str]]) -> dict[str, float]:
    """Exact match and F1 of words, as SQuAD's official script has them: of several true answers the best counts.

    Args:
        predicted: "" for no answer.
        true: for each question the answers that people gave; empty, or with an empty text, for none.

    Returns:
        exact and f1, in [0, 1], the same with has_answer_ and no_answer_ before it where there are questions of both
        sorts, and examples, their number.
    """
    exact, f1 = [], []
    for found, answers in zip(predicted, true, strict=True):
        answers = [x for x in answers if normalised(x)] or [""]
        exact.append(max(float(normalised(found) == normalised(answer)) for answer in answers))
        f1.append(max(_f1(found, answer) for answer in answers))
    has = np.array([any(map(normalised, answers)) for answers in true], bool)
    values = {"exact": np.array(exact), "f1": np.array(f1)}
    result = {name: float(x.mean()) if len(x) else 0.0 for name, x in values.items()}
    if has.any() and not has.all():
        for prefix, part in (("has_answer", has), ("no_answer", ~has)):
            result |= {f"{prefix}_{name}": float(x[part].mean()) for name, x in values.items()}
    return result | {"examples": len(exact)}


def normalised(text: str) -> str:
    """A text without case, punctuation, English articles and superfluous spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def _f1(predicted: str, true: str) -> float:
    a, b = normalised(predicted).split(), normalised(true).split()
    if not a or not b:
        return float(a == b)
    common = sum((collections.Counter(a) & collections.Counter(b)).values())
    return 2 * common / (len(a) + len(b))


def evaluate_reader(
    model: OpenedModel, examples: Iterable[tuple[str, str, Sequence[str]]], no_answer: bool | None = None
) -> dict[str, float]:
    """`answer_metrics` of a model on (question, text, answers); `no_answer` as in `answer_questions`."""
    predicted, true = [], []
    for chunk in chunks(examples, lambda example: len(example[1])):
        questions, texts, answers = zip(*chunk, strict=True)
        true += answers
        predicted += [found[0].text for found in answer_questions(model, questions, texts, no_answer=no_answer)]
    if not true:
        raise ValueError("the data holds no question to measure on; name other data with --data")
    return answer_metrics(predicted, true)
