"""Command-line words read into dataclasses by tyro, with every mistake as one sentence."""

from collections.abc import Sequence
from typing import Any, TypeVar

import tyro
from tyro import _errors  # tyro's hook for parse errors, which it has not declared stable; pyproject.toml pins tyro

T = TypeVar("T")


def parse(kind: type[T], words: Sequence[str], prog: str, default: T | None = None) -> tuple[T, list[str]]:
    """Read words into a dataclass whose field docstrings are the help.

    Args:
        kind: a dataclass. A union field keeps the type that `default` has there.
        words: such as ["--training.steps", "60", "--name=small"]; "--help" prints the help and exits.
        prog: the command that the help names.
        default: values of the fields that no word sets; None: the dataclass's own.

    Returns:
        (the dataclass, words that are none of its options).

    Raises:
        ValueError: a required option is missing, a value does not parse, or the dataclass refuses it.
    """

    def refuse(event: _errors.ParseErrorEvent) -> None:
        raise ValueError(_sentence(event))

    options: dict[str, Any] = {} if default is None else {"default": default}
    flags = (tyro.conf.AvoidSubcommands, *(() if default is not None else (tyro.conf.FlagCreatePairsOff,)))
    with _errors.on_parse_error(refuse):
        return tyro.cli(kind, args=list(words), prog=prog, return_unknown_args=True, config=flags, **options)


def _sentence(event: _errors.ParseErrorEvent) -> str:
    match event:
        case _errors.MissingArgs():
            names = [_name(missing.arg) for missing in event.missing_arguments]
            return f"name {' and '.join(names)}; {event.prog} --help explains them"
        case _errors.InvalidChoice():
            return f"{_name(event.argument)} is {event.value!r}; give one of {', '.join(event.choices)}"
        case _errors.BadValue():
            return f"{_name(event.argument)} needs {event.argument.lowered.metavar or 'no value'}"
        case _errors.InstantiationFailure() if event.argument is not None:
            # Later lines list each type that was tried.
            kind = event.argument.lowered.metavar or "another value"
            return f"{_name(event.argument)} needs {kind}; {event.message.strip().splitlines()[0]}"
        case _errors.InstantiationFailure():
            return event.message
    return f"the words cannot be read ({type(event).__name__}); see {event.prog} --help"


def _name(argument: Any) -> str:
    """The option as users write it, or the name of a positional argument."""
    lowered = argument.lowered
    return (lowered.metavar or argument.field.extern_name) if argument.is_positional() else lowered.name_or_flags[-1]
