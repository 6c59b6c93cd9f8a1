"""The kind of devices that a program is made for, which need not be those of this process."""

import math
from functools import cache

import jax
from jax.sharding import AbstractDevice


def platform() -> str:
    """cpu, gpu or tpu: of the mesh in use (`jax.set_mesh`), else of this process.

    A mesh of `jax.experimental.topologies` gives the program of a machine that is not there.
    """
    device = _device()
    return jax.default_backend() if device is None else device.platform


def before_ampere() -> bool:
    """Whether these are NVIDIA GPUs of a compute capability below 8.0, such as T4 and V100.

    They have no products of bfloat16, and XLA compiles no Triton for them.
    """
    if platform() != "gpu":
        return False
    device = _device()
    return _compute_capability(jax.local_devices()[0].device_kind if device is None else device.device_kind) < 8


def _device() -> AbstractDevice | None:
    return jax.sharding.get_abstract_mesh().abstract_device


@cache
def _compute_capability(kind: str) -> float:
    """Infinity for GPUs that are not NVIDIA's; of a machine that is not there, by the name they had until Ampere."""
    for device in jax.local_devices():
        if device.device_kind == kind:
            try:
                return float(device.compute_capability)
            except (AttributeError, ValueError):  # gfx942
                return math.inf
    return 7.5 if kind.startswith("Tesla ") else math.inf
