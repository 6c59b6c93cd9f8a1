"""Command-line words laid over a dataclass of settings: by tyro, with every error as one sentence to raise."""

import contextlib
import dataclasses
import difflib
import io
import os
import re
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import tyro

T = TypeVar("T")


def apply(settings: T, words: Sequence[str], prog: str) -> T:
    """A copy of a (nested) dataclass with settings replaced, such as ["--training.steps", "60", "--name=small"].

    Hyphens and underscores are the same. "--help" prints every setting with its present value and exits.

    Args:
        settings: a dataclass; its values are the defaults, and a union keeps the type that it has here.
        words: command-line words.
        prog: command that the help names.

    Raises:
        ValueError: a word is not a setting, a value does not parse, or the dataclass refuses it.
    """
    kind, options = type(settings), {"default": settings, "prog": prog, "config": (tyro.conf.AvoidSubcommands,)}
    if {"-h", "--help"} & set(words):
        tyro.cli(kind, args=["--help"], **options)
    # tyro reports an error as a box as wide as the terminal; this width keeps its sentence on one line.
    box, width = io.StringIO(), os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "10000"
    try:
        with contextlib.redirect_stderr(box):
            result, unknown = tyro.cli(kind, args=list(words), return_unknown_args=True, **options)
    except SystemExit:
        lines = [line.strip("│ ") for line in box.getvalue().splitlines()[1:]]  # the first is the title
        sentence = next((line for line in lines if line.strip("─-")), "the settings cannot be read")
        # A dataclass names its own settings: "Error parsing training: training.steps must ..."
        raise ValueError(re.sub(r"^Error parsing (?!--)[^:]*: ", "", sentence)) from None
    finally:
        os.environ.pop("COLUMNS") if width is None else os.environ.update(COLUMNS=width)
    if unknown:
        raise ValueError(_unknown(settings, unknown[0]))
    return result


def closest(word: str, known: Iterable[str], prefix: str = "") -> str:
    """ "; did you mean X?" for the known word that is most like an unknown one; empty if none is like it.

    Of dotted words, one that ends alike or has these initials is meant wherever it is, --steps or --optimizer.lr; any
    other one is looked for in its own section.
    """
    names = list(known)
    section, _, end = word.rpartition(".")
    ends = {name: name.rpartition(".")[2] for name in names}
    if alike := [name for name in names if end in (ends[name], _initials(ends[name]))]:
        found = difflib.get_close_matches(word, alike, n=1, cutoff=0) if section else alike
    else:
        own = [name for name in names if name.rpartition(".")[0] == section] if section else names
        near = difflib.get_close_matches(end, [ends[name] for name in own], n=1)
        found = [name for name in own if ends[name] in near]
    return f"; did you mean {prefix}{found[0]}?" if found else ""


def _initials(name: str) -> str:
    """ "lr" of "learning_rate"; empty for one word."""
    parts = name.split("_")
    return "".join(part[:1] for part in parts) if len(parts) > 1 else ""


def _unknown(settings: Any, word: str) -> str:
    if not word.startswith("--"):
        return f"unexpected argument {word!r}; a value is --NAME VALUE, a switch is --NAME or --no-NAME without a value"
    name = word[2:].partition("=")[0].replace("-", "_")
    return f"unknown setting {word}{closest(name, _dotted(settings), '--')}"


def _dotted(settings: Any, prefix: str = "") -> list[str]:
    names = []
    for part in dataclasses.fields(settings):
        value, name = getattr(settings, part.name), prefix + part.name
        several = enumerate(value) if isinstance(value, tuple) else ()
        nested = [(name, value), *((f"{name}.{number}", item) for number, item in several)]
        found = [other for at, item in nested if dataclasses.is_dataclass(item) for other in _dotted(item, f"{at}.")]
        names += found or [name]
    return names
