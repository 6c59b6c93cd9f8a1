"""Peak FLOP/s of devices, for model FLOPs utilization (MFU); `model.flops` counts the model's FLOPs."""

import functools
import re
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# Dense bfloat16 (float16 on cards without it) with float32 accumulation, from the vendors' data sheets, per JAX device:
# a core of TPU v2, v3 and v7, else a chip. The first name found in the device's kind counts.
PEAK_FLOPS = (
    ("TPU v2", 22.5e12),
    ("TPU v3", 61.5e12),
    ("TPU v4 lite", 138e12),
    ("TPU v4", 275e12),
    ("TPU v5 lite", 197e12),
    ("TPU v5e", 197e12),
    ("TPU v5", 459e12),
    ("TPU v6", 918e12),
    ("TPU7", 1153.5e12),
    ("TPU v7", 1153.5e12),
    ("GB300", 2500e12),
    ("GB200", 2500e12),
    ("B300", 2250e12),
    ("B200", 2250e12),
    ("GH200", 989.4e12),
    ("H200 NVL", 835.5e12),
    ("H200", 989.4e12),
    ("H100 PCIe", 756e12),
    ("H100 NVL", 835.5e12),
    ("H100", 989.4e12),
    ("H800", 989.4e12),
    ("H20", 148e12),
    ("A100", 312e12),
    ("A800", 312e12),
    ("A30", 165e12),
    ("A40", 149.7e12),
    ("A10G", 70e12),
    ("A10", 125e12),
    ("L40S", 362e12),
    ("L40", 181e12),
    ("L20", 119.5e12),
    ("L4", 121e12),
    ("T4", 65e12),
    ("V100S", 130e12),
    ("V100-PCIE", 112e12),
    ("V100", 125e12),
    ("RTX 6000 Ada", 364.2e12),
    ("RTX A6000", 154.8e12),
    ("RTX 5090", 209.5e12),
    ("RTX 5080", 112.6e12),
    ("RTX 4090", 165.2e12),
    ("RTX 3090", 71e12),
    ("MI300X", 1307.4e12),
    ("MI250", 191.5e12),
)


def peak_flops(device: Any, dtype: str = "bfloat16") -> float:
    """Peak FLOP/s of one device: from the data sheet, or measured once in 0.2 s for unlisted devices.

    Args:
        device: a JAX device.
        dtype: dtype of the measured matrix products; the data sheets' numbers are for 16 bits in any case.
    """
    kind = device.device_kind.lower()
    for name, flops in PEAK_FLOPS:
        if re.search(rf"(?<![a-z0-9]){name.lower()}(?![0-9])", kind):
            return flops
    return _measured(device.platform, dtype) / (jax.local_device_count() if device.platform == "cpu" else 1)


@functools.cache
def _measured(platform: str, dtype: str, seconds: float = 0.2) -> float:
    size = 1024 if platform == "cpu" else 8192  # large enough to hide the start-up time
    device = jax.local_devices(backend=platform)[0]
    x = jax.device_put(np.ones((size, size), dtype), device)
    multiply = jax.jit(lambda x: jnp.matmul(x, x, preferred_element_type=jnp.float32))
    # The current mesh has all devices; the measurement needs one.
    with jax.set_mesh(jax.make_mesh((1,), ("one",), axis_types=(jax.sharding.AxisType.Auto,), devices=[device])):
        multiply(x).block_until_ready()
        best, end = float("inf"), time.perf_counter() + seconds
        while (start := time.perf_counter()) < end:
            multiply(x).block_until_ready()
            best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best
