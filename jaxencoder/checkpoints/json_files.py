"""Small JSON files of a checkpoint, read with one clear sentence for what is wrong, and written whole or not at all."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxencoder.files import write_atomic


def read_json(file: Path, kind: type) -> Any:
    """The dict or list in a file; ValueError if it is something else, FileNotFoundError if there is none."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"{file} is missing, so the folder is not whole; fetch it again") from None
    except ValueError as error:
        raise ValueError(f"{file} is not JSON in UTF-8: {error}") from None
    if not isinstance(content, kind):
        raise ValueError(f"{file} holds no JSON {'list' if kind is list else 'object'}; check the file")
    return content


def write_json(file: Path, content: Any) -> None:
    """Write a file, and its folder if it is missing; the file appears when it is whole."""
    file.parent.mkdir(exist_ok=True)
    write_atomic(file, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def positive(value: Any, file: Path, name: str) -> int:
    """A whole number of at least 1, as it is; ValueError for anything else."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{file} has {name} {value!r}; a whole number of at least 1 is needed")
    return value


def flag(config: Mapping[str, Any], name: str, file: Path | None, default: bool = True) -> bool:
    """The truth value under a name; ValueError for anything else."""
    value = config.get(name, default)
    if not isinstance(value, bool):
        raise ValueError(f"{file} has {name} {value!r}; true or false is needed")
    return value
