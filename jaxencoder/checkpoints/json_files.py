"""Checked values from the JSON files of a checkpoint."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def positive(value: Any, file: Path, name: str) -> int:
    """Check for an integer of at least 1; ValueError for anything else."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{file} has {name} {value!r}; an integer of at least 1 is needed")
    return value


def flag(config: Mapping[str, Any], name: str, file: Path | None, default: bool = True) -> bool:
    """The truth value under a name; ValueError for anything else."""
    value = config.get(name, default)
    if not isinstance(value, bool):
        raise ValueError(f"{file} has {name} {value!r}; true or false is needed")
    return value
