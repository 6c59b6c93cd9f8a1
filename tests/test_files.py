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


@pytest.mark.parametrize(("mode", "expected"), [(None, 0o640), (0o644, 0o644)])
def test_the_mode_of_a_file(tmp_path, mode, expected):
    before = os.umask(0o027)
    try:
        write_atomic(tmp_path / "a.json", "text", mode)
    finally:
        os.umask(before)
    assert (tmp_path / "a.json").stat().st_mode & 0o777 == expected


def test_writers_at_once_do_not_share_a_temporary_file(tmp_path, monkeypatch):
    """The second writes while the first has yet to rename its file, in the same process."""
    replace = os.replace

    def late(part, path):
        monkeypatch.setattr(os, "replace", replace)
        write_atomic(path, "second")
        replace(part, path)

    monkeypatch.setattr(os, "replace", late)
    write_atomic(tmp_path / "a.json", "first")
    assert (tmp_path / "a.json").read_text() == "first" and os.listdir(tmp_path) == ["a.json"]


def test_a_table_between_its_marks(tmp_path):
    path = tmp_path / "a.md"
    write_table(path, "| a |", "# Title")
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# Title\n\n<!-- table -->\n\n| a |\n")
    path.write_text(f"{text}\nWhat it shows.\n", encoding="utf-8")
    write_table(path, "| b |", "# Other title")
    assert path.read_text(encoding="utf-8") == text.replace("| a |", "| b |") + "\nWhat it shows.\n"
