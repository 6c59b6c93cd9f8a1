"""Files of results: JSON, whole or not at all, a run's own or one that says whose results it holds."""

import json
from pathlib import Path
from typing import Any

from jaxencoder.files import write_atomic
from jaxencoder.inference.model import OpenedModel

RESULTS_FILE = "results.json"


def results_file(run: str | Path, model: OpenedModel, output: str | Path | None) -> tuple[dict[str, Any], Path | None]:
    """What stands first in a file of results, and the file: a run's own where none is named.

    Raises:
        ValueError: the file holds results of another model.
        OSError: it cannot be read, or its folder is not there.
    """
    if output is None:
        return {}, Path(run) / RESULTS_FILE if model.published is None else None
    header = {"model": str(Path(run).absolute()) if Path(run).is_dir() else str(run)}
    output = Path(output)
    there = read_results(output)
    if there and there.get("model") != header["model"]:
        raise ValueError(f"{output} holds results of {there.get('model', 'a run')}; give another --output")
    if not output.parent.is_dir():
        raise FileNotFoundError(f"no folder {output.parent} to write {output.name} to")
    return header, output


def read_results(path: Path) -> dict[str, Any]:
    """The results that are there."""
    try:
        results = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); delete it") from None
    if not isinstance(results, dict):
        raise ValueError(f"{path} holds no results but a {type(results).__name__}; delete it, or name another file")
    return results


def write_results(path: Path, results: dict[str, Any]) -> None:
    """The results, whole or not at all."""
    write_atomic(path, json.dumps(results, indent=2, ensure_ascii=False) + "\n")
