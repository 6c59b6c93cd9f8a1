"""Records to labelled examples: which fields count, what their labels mean, and which records are held out."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from jaxencoder.text import labels as label_kinds
from jaxencoder.text.config import ALIGNED, DataConfig
from jaxencoder.text.held_out import is_held_out, text_digest
from jaxencoder.text.labels import Labels
from jaxencoder.text.sources import read

# The classes of tokens by which the span that answers is marked; one token may be both ends of it.
SPAN_CLASSES = ("start", "end", "both")
NO_ANSWER = (-1, -1)


class Example(NamedTuple):
    """A document of a data set.

    Attributes:
        texts: first and second text, the second empty where there is none; or a list of words and ""; or a text and a
            list of choices.
        label: id of a class, ids of several, or a value; number of the right choice; ids of a class for each word; or
            where the answer begins and ends in the second text, in characters, NO_ANSWER for none. 0 without labels.
        digest: 64 bits of the texts.
    """

    texts: tuple[Any, Any]
    label: Any
    digest: int


def examples(
    data: DataConfig, source: str, pair_field: str, kinds: Labels | None, split: str, share: float
) -> Iterator[Example]:
    """The examples of one source.

    Args:
        pair_field: of this source; empty for single texts.
        kinds: what the labels are; None without labels.
        split: "train" or "validation".
        share: of the examples that are held out, chosen by a hash of the texts; 0 takes all, whatever the split.

    Raises:
        ValueError: a text or a label is not as it must be; names the record.
        OSError: the source cannot be read.
    """
    for number, record in enumerate(_records(data, source, pair_field), 1):
        where = f"{source}, record {number}"
        text = record[data.text_field]
        pair = record[pair_field] if pair_field else ""
        if data.label_unit == "choice":
            choices_of(pair, where)
        elif not isinstance(pair, str):
            raise ValueError(
                f"{where}: field {pair_field!r} is {type(pair).__name__}, not text; "
                "name another field or drop the record"
            )
        digest = text_digest(text, str(pair))
        if share and (split == "validation") != is_held_out(digest, share):
            continue
        label: Any = 0
        if data.label_unit == "span":
            label = answer(record[data.label_field], pair, where)
        elif data.label_unit == "choice":
            label = right_choice(record[data.label_field], pair, where)
        elif data.label_unit == "word":
            label = [kinds.encode(tag, where) for tag in tags(record[data.label_field], text, where)]
        elif kinds:
            label = kinds.encode(record[data.label_field], where)
        # The lowest bit has no part in what is held out.
        swapped = source.startswith(ALIGNED) and digest & 1
        yield Example((pair, text) if swapped else (text, pair), label, digest)


def find_labels(data: DataConfig) -> Labels | None:
    """The classes that the settings name, or those of the training data, for both splits alike; None without labels.

    Raises:
        ValueError: a label is missing, or they are of different kinds, or values where each word has one.
    """
    if not data.label_field:
        return None
    if data.label_unit == "span":
        return Labels("class", SPAN_CLASSES)
    if data.label_unit == "choice":
        return Labels("choice", ())
    if data.labels:
        first = next(_records(data, data.train[0], data.pair_field))[data.label_field]
        several = data.label_unit == "text" and isinstance(first, list)
        return Labels("classes" if several else "class", data.labels)
    share = 0.0 if data.validation else data.validation_fraction

    def trained() -> Iterator[tuple[Any, str]]:
        for source in data.train:
            for number, record in enumerate(_records(data, source, data.pair_field), 1):
                where = f"{source}, record {number}"
                text = record[data.text_field]
                pair = str(record[data.pair_field]) if data.pair_field else ""
                if share and is_held_out(text_digest(text, pair), share):
                    continue
                if data.label_unit == "word":
                    yield from ((tag, where) for tag in tags(record[data.label_field], text, where))
                else:
                    yield record[data.label_field], where

    found = label_kinds.infer(trained())
    if data.label_unit == "word" and found.kind != "class":
        what = "fractional numbers" if found.kind == "value" else "lists"
        raise ValueError(f"the tags in field {data.label_field!r} are {what}; give text or whole numbers")
    return found


def tags(value: Any, words: Sequence[str], where: str) -> list[Any]:
    """The tags of some words; ValueError if they are no list of as many."""
    if not isinstance(value, list):
        raise ValueError(f"{where}: the tags are {type(value).__name__}, not a list; name another data.label_field")
    if len(value) != len(words):
        raise ValueError(f"{where}: {len(words)} words, but {len(value)} tags; give each word one, or drop the record")
    return value


def choices_of(value: Any, where: str) -> list[str]:
    """The choices of a record; ValueError if they are no list of two texts or more."""
    if not isinstance(value, list) or not all(isinstance(choice, str) for choice in value):
        raise ValueError(f"{where}: the choices {str(value)[:60]!r} are no list of texts; name another data.pair_field")
    if len(value) < 2:
        raise ValueError(f"{where}: there is nothing to choose among {value}; give two choices or more, or drop it")
    return value


def right_choice(label: Any, choices: Sequence[str], where: str) -> int:
    """The number from 0 of the right choice.

    Args:
        label: that number, the choice's text, its letter (A is the first), or the number as text, the first of these
            that it can be.

    Raises:
        ValueError: it is none of them.
    """
    if isinstance(label, str) and choices.count(label) == 1:
        return choices.index(label)
    number = label
    if isinstance(label, str):
        letter = label.strip().upper()
        number = ord(letter) - ord("A") if len(letter) == 1 and "A" <= letter <= "Z" else label_kinds.whole(letter)
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < len(choices):
        raise ValueError(
            f"{where}: label {str(label)[:60]!r} is none of the {len(choices)} choices; give its number from 0, its "
            "letter or its text"
        )
    return number


def answers(value: Any, where: str) -> list[str]:
    """The texts of a record's answers, as SQuAD has them; ValueError for another shape."""
    texts = value.get("text") if isinstance(value, dict) else None
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f'{where}: the answers {str(value)[:60]!r} are not {{"text": [...]}} as SQuAD has them')
    return texts


def answer(value: Any, text: str, where: str) -> tuple[int, int]:
    """Where the first answer of a record stands in its text: the characters [start, end), or NO_ANSWER.

    Args:
        value: {"text": [...], "answer_start": [...]} as in SQuAD, the lists or the text empty where there is none; what
            stands only nearby, as in some sets, is found there.

    Raises:
        ValueError: another shape, or an answer that is not in the text.
    """
    try:
        texts, starts = value["text"], value["answer_start"]
        fine = isinstance(texts, list) and isinstance(starts, list)
        if fine and (not texts or texts[0] == ""):
            return NO_ANSWER
        words, start = texts[0], int(starts[0])
        fine = fine and isinstance(words, str)
    except (TypeError, KeyError, IndexError, ValueError, OverflowError):
        fine = False
    if not fine:
        raise ValueError(
            f'{where}: the answer {str(value)[:60]!r} is not {{"text": [...], "answer_start": [...]}} as SQuAD has it'
        )
    there = start >= 0 and text.startswith(words, start)
    places = [start] if there else [i for i in range(len(text)) if text.startswith(words, i)]
    if not places:
        raise ValueError(f"{where}: the answer {words[:60]!r} is not in the text; correct or drop the record")
    start = min(places, key=lambda place: abs(place - start))
    return start, start + len(words)


def _records(data: DataConfig, source: str, pair_field: str) -> Iterator[dict]:
    fields = [name for name in (pair_field, data.label_field) if name]
    words = data.label_unit == "word"
    return read(source, text_field=data.text_field, fields=fields, text_unit=data.text_unit, words=words)
