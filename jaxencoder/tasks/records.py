"""Records of which a task reads some fields: what they must hold is there."""

from collections.abc import Sequence

from jaxencoder.text.sources import Record, closest, listed


def with_texts(record: Record, names: Sequence[str], where: str) -> Record:
    """The record, if each field of these names holds a text; an empty name is none.

    Raises:
        ValueError: it does not; names the record by `where`.
    """
    for name in filter(None, names):
        _refuse(record, name, where, isinstance(record.get(name), str), "text")
    return record


def with_words(record: Record, name: str, where: str) -> Record:
    """The record, if the field holds a text or a list of words; raises as `with_texts`."""
    value = record.get(name)
    fine = isinstance(value, str) or (isinstance(value, list | tuple) and all(isinstance(word, str) for word in value))
    _refuse(record, name, where, fine, "text or a list of words")
    return record


def _refuse(record: Record, name: str, where: str, fine: bool, kind: str) -> None:
    if name not in record:
        near = closest(name, record) or "; give its name as text_field or pair_field"
        raise ValueError(f"{where}: no field {name!r} among {listed(record)}{near}")
    if not fine:
        found = type(record[name]).__name__
        raise ValueError(f"{where}: field {name!r} is {found}, not {kind}; name another field or drop the record")
