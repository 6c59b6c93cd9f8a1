"""The interpreter's documentation: enough of it, clean, the same every time, and read without importing anything."""

import hashlib
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from jaxencoder.text.sources import pydocs


def test_about_two_megabytes_of_distinct_documents() -> None:
    documents = pydocs.documents()
    texts = [text for _, text in documents]
    assert 1_200_000 < sum(len(text.encode()) for text in texts) < 4_000_000
    assert len(documents) > 4_000
    assert len(set(texts)) == len(texts)
    for name, text in documents:
        assert text == text.strip() and len(text.split()) >= 3, name
        assert "\n\n" not in text and not text.startswith(">>>"), name


def test_names_lead_to_the_documentation() -> None:
    by_name = dict(pydocs.documents())
    assert by_name["textwrap.dedent"] == pydocs.clean(textwrap.dedent.__doc__)
    assert by_name["json"].startswith("JSON (JavaScript Object Notation)")
    assert by_name["json.encoder.JSONEncoder.default"].startswith("Implement this method in a subclass")
    assert not any("site-packages" in name or ".test." in name for name in by_name)


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [
        ("One\n   two.\n\n\nThree.", "One two.\nThree."),
        ("Title\n*****\n\nBody.", "Title\nBody."),
        ("See :func:`os.path.join` or :py:class:`~a.B`.", "See os.path.join or a.B."),
        ("Before.\n\n>>> f(1)\n2\n\nAfter.", "Before.\nAfter."),
        ("a ** b -- c", "a ** b -- c"),
        (" \n\n ", ""),
    ],
)
def test_clean(raw: str, cleaned: str) -> None:
    assert pydocs.clean(raw) == cleaned


def test_same_in_another_process_and_nothing_is_imported() -> None:
    code = """
import hashlib, sys
from jaxencoder.text.sources import pydocs
digest = hashlib.sha256(repr(pydocs.documents()).encode()).hexdigest()
print(digest, [name for name in ("turtle", "antigravity", "this", "tkinter", "jax") if name in sys.modules])
"""
    digest = hashlib.sha256(repr(pydocs.documents()).encode()).hexdigest()
    command, root = [sys.executable, "-c", code], Path(__file__).parents[3]
    output = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root).stdout
    assert output.split(maxsplit=1) == [digest, "[]\n"]


def test_no_sources_are_an_error_and_broken_ones_are_passed_over(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(pydocs, "_library", lambda: tmp_path)
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(ValueError, match="holds no Python source"):
        pydocs.documents.__wrapped__()
    (tmp_path / "broken.py").write_text("def f(:\n")
    (tmp_path / "nul.py").write_bytes(b"x = 1\0")
    (tmp_path / "latin.py").write_bytes(b'# -*- coding: latin-1 -*-\n"""A caf\xe9 is a place."""\n')
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "t.py").write_text('"""A test of a thing."""')
    assert pydocs.documents.__wrapped__() == (("latin", "A café is a place."),)
