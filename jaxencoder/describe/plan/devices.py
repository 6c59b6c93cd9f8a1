"""Accelerators that need not be attached: the compiler's descriptions of them, and the figures of their makers."""

import contextlib
import importlib
import os
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from jax.experimental import topologies

GIB = 2**30


class Tpu(NamedTuple):
    """A TPU chip, from Google's documentation of Cloud TPU, and "How to Scale Your Model" for its links.

    Attributes:
        peak: FLOP/s of products in bfloat16.
        clock: cycles per second.
        memory: bytes.
        bandwidth: bytes per second from memory.
        link: bytes per second and direction over one link to a neighbor.
        closes: a dimension of a slice whose size is a multiple of it is a ring.
    """

    peak: float
    clock: float
    memory: int
    bandwidth: float
    link: float
    closes: int


TPUS = {
    "v4": Tpu(275e12, 1.05e9, 32 * GIB, 1.228e12, 4.5e10, 4),
    "v5e": Tpu(197e12, 1.5e9, 16 * GIB, 8.19e11, 4.5e10, 16),
    "v5p": Tpu(459e12, 1.75e9, 95 * GIB, 2.765e12, 9e10, 4),
    "v6e": Tpu(918e12, 1.75e9, 32 * GIB, 1.64e12, 9e10, 16),
}


class Topology(NamedTuple):
    """Devices that need not be attached."""

    name: str
    chip: Tpu
    devices: tuple[Any, ...]


def describe_topology(name: str) -> Topology:
    """The chips of a TPU slice such as v5e:16x16; ValueError for a name that is none, or without the compiler."""
    generation, _, shape = name.partition(":")
    if generation not in TPUS or not re.fullmatch(r"\d+(x\d+){1,2}", shape):
        raise ValueError(f"topology is {name!r}; give a slice such as v5e:16x16, v5p:4x4x4 or v6e:8x8")
    try:
        importlib.import_module("libtpu")
    except ModuleNotFoundError:
        raise ValueError("the compiler of TPUs is not installed; pip install 'jaxencoder[tpu]'") from None
    with _no_tpu_here():
        try:
            devices = topologies.get_topology_desc(platform="tpu", topology_name=name).devices
        except Exception as error:  # of several types, by version
            problem = str(error).strip().splitlines()[0].rstrip(".")
            raise ValueError(f"topology is {name!r}, which the compiler refuses: {problem}") from None
    return Topology(name, TPUS[generation], tuple(devices))


@contextlib.contextmanager
def _no_tpu_here() -> Iterator[None]:
    """The compiler asks no machine for its TPUs, shares its library with other processes, and is quiet."""
    settings = {
        "TPU_SKIP_MDS_QUERY": "1",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "TPU_ACCELERATOR_TYPE": "v5litepod-4",  # without these two it warns
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_STDERR_LOG_LEVEL": "3",
        "TPU_MIN_LOG_LEVEL": "3",
    }
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
