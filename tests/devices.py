"""Scripts that run on several devices of the CPU, in a process of their own: jax fixes their number at its start."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def on_devices(count: int, *arguments: str, **environment: str) -> tuple[str, str]:
    """Standard output and standard error of a Python process that must succeed."""
    flags = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={count}", "PYTHONPATH": str(ROOT)}
    flags |= {"JAX_PLATFORMS": "cpu"}
    flags |= {"JAX_ENABLE_COMPILATION_CACHE": "false"}  # warns about files that another process is still writing
    command, settings = [sys.executable, *arguments], os.environ | flags | environment
    done = subprocess.run(command, env=settings, capture_output=True, text=True, cwd=ROOT, timeout=600)
    assert not done.returncode, done.stderr[-3000:]
    return done.stdout, done.stderr


def results_on_eight(script: str) -> Any:
    """What a script prints as JSON, on its last line; warnings are errors."""
    return json.loads(on_devices(8, "-W", "error", script)[0].splitlines()[-1])
