"""Peak FLOP/s of devices, for model FLOPs utilization (MFU); `model.flops` counts the model's FLOPs."""

import functools
import re
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# TFLOP/s in dense bfloat16 (float16 on cards without it) with float32 accumulation, from the vendors' data sheets, per
# JAX device: a core of TPU v2, v3 and v7, else a chip. The first name found in the device's kind counts.
PEAK_TFLOPS = {
    "TPU v2": 22.5, "TPU v3": 61.5, "TPU v4 lite": 138, "TPU v4": 275, "TPU v5 lite": 197, "TPU v5e": 197,
    "TPU v5": 459, "TPU v6": 918, "TPU7": 1153.5, "TPU v7": 1153.5,
    "GB300": 2500, "GB200": 2500, "B300": 2250, "B200": 2250,
    "GH200": 989.4, "H200 NVL": 835.5, "H200": 989.4,
    "H100 PCIe": 756, "H100 NVL": 835.5, "H100": 989.4, "H800": 989.4, "H20": 148,
    "A100": 312, "A800": 312, "A30": 165, "A40": 149.7, "A10G": 70, "A10": 125,
    "L40S": 362, "L40": 181, "L20": 119.5, "L4": 121,
    "T4": 65, "V100S": 130, "V100-PCIE": 112, "V100": 125,
    "RTX 6000 Ada": 364.2, "RTX A6000": 154.8, "RTX 5090": 209.5, "RTX 5080": 112.6, "RTX 4090": 165.2, "RTX 3090": 71,
    "MI300X": 1307.4, "MI250": 191.5,
}  # fmt: skip


def peak_flops(device: Any, dtype: str = "bfloat16") -> float:
    """Peak FLOP/s of one device: from the data sheet, or measured once in 0.2 s for unlisted devices.

    `dtype` is that of the measured matrix products; the data sheets' numbers are for 16 bits in any case.
    """
    for name, teraflops in PEAK_TFLOPS.items():
        if re.search(rf"(?<![a-z0-9]){name}(?![0-9])", device.device_kind, re.IGNORECASE):
            return teraflops * 1e12
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
