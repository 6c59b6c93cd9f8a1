"""The backends by name, each on the inputs of one device."""

import jax

from jaxencoder.kernels.banded import banded
from jaxencoder.kernels.chunked import chunked
from jaxencoder.kernels.dense import dense
from jaxencoder.kernels.inputs import AttentionInputs, AttentionOptions, Name
from jaxencoder.kernels.platform import platform
from jaxencoder.kernels.splash import splash
from jaxencoder.kernels.tiled import tiled
from jaxencoder.kernels.triton import triton


def run_backend(name: Name, options: AttentionOptions, inputs: AttentionInputs) -> jax.Array:
    """Attention by one backend, [B, T, N, H]; a kernel requested on another kind of device is interpreted."""
    match name:
        case "dense":
            return dense(inputs, options)
        case "banded":
            return banded(inputs, options)
        case "chunked":
            return chunked(inputs, options)
        case "triton":
            return triton(inputs, interpret=platform() != "gpu")
        case "splash":
            return splash(inputs, options, interpret=platform() != "tpu")
        case "tiled":
            return tiled(inputs, options, interpret=platform() != "tpu")
