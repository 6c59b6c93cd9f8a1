"""Labels of examples: classes of the training data, or numbers to predict."""

import math
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

_SHOWN = 20  # classes in a message
_MAX_VALUE = (2 - 2**-23) * 2.0**127  # the largest float32
_NEEDS_QUOTES = re.compile(r"[,\x00-\x1f\x7f-\x9f\u2028\u2029]")  # ambiguous in a line of names with commas


class Labels(NamedTuple):
    """The kind of a data set's labels, and the names of its classes."""

    kind: str  # "class"; "classes", any number per example; "value"; or "choice", among the example's choices
    names: tuple[str, ...]  # in order of id; empty for values and choices

    def encode(self, label: Any, where: str) -> float | tuple[int, ...]:
        """The id of a class, the ascending ids of several, or the value; ValueError for an invalid label."""
        if self.kind == "value":
            return _value(label, where)
        if self.kind == "classes":
            ids = [self._id(name, where) for name in _as_list(label, where)]
            if len(set(ids)) < len(ids):
                raise ValueError(f"{where}: the labels {str(label)[:60]} name a class more than once; name each once")
            return tuple(sorted(ids))
        return self._id(label, where)

    def describe(self) -> str:
        """A phrase for the output of a run."""
        if self.kind == "value":
            return "labels are values"
        count = "any" if self.kind == "classes" else "one"
        return f"labels are {count} of {len(self.names)} classes: {self._classes()}"

    def _classes(self) -> str:
        shown = [repr(name) if _NEEDS_QUOTES.search(name) else name for name in self.names[:_SHOWN]]
        return ", ".join(shown) + (", ..." if len(self.names) > _SHOWN else "")

    def _id(self, label: Any, where: str) -> int:
        name = _name(label, where)
        number = parse_integer(name)
        for spelling in (name, str(number)) if number is not None else (name,):  # "07" is class 7
            if spelling in self.names:
                return self.names.index(spelling)
        # TFDS, many Parquet files, and CSV as text hold the number of a class that the settings name.
        if number is not None and 0 <= number < len(self.names) and not all(map(_is_number, self.names)):
            return number
        problem = f"{where}: label {label!r} is not among the classes {self._classes()}"
        raise ValueError(f"{problem}; drop the record or name data.labels")


def infer(labels: Iterable[tuple[Any, str]]) -> Labels:
    """The kind and classes of labels, each given with its place for messages.

    Strings and integers are classes: strings sorted, integers in numeric order. Numbers with a point are values. If all
    texts can be read as numbers, as in CSV, they count as numbers. Lists, which may be empty, hold several classes.

    Raises:
        ValueError: a label is missing, kinds are mixed, or all lists are empty.
    """
    kind, fractional = "class", False
    texts: dict[str, str] = {}
    numbers: dict[int, str] = {}
    for i, (label, where) in enumerate(labels):
        if i == 0 and isinstance(label, list):
            kind = "classes"
        for item in _as_list(label, where) if kind == "classes" else (label,):
            if isinstance(item, float):
                _value(item, where)
                fractional = True
            elif isinstance(item, int):
                numbers.setdefault(int(item), where)
            else:
                texts.setdefault(_name(item, where), where)
    has_numbers = numbers or fractional or any(_number(text) is not None for text in texts)
    for text, where in texts.items() if has_numbers else ():
        if _reads_as_number(text) and _number(text) is None:
            raise ValueError(f"{where}: label {text!r} is not a finite number like the other labels; drop the record")
    word = next((text for text in texts if _number(text) is None), None)
    if word is None:
        fractional |= not all(map(_is_number, texts))
        numbers |= {} if fractional else {int(text): where for text, where in texts.items()}
        if kind == "classes" and (fractional or not numbers):
            content = "fractional numbers" if fractional else "nothing"
            raise ValueError(f"the lists of labels hold {content}, no classes")
        return Labels("value", ()) if fractional else Labels(kind, tuple(map(str, sorted(numbers))))
    if fractional or numbers:
        raise ValueError(f"{texts[word]}: label {word!r} is text, but other labels are numbers; make them all one kind")
    return Labels(kind, tuple(sorted(texts)))


def _as_list(label: Any, where: str) -> list[Any]:
    if not isinstance(label, list):
        problem = f"label {repr(label)[:60]} is not a list of classes like the other labels"
        raise ValueError(f"{where}: {problem}; give [] for none")
    return label


def parse_integer(text: str) -> int | None:
    """The integer that a text stands for, or None."""
    return int(text) if _is_number(text) else None


def _is_number(name: str) -> bool:
    return name.removeprefix("-").isdecimal()


def _reads_as_number(text: str) -> bool:
    """Whether a text stands for a number, NaN and infinity among them; 1_2 is a name."""
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text


def _number(text: str) -> float | None:
    """The finite number that a text stands for, or None."""
    return float(text) if _reads_as_number(text) and math.isfinite(float(text)) else None


def _name(label: Any, where: str) -> str:
    if isinstance(label, int):
        return str(int(label))
    if isinstance(label, str) and label:
        return label
    raise ValueError(f"{where}: label {label!r} is not a class; give text or a whole number, or drop the record")


def _value(label: Any, where: str) -> float:
    try:
        number = _number(label) if isinstance(label, str) else float(label) if isinstance(label, int | float) else None
    except OverflowError:  # an integer larger than any float
        number = None
    if number is None or not abs(number) <= _MAX_VALUE:
        raise ValueError(f"{where}: label {repr(label)[:60]} is not a finite number of float32; drop the record")
    return number
