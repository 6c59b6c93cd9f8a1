"""Text for the terminal: tables as wide as it is, and numbers in three digits."""

import dataclasses
import io
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table


def format_table(header: Sequence[str], rows: Iterable[Sequence[str]], right: Iterable[int] = (), gap: int = 0) -> str:
    """Columns of text, wrapped to the width of the terminal.

    The header is empty for none; columns of the numbers `right` are flush right; `gap` empty lines are between rows.
    """
    grid = Table(box=None, pad_edge=False, padding=(0, 2, gap, 0), show_header=any(header))
    for number, name in enumerate(header):
        grid.add_column(name, justify="right" if number in right else "left")
    for row in rows:
        grid.add_row(*row)
    width = shutil.get_terminal_size((120, 24)).columns
    text = io.StringIO()
    Console(file=text, width=width, color_system=None, markup=False, highlight=False, emoji=False).print(grid)
    return "\n".join(line.rstrip() for line in text.getvalue().rstrip().splitlines())


def format_pairs(facts: Mapping[str, str]) -> str:
    """Names and values, one per line."""
    return format_table(("", ""), facts.items())


def format_mesh(mesh: Mapping[str, int]) -> str:
    """{"data": 1, "fsdp": 4} -> data 1, fsdp 4"""
    return ", ".join(f"{name} {size}" for name, size in mesh.items())


def join_blocks(blocks: Iterable[str], notes: Iterable[str]) -> str:
    """Blocks with empty lines between them, notes last."""
    return "\n\n".join((*blocks, *(f"Note: {note}." for note in notes)))


def format_count(number: float) -> str:
    """A large number in three digits: 109482240 -> 109M"""
    return _three_digits(number, {"T": 1e12, "B": 1e9, "M": 1e6, "K": 1e3})


def format_memory(number: int) -> str:
    """Bytes in three digits: 437928960 -> 418 MiB"""
    return _three_digits(number, {" GiB": 2**30, " MiB": 2**20, " KiB": 2**10}, " B")


def _three_digits(number: float, units: Mapping[str, float], smallest: str = "") -> str:
    """The number in the largest unit that it reaches after rounding, else in the smallest, whose size is 1."""
    for unit, size in units.items():
        if (quotient := number / size) >= 0.9995:
            return f"{quotient:.{0 if quotient >= 99.95 else 1}f}{unit}"
    return f"{number:.0f}{smallest}"


def as_json(value: Any) -> str:
    """A dataclass, or a list of them, as indented JSON."""
    plain = [dataclasses.asdict(part) for part in value] if isinstance(value, list) else dataclasses.asdict(value)
    return json.dumps(plain, indent=2, ensure_ascii=False)
