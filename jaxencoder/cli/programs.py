"""Compiled programs of one command are kept for the next: compiling takes longer than embedding a few texts."""

import hashlib
import os
import platform
from pathlib import Path

from jaxencoder.files import cache_folder

_SETTINGS = {
    "JAX_COMPILATION_CACHE_MAX_SIZE": str(2 << 30),  # bytes; the least recently used programs go first
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",  # jax keeps those of a second and more
}


def keep_programs() -> None:
    """Have jax keep compiled programs in `cache_folder()`, unless the environment has settings of its own.

    jax tells programs apart by its version, their devices and flags, and locks the folder while it writes. Call this
    before jax is imported. A folder that cannot be written is left alone, and programs are compiled anew.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    folder = cache_folder() / "programs" / _processor()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    if os.access(folder, os.W_OK):
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
        for name, value in _SETTINGS.items():
            os.environ.setdefault(name, value)


def _processor() -> str:
    """A name of this kind of processor: programs for a CPU may have instructions that others in a cluster lack."""
    file, description = Path("/proc/cpuinfo"), platform.machine() + platform.processor()
    if file.is_file():
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
        description += next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
    return hashlib.sha256(description.encode()).hexdigest()[:16]
