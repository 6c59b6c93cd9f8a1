"""Ray for tests: started once for a module, on two cores."""

import os
import sys
from collections.abc import Iterator
from typing import Any

import pytest

# What Ray causes in a process that starts it.
FILTERS = [
    # It leaves the processes that it starts to the garbage collector.
    pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning"),
    # It starts them by os.fork, in which jax warns once it is used, and which is followed by exec.
    pytest.mark.filterwarnings("ignore:Exception ignored in. .function _at_fork"),
]


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    """The module ray, connected; skips where it is not installed."""
    ray = pytest.importorskip("ray", reason="needs Ray: pip install 'ray[data]'")
    environment = {"PYTHONPATH": os.pathsep.join(sys.path)}  # of the package under test
    options = {"num_cpus": 2, "include_dashboard": False, "logging_level": "error", "log_to_driver": False}
    ray.init(**options, runtime_env={"env_vars": environment})
    yield ray
    ray.shutdown()
