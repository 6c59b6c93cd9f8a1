"""Writes are atomic: a failed one leaves the previous file."""

import os

import pytest

from jaxencoder.files import write_atomic, write_table


def test_whole_or_as_before(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_atomic(path, "Größe\n")
    assert path.read_bytes() == "Größe\n".encode()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_atomic(path, "other")
    assert path.read_text(encoding="utf-8") == "Größe\n" and os.listdir(tmp_path) == ["a.json"]
    with pytest.raises(FileNotFoundError):
        write_atomic(tmp_path / "missing" / "a.json", "text")


def test_a_table_between_its_marks(tmp_path):
    path = tmp_path / "a.md"
    write_table(path, "| a |", "# Title")
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# Title\n\n<!-- table -->\n\n| a |\n")
    path.write_text(f"{text}\nWhat it shows.\n", encoding="utf-8")
    write_table(path, "| b |", "# Other title")
    assert path.read_text(encoding="utf-8") == text.replace("| a |", "| b |") + "\nWhat it shows.\n"
