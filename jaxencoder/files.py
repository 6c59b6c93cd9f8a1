"""Small files that appear whole or not at all, whatever happens while they are written."""

import os
from pathlib import Path

_BEGIN, _END = "<!-- table -->", "<!-- end of table -->"


def write_atomic(path: Path, text: str) -> None:
    """Write a text in UTF-8; what was there before stays until all of it is written.

    Raises:
        OSError: the folder is missing, cannot be written or is full.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_table(path: Path, table: str, title: str) -> None:
    """Put a table of Markdown between the two marks of a file, in place of what is there.

    Args:
        path: a file that has them, or none yet.
        title: the first line of a new file.

    Raises:
        OSError: as `write_atomic`.
    """
    text = path.read_text(encoding="utf-8") if path.is_file() else f"{title}\n\n{_BEGIN}\n{_END}\n"
    before, after = text.split(_BEGIN)[0], text.split(_END)[1]
    write_atomic(path, f"{before}{_BEGIN}\n\n{table}\n{_END}{after}")
