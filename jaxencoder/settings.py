"""Frozen dataclasses of settings: overridden by command-line words (tyro), turned into JSON's dicts and back (cattrs).

Every mistake becomes one sentence that names the setting. Imports no jax, so that commands without a model start fast.
"""

import dataclasses
import difflib
import functools
from collections.abc import Iterable, Sequence
from types import UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin

import cattrs
from cattrs.gen import make_dict_structure_fn

from jaxencoder.arguments import parse

T = TypeVar("T")


def apply(settings: T, words: Sequence[str], prog: str) -> T:
    """A copy of a (nested) dataclass with settings replaced, such as ["--training.steps", "60", "--name=small"].

    Hyphens and underscores are equivalent; a field keeps the class of its value. "--help" prints every setting with its
    current value and exits; it names `prog` as the command.

    Raises:
        ValueError: a word is not a setting, a value does not parse, or the dataclass refuses it.
    """
    result, unknown = parse(type(settings), words, prog, settings)
    if unknown:
        raise ValueError(_unknown_word(settings, unknown[0]))
    return result


def suggestion(word: str, names: Iterable[str], prefix: str = "") -> str:
    """ "; did you mean X?" for the name closest to an unknown word; empty if none is close.

    Dotted names match across sections if their last part equals the word's or has it as initials: --steps,
    --optimizer.lr. Otherwise only names of the word's own section are compared.
    """
    names = list(names)
    section, _, end = word.rpartition(".")
    ends = {name: name.rpartition(".")[2] for name in names}
    initials = lambda name: "".join(part[:1] for part in name.split("_")) if "_" in name else ""  # noqa: E731
    if matches := [name for name in names if end in (ends[name], initials(ends[name]))]:
        matches = difflib.get_close_matches(word, matches, n=1, cutoff=0) if section else matches
    else:
        candidates = [name for name in names if name.rpartition(".")[0] == section] if section else names
        near = difflib.get_close_matches(end, [ends[name] for name in candidates], n=1)
        matches = [name for name in candidates if ends[name] in near]
    return f"; did you mean {prefix}{matches[0]}?" if matches else ""


def _unknown_word(settings: Any, word: str) -> str:
    if not word.startswith("--"):
        return f"unexpected argument {word!r}; a value is --NAME VALUE, a switch is --NAME or --no-NAME without a value"
    name = word[2:].partition("=")[0].replace("-", "_")
    return f"unknown setting {word}{suggestion(name, _dotted_names(settings), '--')}"


def _dotted_names(settings: Any, prefix: str = "") -> list[str]:
    names = []
    for field in dataclasses.fields(settings):
        value, name = getattr(settings, field.name), prefix + field.name
        items = enumerate(value) if isinstance(value, tuple) else ()
        nested = [(name, value), *((f"{name}.{number}", item) for number, item in items)]
        inner = [x for at, item in nested if dataclasses.is_dataclass(item) for x in _dotted_names(item, f"{at}.")]
        names += inner or [name]
    return names


def to_tree(value: Any, base: type, members: tuple[type, ...]) -> dict[str, Any]:
    """A dataclass as nested dicts, for JSON.

    Fields annotated with `base` hold one of the dataclasses `members`, whose name is written under "type"; so is that
    of a field annotated with a union of dataclasses.
    """
    return _converter(base, members).unstructure(value)


def from_tree(tree: Any, kind: type[T], base: type, members: tuple[type, ...], where: str) -> T:
    """Build a `kind` from nested dicts as of `to_tree`; missing settings take their defaults.

    Raises:
        ValueError: a setting is unknown, of the wrong type, or refused by its section; names the file `where`.
    """
    try:
        return _converter(base, members).structure(tree, kind)
    except (ValueError, cattrs.BaseValidationError) as error:
        raise ValueError(f"{where}: {_sentence(error)}") from None


@functools.cache
def _converter(base: type, members: tuple[type, ...]) -> cattrs.Converter:
    """cattrs without conversions: "3" is no int, 1 is no bool, and unknown keys are errors."""
    converter = cattrs.Converter(forbid_extra_keys=True)
    for kind, accepted in ((bool, bool), (int, int), (float, int | float), (str, str)):
        converter.register_structure_hook(kind, _strict(kind, accepted))
    converter.register_structure_hook_func(lambda kind: get_origin(kind) is Literal, _structure_choice)
    converter.register_structure_hook_func(
        lambda kind: get_origin(kind) is tuple, functools.partial(_structure_tuple, converter)
    )

    @converter.register_structure_hook_factory(dataclasses.is_dataclass)
    def section_hook(kind: type) -> Any:
        structure = make_dict_structure_fn(kind, converter, _cattrs_forbid_extra_keys=True)

        def structure_section(value: Any, _: Any) -> Any:
            if not isinstance(value, dict):
                raise ValueError(f"is {value!r}; give an object of settings")
            return structure(value, kind)

        return structure_section

    def choices(kind: Any) -> dict[str, type]:
        """The dataclasses that a field with this annotation may hold by name; empty if it names none or one."""
        kinds = members if kind is base else get_args(kind) if isinstance(kind, UnionType) else ()
        return {x.__name__: x for x in kinds} if all(map(dataclasses.is_dataclass, kinds)) else {}

    def structure_choice(value: Any, kind: Any) -> Any:
        names = choices(kind)
        if not isinstance(value, dict) or value.get("type") not in names:
            raise ValueError(f"is {value!r}; give an object of settings whose type is one of {', '.join(names)}")
        return converter.structure({k: x for k, x in value.items() if k != "type"}, names[value["type"]])

    def unstructure_choice(value: Any) -> dict[str, Any]:
        return converter.unstructure(value) | {"type": type(value).__name__}

    converter.register_structure_hook_func(lambda kind: bool(choices(kind)), structure_choice)
    converter.register_unstructure_hook_func(lambda kind: bool(choices(kind)), unstructure_choice)
    return converter


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
    items = []
    for number, (item, item_kind) in enumerate(zip(value, kinds, strict=True)):
        try:
            items.append(converter.structure(item, item_kind))
        except (ValueError, cattrs.BaseValidationError) as error:
            error.add_note(cattrs.AttributeValidationNote(f"item {number}", str(number), item_kind))
            group = cattrs.IterableValidationError("item", [error], kind)  # pyright: ignore[reportCallIssue]  # takes three
            raise group from None
    return tuple(items)


def _sentence(error: BaseException, path: str = "") -> str:
    """The first sentence inside cattrs' nested group of errors."""
    if isinstance(error, cattrs.ForbiddenExtraKeysError):
        word = sorted(error.extra_fields)[0]
        names = [field.name for field in dataclasses.fields(error.cl)]
        return f"unknown setting {path + word!r}{suggestion(word, names)}"
    if not isinstance(error, BaseExceptionGroup):
        return f"{path[:-1]} {error}".lstrip() if str(error).startswith("is ") else str(error)
    first = error.exceptions[0]
    notes = [note.name for note in getattr(first, "__notes__", ()) if isinstance(note, cattrs.AttributeValidationNote)]
    return _sentence(first, path + "".join(f"{name}." for name in notes))
