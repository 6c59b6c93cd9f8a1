"""Labels of examples: classes of the training data, or numbers to predict."""

import logging
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

log = logging.getLogger(__name__)

_SHOWN = 20  # classes in a message
_MAX_VALUE = (2 - 2**-23) * 2.0**127  # the largest float32
_NEEDS_QUOTES = re.compile(r"[,\x00-\x1f\x7f-\x9f\u2028\u2029]")  # ambiguous in a line of names with commas
_WHOLE = re.compile(r"(?P<integer>[+-]?\d+)(\.0*)?")
# Marks of examples without a label, unless a class has that name: of SNLI, PyTorch's losses, and pandas.
MARKS = ("-1", "-100", "-", "nan", "NaN", "<NA>")


@dataclass(frozen=True)
class Labels:
    """The kind of a data set's labels, and the names of its classes."""

    kind: str  # "class"; "classes", any number per example; "value"; or "choice", among the example's choices
    names: tuple[str, ...]  # in order of id; empty for values and choices
    indicators: bool = False  # a list holds 1 or 0 for each class, and not classes

    @cached_property
    def _class_ids(self) -> "_ClassIds":
        return _ClassIds(self.names)

    def encode(self, label: Any, where: str) -> float | tuple[int, ...] | None:
        """The id of a class, the ascending ids of several, or the value; None for one of MARKS that is no class.

        A class is matched by its name, by its number if it has one ("07" is class 7), by its name in another case, or
        else by its id. ValueError for an invalid label.
        """
        if self.kind == "value":
            return encode_value(label, where)
        if self.kind == "class":
            return self._id(label, where)
        if self.indicators:
            return _true(_as_list(label, where), len(self.names), where)
        ids = [self._id(name, where) for name in _as_list(label, where)]
        named = [i for i in ids if i is not None]
        if len(named) < len(ids):
            raise ValueError(f"{where}: the labels {str(label)[:60]} hold a mark of no class; give [] for none")
        if len(set(named)) < len(named):
            raise ValueError(f"{where}: the labels {str(label)[:60]} name a class more than once; name each once")
        return tuple(sorted(named))

    def describe(self) -> str:
        """A phrase for the output of a run."""
        if self.kind == "value":
            return "labels are values"
        count = "any" if self.kind == "classes" else "one"
        return f"labels are {count} of {len(self.names)} classes: {self._classes()}"

    def are_ids(self, label: Any) -> bool:
        """Whether a valid label is a number that is no class's name, so that it is taken as an id."""
        items = label if isinstance(label, list) else [label]
        if self.kind == "value" or self.indicators or _is_indicators(items, len(self.names)):
            return False
        ids = self._class_ids
        return any(ids.named(item) is None and ids.numbered(item) is not None for item in items)

    def _classes(self) -> str:
        shown = [repr(name) if _NEEDS_QUOTES.search(name) else name for name in self.names[:_SHOWN]]
        return ", ".join(shown) + (", ..." if len(self.names) > _SHOWN else "")

    def _id(self, label: Any, where: str) -> int | None:
        if isinstance(label, list) and len(true := _true(label, len(self.names), where)) == 1:
            return true[0]
        name, ids = _name(label, where), self._class_ids
        index = ids.named(label)
        # TFDS, many Parquet files, and CSV as text hold the number of a class that the settings name.
        index = ids.numbered(label) if index is None else index
        if index is None and name not in MARKS:
            problem = f"{where}: label {label!r} is not among the classes {self._classes()}"
            raise ValueError(f"{problem}; drop the record or name data.labels")
        return index


class _ClassIds:
    """The ids of classes by all that may stand for them; None for what fits several."""

    def __init__(self, names: Sequence[str]):
        numbers = [parse_integer(name) for name in names]
        self._count, self._are_numbers = len(names), None not in numbers
        self._by_name = {name: i for i, name in reversed(list(enumerate(names)))}
        self._by_number = _unique_ids(numbers)
        self._by_case = _unique_ids([name.strip().casefold() for name in names])

    def named(self, label: Any) -> int | None:
        """The id of the class that a label names, or None."""
        if isinstance(label, bool) and (index := self._match(str(label))) is not None:
            return index
        return self._match(_name(label, ""))

    def numbered(self, label: Any) -> int | None:
        """The id that a label is, if names of classes do not decide; None for other labels."""
        number = parse_integer(_name(label, ""))
        return number if number is not None and not self._are_numbers and 0 <= number < self._count else None

    def _match(self, text: str) -> int | None:
        if (index := self._by_name.get(text)) is not None:
            return index
        if (number := parse_integer(text)) is not None and number in self._by_number:
            return self._by_number[number]
        return self._by_case.get(text.casefold())


def _unique_ids(keys: Sequence[Any]) -> dict[Any, int | None]:
    """The id of each key, None if several classes have it."""
    ids: dict[Any, int | None] = {}
    for i, key in enumerate(keys):
        ids[key] = None if key in ids else i
    return ids


def infer(labels: Iterable[tuple[Any, str]], marks: Sequence[str] = MARKS) -> Labels:
    """The kind and classes of labels, each given with its place for messages.

    Text and whole numbers are classes: text sorted, numbers in numeric order; 1.0 is a whole number, as in
    scikit-learn. Numbers with a fraction are values. If all texts can be read as numbers, as in CSV, they count as
    numbers; integers such as 01 and +1 keep their spelling. Lists, which may be empty, hold several classes, or if all
    are equally long, 0 or 1 for each class. `marks` are no classes: words among words, "-" unless there is "+", and
    -1 and -100 unless other numbers are below 0.

    Raises:
        ValueError: a label is missing, kinds are mixed, -1 may be a class or a mark, or no label is a class.
    """
    seen = _Seen()
    for i, (label, where) in enumerate(labels):
        if i == 0 and isinstance(label, list):
            seen.has_lists = True
        if seen.has_lists:
            seen.add_list(_as_list(label, where), where)
        else:
            seen.add(label, where)
    kind = "classes" if seen.has_lists else "class"
    if seen.list_size:
        return Labels(kind, tuple(map(str, range(seen.list_size))), indicators=True)
    numeric = {text: where for text, where in seen.texts.items() if _number(text) is not None}
    words = {text: where for text, where in seen.texts.items() if text not in numeric}
    if numeric or seen.numbers or seen.fractional:
        for text, where in words.items():
            if _reads_as_number(text):
                raise ValueError(
                    f"{where}: label {text!r} is not a finite number like the other labels; drop the record"
                )
    classes = {text: where for text, where in words.items() if text not in marks or (text == "-" and "+" in words)}
    if not classes:
        return _infer_numbers(seen, numeric, kind, marks)
    if seen.fractional or not {str(number) for number in seen.numbers} <= set(marks):
        word, where = next(iter(classes.items()))
        raise ValueError(f"{where}: label {word!r} is text, but other labels are numbers; make them all one kind")
    names = sorted([*classes, *(text for text in numeric if text not in marks)])
    if all(_number(name.replace(",", ".")) is not None for name in names):
        word = next(iter(classes))
        raise ValueError(f"{classes[word]}: label {word!r} has a decimal comma; write {word.replace(',', '.')}")
    _warn_of_case(names)
    return Labels(kind, tuple(names))


def are_indicators(labels: Iterable[Any], size: int) -> bool:
    """Whether all labels are lists of `size` numbers, at least two, that are 0 or 1."""
    return all(_is_indicators(label, size) for label in labels)


@dataclass
class _Seen:
    """Labels seen so far, each with the place of its first occurrence."""

    texts: dict[str, str] = field(default_factory=dict)
    numbers: dict[int, str] = field(default_factory=dict)
    fractional: bool = False
    whole_float: float | None = None  # one of them
    has_lists: bool = False
    list_size: int | None = None  # of all lists, if they hold 0 or 1 for each class; 0 once one does not

    def add(self, label: Any, where: str) -> None:
        if isinstance(label, float) and parse_integer(str(encode_value(label, where))) is None:
            self.fractional = True
        elif isinstance(label, int | float):
            self.numbers.setdefault(int(label), where)
            if isinstance(label, float):
                self.whole_float = label
        else:
            self.texts.setdefault(_name(label, where), where)

    def add_list(self, label: list[Any], where: str) -> None:
        size = len(label) if self.list_size is None else self.list_size
        self.list_size = size if _is_indicators(label, size) else 0
        for item in label:
            self.add(item, where)


def _infer_numbers(seen: _Seen, numeric: dict[str, str], kind: str, marks: Sequence[str]) -> Labels:
    """The labels if no text is a class: `numeric` holds the texts that are numbers."""
    integers = {text: number for text in numeric if (number := parse_integer(text)) is not None}
    if seen.fractional or len(integers) < len(numeric):
        if kind == "classes":
            raise ValueError("the lists of labels hold fractional numbers, no classes")
        return Labels("value", ())
    names: dict[int, str] = {number: str(number) for number in seen.numbers}
    for text, number in integers.items():
        spelled = str(number) if "." in text else text
        if names.setdefault(number, spelled) != spelled:
            both = f"{names[number]!r} and {spelled!r}"
            raise ValueError(f"{numeric[text]}: labels {both} are one number; spell them alike or name data.labels")
    for number in _marked(set(names), marks):
        del names[number]
    if not names and (seen.texts or seen.numbers or seen.has_lists):
        content = (
            "no label is a class" if seen.texts or seen.numbers else "the lists of labels hold nothing, no classes"
        )
        raise ValueError(f"{content}; name another data.label_field")
    decimal = next((text for text in integers if "." in text), seen.whole_float)
    if decimal is not None and kind == "class":
        advice = "if they are values to predict, set objective.labels to 1"
        log.warning("Labels such as %s are taken as classes; %s.", decimal, advice)
    return Labels(kind, tuple(names[number] for number in sorted(names)))


def _marked(numbers: set[int], marks: Sequence[str]) -> set[int]:
    """The numbers that mark examples without a label; ValueError if -1 may as well be a class."""
    marked = {number for number in numbers if str(number) in marks}
    unmarked = numbers - marked
    if not unmarked:
        return marked
    if min(unmarked) < 0 or numbers == {-1, 1}:
        return marked - {-1}
    if -1 in marked and unmarked != set(range(max(len(unmarked), 3))):
        shown = ", ".join(map(str, sorted(numbers)[:_SHOWN]))
        raise ValueError(
            f"the labels are {shown}, of which -1 may be a class or mark examples without a label; name the classes in "
            "data.labels, with or without it"
        )
    return marked


def _warn_of_case(names: Sequence[str]) -> None:
    folded: dict[str, str] = {}
    for name in names:
        if (other := folded.setdefault(name.casefold(), name)) != name:
            log.warning("The labels %r and %r differ only in case; they count as two classes.", other, name)


def _as_list(label: Any, where: str) -> list[Any]:
    if not isinstance(label, list):
        problem = f"label {repr(label)[:60]} is not a list of classes like the other labels"
        raise ValueError(f"{where}: {problem}; give [] for none")
    return label


def _is_indicators(label: Any, size: int) -> bool:
    """Whether a label is a list of 0 or 1 for each of `size` classes."""
    is_list = isinstance(label, list) and len(label) == size > 1
    return is_list and all(isinstance(item, int | float) and item in (0, 1) for item in label)


def _true(label: list[Any], size: int, where: str) -> tuple[int, ...]:
    """The classes that are 1 in a list of 0 or 1 for each; ValueError for another list."""
    if not _is_indicators(label, size):
        problem = f"label {str(label)[:60]} does not hold 0 or 1 for each of the {size} classes"
        raise ValueError(f"{where}: {problem}; correct or drop the record")
    return tuple(i for i, item in enumerate(label) if item)


def parse_integer(text: str) -> int | None:
    """The whole number that a text stands for, also as 1.0, or None."""
    match = _WHOLE.fullmatch(text)
    return int(match["integer"]) if match else None


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
    """A class as text without spaces around it, a whole number in digits."""
    if isinstance(label, str) and (text := label.strip()):
        return text
    if isinstance(label, int):
        return str(int(label))
    if isinstance(label, float) and (number := parse_integer(str(label))) is not None:
        return str(number)
    raise ValueError(f"{where}: label {label!r} is not a class; give text or a whole number, or drop the record")


def encode_value(label: Any, where: str) -> float:
    """A number, which text may spell; ValueError for others than the finite ones of float32."""
    try:
        number = _number(label) if isinstance(label, str) else float(label) if isinstance(label, int | float) else None
    except OverflowError:  # an integer larger than any float
        number = None
    if number is None or not abs(number) <= _MAX_VALUE:
        raise ValueError(f"{where}: label {repr(label)[:60]} is not a finite number of float32; drop the record")
    return number
