"""The kind of devices that a program is compiled for, which may differ from this process's devices."""

import contextlib
import contextvars
import math
from collections.abc import Iterator
from functools import cache

import jax

_ANY = contextvars.ContextVar("any platform", default=False)


@contextlib.contextmanager
def any_platform() -> Iterator[None]:
    """Trace programs that run on devices of every kind: without kernels, and without what helps one kind alone."""
    token = _ANY.set(True)
    try:
        yield
    finally:
        _ANY.reset(token)


def platform() -> str:
    """cpu, gpu or tpu: of the mesh in use (`jax.set_mesh`), which need not be attached, else of this process.

    It is "any" for what is traced within `any_platform`.
    """
    if _ANY.get():
        return "any"
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.default_backend() if device is None else device.platform


def before_ampere() -> bool:
    """Whether the devices are NVIDIA GPUs of compute capability below 8.0, such as T4 and V100.

    These have no bfloat16 products, and XLA compiles no Triton for them.
    """
    if platform() != "gpu":
        return False
    device = jax.sharding.get_abstract_mesh().abstract_device
    return _compute_capability(jax.local_devices()[0].device_kind if device is None else device.device_kind) < 8


def before_tpu_v5() -> bool:
    """Whether the devices are TPUs of version 4 or older, with 16 MiB of fast memory or less for a kernel."""
    if platform() != "tpu":
        return False
    device = jax.sharding.get_abstract_mesh().abstract_device
    kind = jax.local_devices()[0].device_kind if device is None else device.device_kind
    return kind.startswith(("TPU v2", "TPU v3", "TPU v4"))


@cache
def _compute_capability(kind: str) -> float:
    """Infinity for GPUs of other makers; for GPUs that are not attached, guessed from the names used until Ampere."""
    for device in jax.local_devices():
        if device.device_kind == kind:
            try:
                return float(device.compute_capability)
            except (AttributeError, ValueError):  # AMD: gfx942
                return math.inf
    return 7.5 if kind.startswith("Tesla ") else math.inf
