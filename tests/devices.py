"""Scripts that run on several devices of the CPU, in processes of their own: jax fixes their number at its start."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def environment(devices: int = 1, **settings: str) -> dict[str, str]:
    """The environment of a process whose CPU acts as this many devices."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    own = {"XLA_FLAGS": flags, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    own |= {"JAX_ENABLE_COMPILATION_CACHE": "false"}  # warns about files that another process is still writing
    return os.environ | own | settings


def on_devices(count: int, *arguments: str, **settings: str) -> tuple[str, str]:
    """Standard output and standard error of a Python process that must succeed."""
    command = [sys.executable, *arguments]
    done = subprocess.run(
        command, env=environment(count, **settings), capture_output=True, text=True, cwd=ROOT, timeout=600
    )
    assert not done.returncode, done.stderr[-3000:]
    return done.stdout, done.stderr


def results_on_eight(script: str) -> Any:
    """What a script prints as JSON, on its last line; warnings are errors."""
    return json.loads(on_devices(8, "-W", "error", script)[0].splitlines()[-1])


def free_port() -> int:
    """A port for processes that find each other."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def popen(*arguments: object, devices: int = 1, **settings: str) -> subprocess.Popen[str]:
    """Start a Python process, whose standard error goes to its standard output."""
    command, pipe = [sys.executable, *map(str, arguments)], subprocess.PIPE
    options: Any = {"env": environment(devices, **settings), "cwd": ROOT, "stdout": pipe, "text": True}
    return subprocess.Popen(command, stderr=subprocess.STDOUT, **options)


def end(*processes: subprocess.Popen[str]) -> tuple[list[int], str]:
    """Exit statuses of processes of `popen`, and what they have printed; all are stopped if one takes too long."""
    try:
        outputs = [process.communicate(timeout=600)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
            process.stdout.close()
    return [process.returncode for process in processes], "\n".join(outputs)


def run_twice(*arguments: object, devices: int = 1) -> None:
    """Run Python in two processes at once, with a port and the number of the process as last arguments.

    Both must succeed; warnings are errors.
    """
    command = "-W", "error", *arguments, free_port()
    statuses, output = end(*[popen(*command, number, devices=devices) for number in "01"])
    assert statuses == [0, 0], output[-3000:]
