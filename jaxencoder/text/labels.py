"""Labels of examples: classes found in the training data, or numbers to predict."""

import itertools
import math
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

_SHOWN = 20  # classes in a message
_MOST = (2 - 2**-23) * 2.0**127  # of values, which are learned in float32
_APART = re.compile(r"[,\x00-\x1f\x7f-\x9f\u2028\u2029]")  # what a line of names, commas between, cannot hold as it is


class Labels(NamedTuple):
    """What the labels of a data set are.

    kind: "class"; "classes", of which an example has any number; "value"; or "choice", of an example's own. names: of
    the classes, in order of id; empty for values and choices.
    """

    kind: str
    names: tuple[str, ...]

    def encode(self, label: Any, where: str) -> float | tuple[int, ...]:
        """The id of a class, the ids of several in ascending order, or the value itself.

        Raises:
            ValueError: a label that is missing, or that is none of the classes; no list of several, or one that names
                a class twice.
        """
        if self.kind == "value":
            return _value(label, where)
        if self.kind == "classes":
            ids = [self._id(one, where) for one in _listed(label, where)]
            if len(set(ids)) < len(ids):
                raise ValueError(
                    f"{where}: the labels {str(label)[:60]} name a class more than once; list the classes that it has"
                )
            return tuple(sorted(ids))
        return self._id(label, where)

    def described(self) -> str:
        """In words, as a run shows what it has found."""
        if self.kind == "value":
            return "labels are values"
        return (
            f"labels are {'any' if self.kind == 'classes' else 'one'} of {len(self.names)} classes: {self._classes()}"
        )

    def _classes(self) -> str:
        shown = [repr(name) if _APART.search(name) else name for name in self.names[:_SHOWN]]
        return ", ".join(shown) + (", ..." if len(self.names) > _SHOWN else "")

    def _id(self, label: Any, where: str) -> int:
        name = _name(label, where)
        if name in self.names:
            return self.names.index(name)
        if isinstance(label, str) and _is_number(label) and str(int(label)) in self.names:
            return self.names.index(str(int(label)))
        # TFDS and many a Parquet file, and CSV as text, give the number of a class whose name the settings give.
        number = int(label) if _is_whole(label) else whole(label)
        if number is not None and 0 <= number < len(self.names) and not all(map(_is_number, self.names)):
            return number
        raise ValueError(
            f"{where}: label {label!r} is not among the classes {self._classes()}; drop the record or name data.labels"
        )


def infer(labels: Iterable[tuple[Any, str]]) -> Labels:
    """What these labels (each with where it stands) are.

    Strings and whole numbers are classes: strings sorted, numbers in their order. Numbers with a point are values.
    Where every label that is text can be read as a number, as in CSV, they all count as numbers. Lists, which may be
    empty, hold the classes of an example.

    Raises:
        ValueError: a label is missing, strings and numbers or lists and others are mixed, or all lists are empty.
    """
    labels = iter(labels)
    first = next(labels, None)
    several = first is not None and isinstance(first[0], list)
    labels = itertools.chain([first] if first else [], labels)
    if several:
        labels = ((one, where) for label, where in labels for one in _listed(label, where))
    texts: dict[str, str] = {}
    numbers: dict[int, str] = {}
    fractional = False
    for label, where in labels:
        if isinstance(label, float):
            _value(label, where)
            fractional = True
        elif _is_whole(label):
            numbers.setdefault(int(label), where)
        else:
            texts.setdefault(_name(label, where), where)
    counting = numbers or fractional or any(_number(text) is not None for text in texts)
    for text, where in texts.items() if counting else ():
        if _reads_as_number(text) and _number(text) is None:
            raise ValueError(f"{where}: label {text!r} is not a finite number, as other labels are; drop the record")
    word = next((text for text in texts if _number(text) is None), None)
    if word is None:
        fractional |= not all(map(_is_number, texts))
        numbers |= {} if fractional else {int(text): where for text, where in texts.items()}
        if several and (fractional or not numbers):
            raise ValueError(
                f"the lists of labels hold {'fractional numbers' if fractional else 'nothing'}, no classes"
            )
        kind = "classes" if several else "class"
        return Labels("value", ()) if fractional else Labels(kind, tuple(map(str, sorted(numbers))))
    if fractional or numbers:
        raise ValueError(f"{texts[word]}: label {word!r} is text, but other labels are numbers; make them all one kind")
    return Labels("classes" if several else "class", tuple(sorted(texts)))


def _listed(label: Any, where: str) -> list[Any]:
    if not isinstance(label, list):
        raise ValueError(f"{where}: label {repr(label)[:60]} is no list of classes, as others are; give [] for none")
    return label


def _is_whole(label: Any) -> bool:
    return isinstance(label, int)


def whole(text: str) -> int | None:
    """The whole number that a text stands for, or None."""
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
    if _is_whole(label):
        return str(int(label))
    if isinstance(label, str) and label:
        return label
    raise ValueError(f"{where}: label {label!r} is not a class; give text or a whole number, or drop the record")


def _value(label: Any, where: str) -> float:
    try:
        number = _number(label) if isinstance(label, str) else float(label) if isinstance(label, int | float) else None
    except OverflowError:  # of a whole number that is larger than any float
        number = None
    if number is None or not abs(number) <= _MOST:
        raise ValueError(f"{where}: label {repr(label)[:60]} is not a finite number of float32; drop the record")
    return number
