"""The cache of prepared rows and trained tokenizers: an entry is a folder that appears complete or not at all."""

import contextlib
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import filelock

from jaxencoder.text.config import DataConfig
from jaxencoder.text.store import is_remote

_ABANDONED_SECONDS = 7 * 24 * 3600


def cache_folder(data: DataConfig) -> Path:
    """The local folder of prepared rows and trained tokenizers, the default one if data.cache is an object store."""
    default = os.environ.get("JAXENCODER_CACHE") or Path.home() / ".cache" / "jaxencoder"
    return Path(default if is_remote(data.cache) else data.cache or default)


@contextlib.contextmanager
def entry_lock(folder: Path, name: str, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Let one process at a time build an entry, and remove the temporary folders of processes that died.

    Args:
        folder: created if missing.
        name: of the entry.
        on_wait: called before waiting for another process.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder / f".{name}.lock")
    try:
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            on_wait()
            lock.acquire()
    except NotImplementedError:
        # Without locks two processes may do the same work; the first to rename its folder wins.
        yield
        return
    try:
        for path in folder.glob(f".{name}.*.*"):
            # Locks need not reach other hosts, whose folders are left alone until they are surely abandoned.
            is_local = path.name.startswith(f".{name}.{socket.gethostname()}.")
            with contextlib.suppress(FileNotFoundError):
                if is_local or time.time() - path.stat().st_mtime > _ABANDONED_SECONDS:
                    shutil.rmtree(path, ignore_errors=True)
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def temporary_entry(folder: Path, name: str) -> Iterator[Path]:
    """A temporary folder in which to build an entry; it is removed at the end unless `publish` has renamed it."""
    part = Path(tempfile.mkdtemp(prefix=f".{name}.{socket.gethostname()}.", dir=folder))
    try:
        yield part
    finally:
        shutil.rmtree(part, ignore_errors=True)


def publish(part: Path, target: Path, is_complete: Callable[[Path], bool] = Path.is_dir) -> None:
    """Rename a finished folder to its final name.

    Raises:
        OSError: it cannot be renamed, and no other host has published the same entry.
    """
    if target.exists() and not is_complete(target):
        shutil.rmtree(target)  # someone has deleted a part of it
    try:
        part.chmod(0o755)  # temporary folders are closed to others
        os.replace(part, target)
    except OSError:
        if not is_complete(target):
            raise
