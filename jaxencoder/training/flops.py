"""How much arithmetic a token takes to train on, and how much a device can do: the two halves of MFU.

MFU counts no recomputed work: Chowdhery et al. 2022 (PaLM, arXiv:2204.02311, appendix B).
"""

import functools
import time

import jax
import jax.numpy as jnp
import numpy as np

from jaxencoder.model.config import EncoderConfig

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
    ("GB200", 2500e12),
    ("B200", 2250e12),
    ("GH200", 989.4e12),
    ("H200 NVL", 835.5e12),
    ("H200", 989.4e12),
    ("H100 PCIe", 756e12),
    ("H100 NVL", 835.5e12),
    ("H100", 989.4e12),
    ("A100", 312e12),
    ("A30", 165e12),
    ("A40", 149.7e12),
    ("A10G", 70e12),
    ("A10", 125e12),
    ("L40S", 362e12),
    ("L40", 181e12),
    ("L4", 121e12),
    ("T4", 65e12),
    ("V100S", 130e12),
    ("V100-PCIE", 112e12),
    ("V100", 125e12),
    ("RTX 6000 Ada", 364.2e12),
    ("RTX A6000", 154.8e12),
    ("RTX 5090", 209.5e12),
    ("RTX 4090", 165.2e12),
    ("RTX 3090", 71e12),
    ("MI300X", 1307.4e12),
    ("MI250", 191.5e12),
)


def peak_flops(device: jax.Device, dtype: str = "bfloat16") -> float:
    """FLOP/s of one device at its best: from the data sheet, or measured (0.2 s, once) where there is none.

    Args:
        device: a JAX device.
        dtype: of the matrix products that are measured; the data sheets' numbers are for 16 bits whatever it is.
    """
    kind = device.device_kind.lower()
    for name, flops in PEAK_FLOPS:
        if name.lower() in kind:
            return flops
    return _measured(device.platform, dtype) / (jax.local_device_count() if device.platform == "cpu" else 1)


@functools.cache
def _measured(platform: str, dtype: str, size: int = 1024, seconds: float = 0.2) -> float:
    device = jax.local_devices(backend=platform)[0]
    x = jax.device_put(np.ones((size, size), dtype), device)
    multiply = jax.jit(lambda x: jnp.matmul(x, x, preferred_element_type=jnp.float32))
    # The mesh in use is of all devices, and this is about one.
    with jax.set_mesh(jax.make_mesh((1,), ("one",), axis_types=(jax.sharding.AxisType.Auto,), devices=[device])):
        multiply(x).block_until_ready()
        best, end = float("inf"), time.perf_counter() + seconds
        while (start := time.perf_counter()) < end:
            multiply(x).block_until_ready()
            best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def training_flops(model: EncoderConfig, row_length: int, predicted: float = 0.0) -> float:
    """FLOPs of forward and backward pass per token: those of `forward_flops`, and twice as many backward."""
    return 3 * forward_flops(model, row_length, predicted)


def forward_flops(model: EncoderConfig, row_length: int, predicted: float = 0.0) -> float:
    """FLOPs of a forward pass per token: 2 a weight, and attention's products.

    Args:
        model: the architecture; without a window, row_length is taken for the number of keys of a query (with many
            documents in a row the useful number is smaller).
        row_length: T.
        predicted: share of the tokens that a masked-language-model head predicts; 0 without one.
    """
    D, E, V = model.hidden_size, model.embedding_width, model.vocab_size
    attention = 2 * D * model.head_size * (model.num_heads + model.kv_heads)
    weights = attention + (3 if model.gated_mlp else 2) * D * model.mlp_size
    windows = [model.windows[layer % len(model.windows)] for layer in range(model.num_layers)]
    keys = sum(min(2 * window + 1, row_length) if window else row_length for window in windows)
    head = predicted * ((D * E if model.head_transform else 0) + E * V)
    return 2.0 * (weights * model.num_layers + D * model.embedding_size + head) + 4 * D * keys
