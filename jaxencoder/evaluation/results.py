"""JSON files of results, written atomically: a run's own, or one that names its model."""

import json
from pathlib import Path
from typing import Any

from jaxencoder.files import write_atomic
from jaxencoder.inference.model import OpenedModel

RESULTS_FILE = "results.json"


def results_file(run: str | Path, model: OpenedModel, output: str | Path | None) -> tuple[dict[str, Any], Path | None]:
    """The header and the path of a model's file of results.

    Args:
        run: folder or name of the model, as it was opened.
        model: the opened model.
        output: path; None: the run's results.json, which needs no header, and no file for other models.

    Raises:
        ValueError: the file holds results of another model.
        OSError: the file cannot be read, or its folder is missing.
    """
    if output is None:
        return {}, Path(run) / RESULTS_FILE if model.published is None else None
    header = {"model": str(Path(run).absolute()) if Path(run).is_dir() else str(run)}
    output = Path(output)
    previous = read_results(output)
    if previous and previous.get("model") != header["model"]:
        raise ValueError(f"{output} holds results of {previous.get('model', 'a run')}; give another --output")
    if not output.parent.is_dir():
        raise FileNotFoundError(f"no folder {output.parent} to write {output.name} to")
    return header, output


def read_results(path: Path) -> dict[str, Any]:
    """The results in a file; empty if it is missing."""
    try:
        results = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); delete it") from None
    if not isinstance(results, dict):
        raise ValueError(f"{path} holds no results but a {type(results).__name__}; delete it, or name another file")
    return results


def write_results(path: Path, results: dict[str, Any]) -> None:
    """Replace a file of results."""
    write_atomic(path, json.dumps(results, indent=2, ensure_ascii=False) + "\n")
