"""Labels of examples: classes found in the training data, or numbers to predict."""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple


class Labels(NamedTuple):
    """What the labels of a data set are.

    kind: "class" or "value". names: of the classes, in order of id; empty for values.
    """

    kind: str
    names: tuple[str, ...]

    def encode(self, label: Any, where: str) -> float:
        """The id of a class, or the value itself.

        Raises:
            ValueError: a label that is missing, or that is none of the classes.
        """
        if self.kind == "value":
            return _value(label, where)
        name = _name(label, where)
        if name in self.names:
            return self.names.index(name)
        # TFDS and many a Parquet file give the number of a class whose name the settings give.
        if _is_whole(label) and 0 <= label < len(self.names) and not all(map(_is_number, self.names)):
            return int(label)
        known = ", ".join(self.names[:20]) + (", ..." if len(self.names) > 20 else "")
        raise ValueError(
            f"{where}: label {label!r} is not among the classes {known}; drop the record or name data.labels"
        )


def infer(labels: Iterable[tuple[Any, str]]) -> Labels:
    """What these labels (each with where it stands) are.

    Strings and whole numbers are classes: strings sorted, numbers in their order. Fractional numbers are values.

    Raises:
        ValueError: a label is missing, or strings and numbers are mixed.
    """
    seen: dict[Any, str] = {}
    fractional = False
    for label, where in labels:
        if isinstance(label, float):
            _value(label, where)
            fractional = True
        elif _is_whole(label):
            seen.setdefault(int(label), where)
        else:
            seen.setdefault(_name(label, where), where)
    text = next((name for name in seen if isinstance(name, str)), None)
    number = next((name for name in seen if not isinstance(name, str)), None)
    if text is not None and (fractional or number is not None):
        raise ValueError(f"{seen[text]}: label {text!r} is text, but other labels are numbers; make them all one kind")
    return Labels("value", ()) if fractional else Labels("class", tuple(map(str, sorted(seen))))


def _is_whole(label: Any) -> bool:
    return isinstance(label, int)


def _is_number(name: str) -> bool:
    return name.lstrip("-").isdigit()


def _name(label: Any, where: str) -> str:
    if _is_whole(label):
        return str(int(label))
    if isinstance(label, str) and label:
        return label
    raise ValueError(f"{where}: label {label!r} is not a class; give text or a whole number, or drop the record")


def _value(label: Any, where: str) -> float:
    if not isinstance(label, int | float) or not math.isfinite(label):
        raise ValueError(f"{where}: label {label!r} is not a finite number; drop the record")
    return float(label)
