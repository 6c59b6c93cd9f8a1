"""Answers to questions: spans of the texts that hold them. Texts longer than a row are read in overlapping windows.

The metrics are those of SQuAD's official script: Rajpurkar et al. 2016, arXiv:1606.05250, and 2018 (SQuAD 2.0, with
questions that have no answer), arXiv:1806.03822.
"""

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import scipy.special

from jaxencoder.objectives.objective import Batch
from jaxencoder.tasks.question_answering.data import SCHEMA, Window, answer_texts, question_windows
from jaxencoder.tasks.question_answering.objective import HEAD, QuestionAnswering
from jaxencoder.tasks.records import check_new_fields, chunks, labeled_records, numbered, with_texts
from jaxencoder.tasks.running import global_slots, head_scores, packed_type_ids
from jaxencoder.tasks.task import Evaluation, TaskModel
from jaxencoder.text.buckets import BatchPlan, require_tokenizer
from jaxencoder.text.sources.records import Record

ADDED = ("prediction", "start", "end", "probability", "predictions")
_BEST = 20  # first and last tokens of a window that are combined
# Thai, Lao, Myanmar, Khmer, kana and Chinese characters.
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff]"
)
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


class Answer(NamedTuple):
    """Characters [start, end) of a text, the empty text for no answer."""

    text: str
    start: int
    end: int
    score: float  # sum of the scores of the first and the last token
    probability: float  # softmax over all candidates that are kept


def answer_questions(
    model: TaskModel,
    questions: Sequence[str],
    texts: Sequence[str],
    k: int = 1,
    batch_tokens: int | None = None,
    no_answer: bool | None = None,
) -> list[list[Answer]]:
    """The k best answers to each question from its text, best first; fewer if the text has fewer spans.

    `model` is a run of QuestionAnswering or a published question-answering model; `batch_tokens` is as in
    `Model.embed`. `no_answer` makes the empty text a candidate; None: as in training, and no for a published model.
    ValueError for another model or a text that is not valid Unicode.
    """
    if HEAD not in model.heads:
        raise ValueError(
            "this model was not trained for question answering; fine-tune it with the objective QuestionAnswering"
        )
    objective = model.config.objective if isinstance(model.config.objective, QuestionAnswering) else QuestionAnswering()
    no_answer = objective.no_answer if no_answer is None else no_answer
    tokenizer, length = require_tokenizer(model.tokenizer), min(model.max_length, model.config.data.row_length)
    windows = list(question_windows(tokenizer, questions, texts, length, model.config.data.overlap))
    head, ids, type_ids = model.heads[HEAD], [window.ids for window in windows], [window.type_ids for window in windows]

    def extra(plan: BatchPlan) -> Batch:
        arrays = {"token_type_ids": packed_type_ids(plan, type_ids)} if model.config.model.token_types > 1 else {}
        if head.global_tokens == "question":
            is_question = np.zeros((plan.rows, plan.length), bool)
            for number, row, start in zip(plan.texts, plan.row, plan.start, strict=True):
                is_question[row, start : start + int((ids[number] == head.separator).argmax())] = True
            if (slots := global_slots(is_question)) is not None:
                arrays["global_slots"] = slots
        return arrays

    candidates: list[list[tuple[float, int, int]]] = [[] for _ in questions]
    no_answer_scores = np.full(len(questions), np.inf)
    function = partial(head_scores, model.config.model, model.compute, ((HEAD, head),))
    for plan, values in model.run(function, ids, batch_tokens, extra=extra):
        for number, row, start in zip(plan.texts, plan.row, plan.start, strict=True):
            window = windows[number]
            ends = values[row, start : start + len(window.ids)]  # [n, 2]
            no_answer_scores[window.example] = min(no_answer_scores[window.example], ends[0].sum())
            candidates[window.example] += _best_spans(ends, window, objective.max_answer_length)
    results = []
    for text, spans, no_answer_score in zip(texts, candidates, no_answer_scores, strict=True):
        stripped = ((score, *_strip(text, start, end)) for score, start, end in sorted(spans))
        scores = {(start, end): score for score, start, end in stripped if start < end}  # the better of two windows
        if no_answer or not scores:
            scores[0, 0] = float(no_answer_score)
        ranked = sorted(((score, *span) for span, score in scores.items()), reverse=True)[: max(k, _BEST)]
        probabilities = scipy.special.softmax([score for score, _, _ in ranked])
        answers = [Answer(text[a:b], a, b, x, float(p)) for (x, a, b), p in zip(ranked, probabilities, strict=True)]
        results.append(answers[:k])
    return results


def predict_answers(
    model: TaskModel,
    source: str | Iterable[Record],
    text_field: str | None = None,
    pair_field: str | None = None,
    k: int = 1,
    batch_tokens: int | None = None,
    no_answer: bool | None = None,
) -> Iterator[list[Record]]:
    """Add to records "prediction", the answer, its "start" and "end" (characters of the text) and its "probability".

    Args:
        model, batch_tokens, no_answer: as in `answer_questions`.
        source: as in `jaxencoder.text.sources`, or records.
        text_field, pair_field: of the question and of the text; None: those of the run, or question and context.
        k: if more than 1, the k best answers are added as "predictions".

    Raises:
        ValueError: as in `answer_questions`, or a record that lacks a question or text, or has one of these fields.
    """
    data = model.config.data
    question_field = text_field or (data.text_field if data.pair_field else SCHEMA.fields["text_field"])
    context_field = pair_field or data.pair_field or SCHEMA.fields["pair_field"]
    records = (
        with_texts(record, (question_field, context_field), where)
        for where, record in numbered(source, question_field, (context_field,))
    )
    for chunk in chunks(records, lambda record: len(record[context_field])):
        check_new_fields(chunk, ADDED)
        questions, texts = ([record[name] for record in chunk] for name in (question_field, context_field))
        results = answer_questions(model, questions, texts, k, batch_tokens, no_answer)
        yield [
            record | _fields(answers[0]) | ({"predictions": [_fields(x) for x in answers]} if k > 1 else {})
            for record, answers in zip(chunk, results, strict=True)
        ]


def evaluate_answers(model: TaskModel, source: str | None = None) -> Evaluation:
    """`answer_metrics` on the records held out by the run, or on a source with the same fields."""
    data, no_answer = model.config.data, None
    if model.published is not None:  # whether such a model may leave questions open, only the data can tell
        records = labeled_records(SCHEMA, data, source)
        no_answer = any(not any(answer_texts(record[data.label_field], where)) for where, record in records)
    examples = (
        (record[data.text_field], record[data.pair_field], answer_texts(record[data.label_field], where))
        for where, record in labeled_records(SCHEMA, data, source)
        if with_texts(record, (data.pair_field,), where)
    )
    predicted, true = [], []
    for chunk in chunks(examples, lambda example: len(example[1])):
        questions, texts, answers = zip(*chunk, strict=True)
        true += answers
        predicted += [best[0].text for best in answer_questions(model, questions, texts, no_answer=no_answer)]
    return Evaluation(answer_metrics(predicted, true))


def _fields(answer: Answer) -> Record:
    return {"prediction": answer.text, "start": answer.start, "end": answer.end, "probability": answer.probability}


def _best_spans(ends: np.ndarray, window: Window, max_length: int) -> list[tuple[float, int, int]]:
    """(score, first character, last + 1) of the best spans of a window; `ends` are its scores [n, 2]."""
    inside = ends[window.first : window.first + len(window.offsets)]
    if not len(inside):
        return []
    first, last = (np.argsort(-inside[:, i], kind="stable")[:_BEST] for i in range(2))
    length = last[None, :] - first[:, None] + 1
    is_valid = (length >= 1) & (length <= max_length)
    scores = inside[first, 0][:, None] + inside[last, 1][None, :]
    spans = [(float(scores[i, j]), first[i], last[j]) for i, j in zip(*np.nonzero(is_valid), strict=True)]
    spans = sorted(spans, reverse=True)[:_BEST]
    return [(score, int(window.offsets[a, 0]), int(window.offsets[b, 1])) for score, a, b in spans]


def _strip(text: str, start: int, end: int) -> tuple[int, int]:
    """A span without the spaces at its ends; in many tokenizers the space before a word belongs to its token."""
    words = text[start:end]
    return end - len(words.lstrip()), start + len(words.rstrip())


def answer_metrics(predicted: Sequence[str], true: Sequence[Sequence[str]]) -> dict[str, float]:
    """exact (match) and f1 (of words, see `normalize`), in [0, 1], and examples, their number.

    `predicted` is "" for no answer; `true` are the annotators' answers to each question, empty or with an empty text
    for none; of several the best counts. If there are questions of both kinds, also has_answer_exact, has_answer_f1,
    no_answer_exact, no_answer_f1.
    """
    exact, f1 = [], []
    for prediction, answers in zip(predicted, true, strict=True):
        answers = [x for x in answers if normalize(x)] or [""]
        exact.append(max(float(normalize(prediction) == normalize(answer)) for answer in answers))
        f1.append(max(_f1(prediction, answer) for answer in answers))
    has_answer = np.array([any(map(normalize, answers)) for answers in true], bool)
    values = {"exact": np.array(exact), "f1": np.array(f1)}
    result = {name: float(x.mean()) for name, x in values.items()}
    if has_answer.any() and not has_answer.all():
        for prefix, part in (("has_answer", has_answer), ("no_answer", ~has_answer)):
            result |= {f"{prefix}_{name}": float(x[part].mean()) for name, x in values.items()}
    return result | {"examples": len(exact)}


def normalize(text: str) -> str:
    """Remove case, punctuation, English articles and superfluous spaces, as SQuAD's script.

    A text with characters of scripts that have no spaces between words keeps articles, loses Unicode's punctuation too,
    and each of these characters is a word, as in MLQA's script: Lewis et al. 2020, arXiv:1910.07475.
    """
    text = text.lower().translate(_PUNCTUATION)
    if not _UNSPACED.search(text):
        return " ".join(_ARTICLES.sub(" ", text).split())
    text = "".join(c for c in text if not unicodedata.category(c).startswith("P"))
    return " ".join(_UNSPACED.sub(r" \g<0> ", text).split())


def _f1(predicted: str, true: str) -> float:
    a, b = normalize(predicted).split(), normalize(true).split()
    if not a or not b:
        return float(a == b)
    common = sum((Counter(a) & Counter(b)).values())
    return 2 * common / (len(a) + len(b))
