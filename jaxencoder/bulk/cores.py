"""Each worker of a machine on cores of its own: threads of two workers on one core would wait for each other."""

import os
import tempfile
from pathlib import Path

import filelock


def take_cores(number: int) -> filelock.FileLock | None:
    """Restrict this process to `number` cores that no other worker has taken, before jax starts its threads.

    The cores are taken as long as the lock is held: they are free again when the process ends, however it does.

    Returns:
        The lock, to be kept; None where all cores are taken or processes cannot be restricted, as on macOS.
    """
    if not hasattr(os, "sched_setaffinity"):
        return None
    cores = sorted(os.sched_getaffinity(0))
    folder = Path(tempfile.gettempdir()) / f"jaxencoder-cores-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    for start in range(0, len(cores) - number + 1, number):
        chosen = cores[start : start + number]
        # All workers of a command take as many, so that equal names are equal cores.
        lock = filelock.FileLock(folder / "-".join(map(str, chosen)), thread_local=False)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            continue
        for thread in os.listdir("/proc/self/task"):
            os.sched_setaffinity(int(thread), chosen)
        return lock
    return None
