"""Shared fixtures: jax kept on the CPU, quiet and quick to compile, and the optional folder of real data.

Environment variables are set here, at import, because jax reads them once, when it is first imported.
"""

import gc
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
# Most of a test's time is compiling a program that runs once: with few optimisations it takes half as long.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
# The older emitters of loops compile in a third of the time.
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false")
# The same programs are compiled again and again, in each worker and in the processes that tests start: all of them keep
# and find their programs in one folder, which lives as long as the process that starts the workers.
PROGRAMS = tempfile.TemporaryDirectory(prefix="jaxencoder-tests-")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", PROGRAMS.name)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
# The threads of torch wait for each other by spinning, which starves the tests in other processes.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import jax
import pytest

_MANY_MAPS = 16_000
ROOT = Path(__file__).resolve().parents[1]


def pytest_unconfigure() -> None:
    PROGRAMS.cleanup()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real data sets: $JAXENCODER_SHARED_DATA, else ../shared/data beside the checkout; skips without it."""
    folder = Path(os.environ.get("JAXENCODER_SHARED_DATA") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"needs real data sets; none at {folder} (set JAXENCODER_SHARED_DATA)")
    return folder


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prepared rows of one test must not satisfy another, nor land in the home of whoever runs the tests."""
    monkeypatch.setenv("JAXENCODER_CACHE", str(tmp_path_factory.mktemp("cache", numbered=True)))


@pytest.fixture(autouse=True, scope="module")
def _few_programs() -> Iterator[None]:
    """Drop compiled programs after a module once there are many.

    Each has memory maps of its own, of which Linux gives a process 65,530; beyond them it crashes.
    """
    yield
    maps = Path("/proc/self/maps")
    if maps.is_file() and maps.read_bytes().count(b"\n") > _MANY_MAPS:
        jax.clear_caches()
        gc.collect()


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A recipe that changes nothing, in the folder that the test is in from now on."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "tiny.py"
    path.write_text("from jaxencoder.config import RunConfig\n\ndef get_config():\n    return RunConfig()\n")
    return str(path)
