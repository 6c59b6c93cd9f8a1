"""Frozen dataclasses as JSON and back, by cattrs, with every mistake as one sentence that names the setting."""

import dataclasses
import json
from typing import Any, Literal, TypeVar, get_args, get_origin

import cattrs
from cattrs.gen import make_dict_structure_fn
from cattrs.strategies import configure_tagged_union

from jaxencoder.overrides import closest

T = TypeVar("T")


def to_json(value: Any, union: Any) -> str:
    """A dataclass as indented JSON; a member of the union of dataclasses says which it is under "type"."""
    return json.dumps(_converter(union).unstructure(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def from_json(text: str, kind: type[T], union: Any, where: str) -> T:
    """Read what `to_json` wrote of a `kind`; settings that are not named take their defaults.

    Raises:
        ValueError: not JSON, or a setting is unknown, of the wrong type, or refused by its section; names `where`.
    """
    try:
        return _converter(union).structure(json.loads(text), kind)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where} is not JSON: {error}") from None
    except (ValueError, cattrs.BaseValidationError) as error:
        raise ValueError(f"{where}: {_explain(error)}") from None


def _converter(union: Any) -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True)
    for kind, accepted in ((bool, bool), (int, int), (float, int | float), (str, str)):
        converter.register_structure_hook(kind, _strict(kind, accepted))
    converter.register_structure_hook_func(lambda kind: get_origin(kind) is Literal, _structure_choice)
    converter.register_structure_hook_func(
        lambda kind: get_origin(kind) is tuple, lambda value, kind: _structure_tuple(converter, value, kind)
    )
    converter.register_structure_hook_factory(dataclasses.is_dataclass, _section_hook)
    configure_tagged_union(union, converter, tag_name="type")
    tagged = converter.get_structure_hook(union)
    converter.register_structure_hook(union, lambda value, kind: tagged(_tagged(value, union), kind))
    return converter


def _section_hook(kind: type, converter: cattrs.Converter) -> Any:
    structure = make_dict_structure_fn(kind, converter, _cattrs_forbid_extra_keys=True)

    def checked(value: Any, _: Any) -> Any:
        if not isinstance(value, dict):
            raise ValueError(f"is {value!r}; give an object of settings")
        return structure(value, kind)

    return checked


def _tagged(value: Any, union: Any) -> dict[str, Any]:
    names = [kind.__name__ for kind in get_args(union)]
    if not isinstance(value, dict) or value.get("type") not in names:
        raise ValueError(f"is {value!r}; give an object of settings whose type is one of {', '.join(names)}")
    return value


def _strict(kind: type, accepted: Any) -> Any:
    def structure(value: Any, _: Any) -> Any:
        if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
            raise ValueError(f"is {value!r}; give a value of type {kind.__name__}")
        return kind(value)

    return structure


def _structure_choice(value: Any, kind: Any) -> Any:
    if value not in get_args(kind):
        raise ValueError(f"is {value!r}; give one of {', '.join(map(str, get_args(kind)))}")
    return value


def _structure_tuple(converter: cattrs.Converter, value: Any, kind: Any) -> tuple:
    if not isinstance(value, list | tuple):
        raise ValueError(f"is {value!r}; give a list")
    kinds = get_args(kind)
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        kinds = (kinds[0],) * len(value)
    if len(kinds) != len(value):
        raise ValueError(f"is {value!r}; give a list of {len(kinds)}")
    return tuple(
        _structure_item(converter, item, part, number)
        for number, (item, part) in enumerate(zip(value, kinds, strict=True))
    )


def _structure_item(converter: cattrs.Converter, item: Any, kind: Any, number: int) -> Any:
    try:
        return converter.structure(item, kind)
    except (ValueError, cattrs.BaseValidationError) as error:
        error.add_note(cattrs.AttributeValidationNote(f"item {number}", str(number), kind))
        raise cattrs.IterableValidationError(f"while reading item {number}", [error], kind) from None


def _explain(error: BaseException, path: str = "") -> str:
    """The first sentence inside cattrs' nested group of errors."""
    if isinstance(error, cattrs.ForbiddenExtraKeysError):
        word = sorted(error.extra_fields)[0]
        return f"unknown setting {path + word!r}{closest(word, [part.name for part in dataclasses.fields(error.cl)])}"
    if not isinstance(error, BaseExceptionGroup):
        return f"{path[:-1]} {error}".lstrip() if str(error).startswith("is ") else str(error)
    first = error.exceptions[0]
    notes = [note.name for note in getattr(first, "__notes__", ()) if isinstance(note, cattrs.AttributeValidationNote)]
    return _explain(first, path + "".join(f"{name}." for name in notes))
