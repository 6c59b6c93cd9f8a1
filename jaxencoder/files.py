"""Reading and writing small files: JSON with clear errors, and writes that are atomic."""

import json
import os
import uuid
from pathlib import Path
from typing import Any

_BEGIN, _END = "<!-- table -->", "<!-- end of table -->"


def cache_folder() -> Path:
    """The folder of everything that can be made again: $JAXENCODER_CACHE, or else ~/.cache/jaxencoder."""
    return Path(os.environ.get("JAXENCODER_CACHE") or Path.home() / ".cache" / "jaxencoder")


def write_atomic(path: Path, content: str | bytes, mode: int | None = None) -> None:
    """Write a file, text as UTF-8; the previous content stays until all of the new content is on disk.

    `mode` is that of the file, whatever the umask; None leaves it to the umask.
    """
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with open(part, "xb") as file:
            file.write(content if isinstance(content, bytes) else content.encode())
            file.flush()
            os.fsync(file.fileno())
        if mode is not None:
            part.chmod(mode)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def read_json(file: Path, kind: type) -> Any:
    """Read a JSON file whose top level is a `kind`, dict or list.

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: the file is not JSON, or its top level is of another kind.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"{file} is missing, so the folder is incomplete; copy or download it again") from None
    except ValueError as error:
        raise ValueError(f"{file} is not JSON in UTF-8: {error}") from None
    if not isinstance(content, kind):
        raise ValueError(f"{file} does not hold a JSON {'list' if kind is list else 'object'}; check the file")
    return content


def write_json(file: Path, content: Any) -> None:
    """Write indented JSON atomically; creates the file's folder if it is missing."""
    file.parent.mkdir(exist_ok=True)
    write_atomic(file, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def write_table(path: Path, table: str, title: str) -> None:
    """Replace the Markdown between the two table marks of a file; a new file begins with the title."""
    text = path.read_text(encoding="utf-8") if path.is_file() else f"{title}\n\n{_BEGIN}\n{_END}\n"
    before, after = text.split(_BEGIN)[0], text.split(_END)[1]
    write_atomic(path, f"{before}{_BEGIN}\n\n{table}\n{_END}{after}")
