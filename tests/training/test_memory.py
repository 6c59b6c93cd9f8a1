import os
import platform
import subprocess
import sys

import pytest

from jaxencoder.training import memory

# A thread, as those of XLA, that fills the same 200 MB twice: how many page faults the second time?
PROGRAM = """
import resource, threading
from jaxencoder.training.memory import keep_freed_memory
if {keep}:
    assert keep_freed_memory()
faults = []
def work():
    for _ in range(2):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        b"x" * (200 << 20)
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
thread = threading.Thread(target=work)
thread.start()
thread.join()
print(faults[1])
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the settings are those of glibc's malloc")
def test_memory_that_was_freed_is_not_mapped_anew():
    def faults(keep: bool) -> int:
        command = [sys.executable, "-c", PROGRAM.format(keep=keep)]
        environment = os.environ | {"JAX_PLATFORMS": "cpu"}
        return int(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)

    assert faults(True) < 1000
    assert faults(False) > 5 * faults(True)


def test_computes_on_cpu(monkeypatch):
    monkeypatch.setattr(memory, "_ACCELERATORS", ("json",))
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert memory.computes_on_cpu()
    monkeypatch.setenv("JAX_PLATFORMS", "")
    assert not memory.computes_on_cpu()
    monkeypatch.setattr(memory, "_ACCELERATORS", ("no_such_package",))
    assert memory.computes_on_cpu()
