"""Pairs of texts as published sets have them."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from jaxencoder.tasks.records import numbered, with_texts
from jaxencoder.text.schema import TEXTS
from jaxencoder.text.sources import field_names, listed

PAIR_NAMES = (*TEXTS.pair_names, ("text", "pair"))  # the last are those of aligned files


class Fields(NamedTuple):
    """Names of the fields of a record: two texts and their label, such as a score; "" if pairs have none."""

    text: str
    second_text: str
    label: str


def find_fields(
    names: Sequence[str],
    text: str = "",
    pair: str = "",
    label: str = "",
    source: str = "data",
    label_names: Sequence[str] = (),
    pair_names: Sequence[tuple[str, str]] = PAIR_NAMES,
) -> Fields:
    """The fields of a set whose records have these names; empty text, pair or label: a usual name, or ValueError.

    `label_names` are the usual names of the label, none if pairs have no label, and `pair_names` those of the texts.
    Both are in the order in which they are tried.
    """
    a, b = next(((a, b) for a, b in pair_names if a in names and b in names), ("", ""))
    fields = Fields(text or a, pair or b, label or next((name for name in label_names if name in names), ""))
    has = f"{source} has the fields {listed(names)}, and"
    if not fields.text or not fields.second_text:
        raise ValueError(f"{has} no usual pair of texts; name them with --text-field and --pair-field")
    if label_names and not fields.label:
        raise ValueError(f"{has} none of {listed(label_names)}; name the label with --label-field")
    if len(set(fields)) < 3:
        named = listed(list(filter(None, fields)))
        raise ValueError(f"texts and label must be different fields, not {named}; name others")
    return fields


def source_fields(
    sources: Sequence[str],
    *named: str,
    label_names: Sequence[str] = (),
    pair_names: Sequence[tuple[str, str]] = PAIR_NAMES,
) -> Fields:
    """`find_fields` for the records of the first source; `named` are text, pair and label, as far as they are given."""
    names, source = field_names(sources[0]), sources[0]
    return find_fields(names, *named, source=source, label_names=label_names, pair_names=pair_names)


def labeled_pairs(sources: Sequence[str], fields: Fields) -> Iterator[tuple[str, str, str, Any]]:
    """Yield (name for messages, first text, second text, label or None) of the set that the sources hold together.

    ValueError for a record that lacks a field or whose texts are not strings.
    """
    for source in sources:
        for where, record in numbered(source, fields.text, list(filter(None, fields[1:]))):
            second_text = with_texts(record, [fields.second_text], where)[fields.second_text]
            yield where, record[fields.text], second_text, record.get(fields.label)
