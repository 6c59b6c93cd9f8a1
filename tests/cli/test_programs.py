import os
import subprocess
import sys
from pathlib import Path

import pytest

from jaxencoder.cli.programs import keep_programs
from tests.tasks.conftest import home, masked  # noqa: F401

FOLDER, LIMIT = "JAX_COMPILATION_CACHE_DIR", "JAX_COMPILATION_CACHE_MAX_SIZE"


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """The cache folder of commands, whose environment says nothing of programs."""
    monkeypatch.setenv("JAXENCODER_CACHE", str(tmp_path / "cache"))
    for name in (FOLDER, LIMIT):  # set first, so that they are as before after the test
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    return tmp_path / "cache"


def test_the_second_command_compiles_nothing(cache, masked):  # noqa: F811
    def run() -> tuple[str, dict[str, int]]:
        command = [sys.executable, "-m", "jaxencoder", "score", str(masked.folder), "the film was great"]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        assert "cache" not in done.stderr.lower()
        files = cache.glob("programs/*/*-cache")
        return done.stdout, {file.name: file.stat().st_mtime_ns for file in files}

    (printed, programs), again = run(), run()
    assert programs and again == (printed, programs)


def test_settings_of_jax_count(cache, monkeypatch):
    monkeypatch.setenv(FOLDER, "")  # none
    keep_programs()
    assert os.environ[FOLDER] == "" and not cache.exists()


def test_a_limit_of_jax_counts(cache, monkeypatch):
    monkeypatch.setenv(LIMIT, "1000")
    keep_programs()
    assert Path(os.environ[FOLDER]).parent == cache / "programs" and os.environ[LIMIT] == "1000"


def test_a_folder_that_cannot_be_made(cache):
    cache.write_text("a file")
    keep_programs()
    assert FOLDER not in os.environ
