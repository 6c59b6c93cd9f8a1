"""Each worker of a machine on cores of its own: threads of two workers on one core would wait for each other."""

import contextlib
import os
import tempfile
from pathlib import Path

import filelock


def take_cores(number: int) -> list[filelock.FileLock]:
    """Restrict this process to `number` cores that no other worker has taken, before jax starts its threads.

    The cores are taken as long as their locks are held: they are free again when the process ends, however it does.

    Returns:
        The locks, to be kept; none where fewer cores are free or processes cannot be restricted, as on macOS.
    """
    if not hasattr(os, "sched_setaffinity"):
        return []
    folder = Path(tempfile.gettempdir()) / f"jaxencoder-cores-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    locks: dict[int, filelock.FileLock] = {}
    for core in sorted(os.sched_getaffinity(0)):
        lock = filelock.FileLock(folder / str(core), thread_local=False)
        with contextlib.suppress(filelock.Timeout):
            lock.acquire(timeout=0)
            locks[core] = lock
        if len(locks) == number:
            for thread in os.listdir("/proc/self/task"):
                os.sched_setaffinity(int(thread), locks)
            return list(locks.values())
    for lock in locks.values():
        lock.release()
    return []
