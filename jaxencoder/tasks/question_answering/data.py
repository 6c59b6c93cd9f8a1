"""A question and a text that may answer it, as pieces that overlap where the text is longer than a row.

Devlin et al. 2019 (BERT), arXiv:1810.04805, section 4.2, and its code's run_squad.py for long texts.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np

from jaxencoder.text.examples import NO_ANSWER, SPAN_CLASSES
from jaxencoder.text.pieces import Pieces, counts
from jaxencoder.text.tokenizer import Tokenizer
from jaxencoder.text.windows import cut

_QUESTION = 64  # tokens of a question that are read, and at most half a row
_START, _END, _BOTH = range(len(SPAN_CLASSES))


class Window(NamedTuple):
    """A piece [CLS] question [SEP] part of the text [SEP].

    Attributes:
        example: number of the question.
        ids, type_ids: int32 [n].
        first: where the part of the text begins among the tokens.
        offsets: int32 [m, 2], the characters of the text that each of its m tokens stands for.
    """

    example: int
    ids: np.ndarray
    type_ids: np.ndarray
    first: int
    offsets: np.ndarray


def windows(
    tokenizer: Tokenizer, questions: Sequence[str], texts: Sequence[str], row_length: int, overlap: int
) -> Iterator[Window]:
    """The windows over each text, in order; a text without tokens has one, of the question alone.

    Args:
        row_length: tokens of a window at most.
        overlap: of the text's tokens that a window has in common with the one before it; at most half of them.

    Raises:
        ValueError: no room for a text in rows so short, or a text is not valid Unicode.
    """
    encoded = tokenizer.encode_batch(questions, texts, offsets=True)
    for number, encoding in enumerate(encoded):
        asked, answering = (np.flatnonzero(encoding.sequence == part) for part in (0, 1))
        kept = np.ones(len(encoding.ids), bool)
        kept[asked[min(_QUESTION, row_length // 2) :]] = False
        kept[answering] = False
        around = np.flatnonzero(kept)
        # Of an empty text, its place: behind all but the last special token.
        place = int(np.searchsorted(around, answering[0])) if len(answering) else len(around) - 1
        room = row_length - len(around)
        if room < 1:
            raise ValueError(f"rows of {row_length} tokens leave no room for a text after a question; make them longer")
        for span in cut([len(answering)], room, room - min(overlap, room // 2)):
            part = answering[span.start : span.end]
            chosen = np.concatenate([around[:place], part, around[place:]])
            yield Window(number, encoding.ids[chosen], encoding.type_ids[chosen], place, encoding.offsets[part])


def spans(
    tokenizer: Tokenizer,
    questions: list[str],
    texts: list[str],
    answers: list[tuple[int, int]],
    row_length: int,
    overlap: int,
) -> Pieces:
    """The windows over each text, with the tokens labelled at which the answer begins and ends.

    The classes are those of SPAN_CLASSES. A window that does not hold the whole answer has [CLS] for both ends. What of
    an answer has no token, such as a space or a mark that the tokenizer strips, no window needs to hold.

    Args:
        answers: characters [start, end) of each text, or NO_ANSWER.
    """
    ids, types, labels, lengths = [], [], [], []
    every = windows(tokenizer, questions, texts, row_length, overlap)
    for example, found in groupby(every, lambda window: window.example):
        over = list(found)
        answer = _with_tokens(over, answers[example])
        for window in over:
            label = np.full(len(window.ids), -1, np.int32)
            first, last = _tokens_of(window, answer)
            label[last] = _END
            label[first] = _BOTH if first == last else _START
            ids.append(window.ids)
            types.append(window.type_ids)
            labels.append(label)
            lengths.append(len(label))
    flat = np.concatenate(ids).astype(np.uint32)
    type_ids, token_labels = np.concatenate(types).astype(np.uint8), np.concatenate(labels)
    return Pieces(flat, np.array(lengths, np.int64), type_ids, counts(flat, tokenizer), None, token_labels)


def _with_tokens(over: Sequence[Window], answer: tuple[int, int]) -> tuple[int, int]:
    """The characters that the tokens of an answer stand for, of all windows over a text; NO_ANSWER if it has none."""
    offsets = np.concatenate([window.offsets for window in over])
    inside = offsets[_within(offsets, answer)]
    return (int(inside[:, 0].min()), int(inside[:, 1].max())) if len(inside) else NO_ANSWER


def _tokens_of(window: Window, answer: tuple[int, int]) -> tuple[int, int]:
    """The first and the last token of an answer in a window, or those of [CLS]."""
    start, end = answer
    offsets = window.offsets
    if answer == NO_ANSWER or not len(offsets) or offsets[0, 0] > start or offsets[-1, 1] < end:
        return 0, 0
    inside = np.flatnonzero(_within(offsets, answer))
    return window.first + int(inside[0]), window.first + int(inside[-1])


def _within(offsets: np.ndarray, answer: tuple[int, int]) -> np.ndarray:
    """Which tokens, bool [n], have a character of an answer."""
    return (offsets[:, 1] > answer[0]) & (offsets[:, 0] < answer[1])
