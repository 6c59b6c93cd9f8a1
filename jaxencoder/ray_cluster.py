"""Ray, an optional library that runs work in other processes and on other machines (docs.ray.io)."""

import contextlib
import logging
import os
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def connected(reason: str) -> Iterator[tuple[Any, bool]]:
    """Yield the module ray, connected to a cluster, and whether it was connected before and stays so.

    It connects to the cluster that RAY_ADDRESS names, or to one of this machine alone, which is stopped at the end.
    At the end of a connection the cluster ends all that was started through it.

    Args:
        reason: the setting that asks for Ray, for the message where it is not installed.

    Raises:
        ValueError: Ray is not installed.
        OSError: no cluster answers at RAY_ADDRESS.
    """
    try:
        import ray  # late, for it is optional and slow to import
    except ImportError as error:
        raise ValueError(f"{reason} needs Ray, which is not installed; pip install 'jaxencoder[ray]'") from error
    if ray.is_initialized():
        yield ray, True
        return
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address := os.environ.get("RAY_ADDRESS"):
        options["address"] = address
    else:
        # Ray would report its use over the network, and counts the cores of the machine, not those of this process.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        options |= {"num_cpus": available_cores(), "include_dashboard": False}
    try:
        ray.init(**options)
    except ConnectionError as error:
        raise OSError(f"no cluster of Ray answers at {address}; start it, or unset RAY_ADDRESS") from error
    try:
        yield ray, False
    finally:
        ray.shutdown()


def available_cores() -> int:
    """The number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
