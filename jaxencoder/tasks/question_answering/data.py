"""A question and a text that may answer it, as token sequences that overlap if the text is longer than a row.

Devlin et al. 2019 (BERT), arXiv:1810.04805, section 4.2, and run_squad.py of its code for long texts.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, ClassVar, NamedTuple

import numpy as np

from jaxencoder.text.config import DataConfig
from jaxencoder.text.labels import Labels, parse_integer
from jaxencoder.text.pieces import Pieces
from jaxencoder.text.schema import Example, Schema, check_structured
from jaxencoder.text.sources.records import Record
from jaxencoder.text.tokenizers.tokenizer import Tokenizer
from jaxencoder.text.windows import sliding_windows

SPAN_CLASSES = ("start", "end", "both")  # labels of an answer's first and last token; one token may be both
START, END, BOTH = range(len(SPAN_CLASSES))
NO_ANSWER = (-1, -1)
_IMPOSSIBLE = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False, "none": False, "": False}
_QUESTION = 64  # tokens of a question that are read, and at most half a row


class QuestionAnsweringSchema(Schema):
    """A question, a text, and its answers as in SQuAD: {"text": [...], "answer_start": [...]}, empty for none.

    Questions whose field "is_impossible" is true have no answer, whatever answers are listed, as in SQuAD 2.0.
    """

    name = "span"
    fields: ClassVar = {"text_field": "question", "pair_field": "context", "label_field": "answers"}
    text_names, pair_names, label_names = (), (), ("answers",)
    labels_tokens = True
    names_classes = False
    reads_all_fields = True  # the flag is a field that only some data sets have
    overlaps = True

    def check(self, data: DataConfig) -> None:
        check_structured(data, "question answering", "the text that answers")
        super().check(data)

    def find_labels(self, data: DataConfig) -> Labels:
        return Labels("class", SPAN_CLASSES)

    def adjust(self, record: Record, data: DataConfig, where: str) -> None:
        if _is_impossible(record.get("is_impossible", False), where):
            record[data.label_field] = []

    def encode_label(self, label: Any, texts: tuple[str, str], labels: Labels, where: str) -> tuple[int, int]:
        return answer_span(label, texts[1], where)

    def encode(self, tokenizer: Tokenizer, examples: list[Example], data: DataConfig, has_pairs: bool) -> Pieces:
        questions, texts = zip(*(example.texts for example in examples), strict=True)
        answers = [example.label for example in examples]
        return answer_pieces(tokenizer, questions, texts, answers, data.row_length, data.overlap)


def answer_texts(value: Any, where: str) -> list[str]:
    """The texts of a record's answers; ValueError if it does not have one of the forms of `answer_span`."""
    return [text for text, _ in _answers(value, where)]


def answer_span(value: Any, text: str, where: str) -> tuple[int, int]:
    """The characters [start, end) of a record's first answer that is in its text, or NO_ANSWER.

    `value` is {"text": [...], "answer_start": [...]}, or a list of {"text": ..., "answer_start": ...} or of texts. If
    an answer does not begin at its "answer_start", as in some data sets, the nearest occurrence counts; without a
    start, the only one. ValueError if no answer is there.
    """
    answers = [(words, start) for words, start in _answers(value, where) if words]
    for words, start in answers:
        positions = [start] if isinstance(start, int) and start >= 0 and text.startswith(words, start) else None
        positions = positions or [match.start() for match in re.finditer(f"(?={re.escape(words)})", text)]
        if start is None and len(positions) > 1:
            problem = f"the answer {words[:60]!r} is in the text {len(positions)} times, and has no answer_start"
            raise ValueError(f"{where}: {problem}; add it, or drop the record")
        if positions:
            start = min(positions, key=lambda position: abs(position - (start or 0)))
            return start, start + len(words)
    if not answers:
        return NO_ANSWER
    raise ValueError(f"{where}: the answer {answers[0][0][:60]!r} is not in the text; correct or drop the record")


def _answers(value: Any, where: str) -> list[tuple[str, int | None]]:
    """The text and the start of each answer; the start is None if it is not given."""
    items = [value] if isinstance(value, dict) and isinstance(value.get("text"), str) else value
    if isinstance(items, dict):
        texts, starts = items.get("text"), items.get("answer_start")
        starts = [None] * len(texts) if isinstance(texts, list) and starts is None else starts
        if isinstance(texts, list) and isinstance(starts, list) and len(texts) == len(starts):
            items = [{"text": text, "answer_start": start} for text, start in zip(texts, starts, strict=True)]
    answers = []
    for item in items if isinstance(items, list) else [None]:
        words, start = (item.get("text"), item.get("answer_start")) if isinstance(item, dict) else (item, None)
        if isinstance(start, str | float) and (integer := parse_integer(str(start))) is not None:
            start = integer
        if not isinstance(words, str) or not isinstance(start, int | None):
            form = '{"text": [...], "answer_start": [...]}'
            raise ValueError(f"{where}: the answers {str(value)[:60]!r} are not {form} as SQuAD has them")
        answers.append((words, start))
    return answers


def _is_impossible(value: Any, where: str) -> bool:
    """The value of SQuAD 2.0's "is_impossible"; none means that the answers decide."""
    spelled = str(value).lower()
    if spelled not in _IMPOSSIBLE:
        raise ValueError(f"{where}: is_impossible is {str(value)[:60]!r}; give true or false")
    return _IMPOSSIBLE[spelled]


class Window(NamedTuple):
    """A sequence [CLS] question [SEP] part of the text [SEP]."""

    example: int  # index of the question
    ids: np.ndarray  # int32 [n]
    type_ids: np.ndarray  # int32 [n]
    first: int  # index of the part's first token
    offsets: np.ndarray  # int32 [m, 2], the characters of the text that each of the part's m tokens stands for


def question_windows(
    tokenizer: Tokenizer, questions: Sequence[str], texts: Sequence[str], row_length: int, overlap: int
) -> Iterator[Window]:
    """The windows of at most row_length tokens over each text; a text without tokens has one, with the question alone.

    A window shares `overlap` tokens of the text with the one before it, at most half of them.
    """
    for example, encoding in enumerate(tokenizer.encode_batch(questions, texts, offsets=True)):
        question, answering = (np.flatnonzero(encoding.sequence == part) for part in (0, 1))
        is_kept = np.ones(len(encoding.ids), bool)
        is_kept[question[min(_QUESTION, row_length // 2) :]] = False
        is_kept[answering] = False
        around = np.flatnonzero(is_kept)
        # An empty text would stand before the last special token.
        first = int(np.searchsorted(around, answering[0])) if len(answering) else len(around) - 1
        room = row_length - len(around)
        if room < 1:
            raise ValueError(f"rows of {row_length} tokens leave no room for a text after a question; make them longer")
        for span in sliding_windows([len(answering)], room, room - min(overlap, room // 2)):
            part = answering[span.start : span.end]
            at = np.concatenate([around[:first], part, around[first:]])
            yield Window(example, encoding.ids[at], encoding.type_ids[at], first, encoding.offsets[part])


def answer_pieces(
    tokenizer: Tokenizer,
    questions: Sequence[str],
    texts: Sequence[str],
    answers: Sequence[tuple[int, int]],
    row_length: int,
    overlap: int,
) -> Pieces:
    """The windows over each text, with labels of SPAN_CLASSES at the first and last token of the answer.

    `answers` are characters [start, end) of each text, or NO_ANSWER. In a window that does not hold the whole answer,
    [CLS] is both. Characters of an answer without a token, such as stripped spaces or marks, need not be in the window.
    """
    ids, types, token_labels = [], [], []
    all_windows = question_windows(tokenizer, questions, texts, row_length, overlap)
    for example, group in groupby(all_windows, lambda window: window.example):
        windows = list(group)
        # The characters that the answer's tokens stand for, in all windows together.
        offsets = np.concatenate([window.offsets for window in windows])
        offsets = offsets[_is_inside(offsets, answers[example])]
        answer = (int(offsets[:, 0].min()), int(offsets[:, 1].max())) if len(offsets) else NO_ANSWER
        for window in windows:
            label = np.full(len(window.ids), -1, np.int32)
            first, last = _answer_tokens(window, answer)
            label[last] = END
            label[first] = BOTH if first == last else START
            ids.append(window.ids)
            types.append(window.type_ids)
            token_labels.append(label)
    return Pieces.of(tokenizer, ids, types, token_labels=token_labels)


def _answer_tokens(window: Window, answer: tuple[int, int]) -> tuple[int, int]:
    """The first and last token of an answer in a window, or those of [CLS]."""
    start, end = answer
    offsets = window.offsets
    if answer == NO_ANSWER or not len(offsets) or offsets[0, 0] > start or offsets[-1, 1] < end:
        return 0, 0
    inside = np.flatnonzero(_is_inside(offsets, answer))
    return window.first + int(inside[0]), window.first + int(inside[-1])


def _is_inside(offsets: np.ndarray, answer: tuple[int, int]) -> np.ndarray:
    """Mark tokens with a character of the answer, bool [n]."""
    return (offsets[:, 1] > answer[0]) & (offsets[:, 0] < answer[1])


SCHEMA = QuestionAnsweringSchema()
