"""Texts with a class each, as published sets have them."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxencoder.tasks.records import numbered
from jaxencoder.text.messages import listed
from jaxencoder.text.schema import TEXTS
from jaxencoder.text.sources import field_names

_TEXT_NAMES = (*TEXTS.text_names, "sentences")  # the last is MTEB's


class Fields(NamedTuple):
    """Names of the fields of a record."""

    text: str
    label: str


def find_fields(sources: Sequence[str], text: str = "", label: str = "") -> Fields:
    """The fields of a set, by the first record of its first source; empty: a usual name, or ValueError."""
    names = field_names(sources[0])
    text = text or next((name for name in _TEXT_NAMES if name in names), "")
    label = label or next((name for name in TEXTS.label_names if name in names and name != text), "")
    has = f"{sources[0]} has the fields {listed(names)}, and"
    if not text:
        raise ValueError(f"{has} none of {listed(_TEXT_NAMES)}; name the text with --text-field")
    if not label:
        raise ValueError(f"{has} none of {listed(TEXTS.label_names)}; name the label with --label-field")
    return Fields(text, label)


def labeled_texts(
    sources: Sequence[str], fields: Fields, allows_lists: bool = False
) -> tuple[list[Any], list[Any], list[str]]:
    """The texts and labels of the set that the sources hold together, and the name of each record for messages.

    A text may also be a list of texts with `allows_lists`. ValueError for a record that lacks a field, or whose text is
    something else.
    """
    texts, labels, places = [], [], []
    for source in sources:
        for where, record in numbered(source, fields.text, [fields.label], words=None if allows_lists else False):
            texts.append(record[fields.text])
            labels.append(record[fields.label])
            places.append(where)
    return texts, labels, places


def check_class(label: Any, where: str) -> str | int:
    """The class of a text; ValueError unless it is text or a whole number."""
    if not isinstance(label, str | int) or label == "":
        raise ValueError(f"{where}: label {repr(label)[:60]} is not a class; give text or a whole number")
    return label


def class_ids(labels: Sequence[str | int]) -> tuple[list[str | int], np.ndarray]:
    """The C classes in ascending order, numbers before texts, and each label's index among them, int [N]."""
    classes = sorted(set(labels), key=lambda label: (isinstance(label, str), label))
    numbers = {label: i for i, label in enumerate(classes)}
    return classes, np.array([numbers[label] for label in labels])
