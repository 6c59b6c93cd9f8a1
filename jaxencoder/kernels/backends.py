"""The backends by name, each on the inputs of one device."""

import jax

from jaxencoder.kernels.banded import banded
from jaxencoder.kernels.choice import KERNELS
from jaxencoder.kernels.chunked import chunked
from jaxencoder.kernels.dense import dense
from jaxencoder.kernels.inputs import AttentionInputs, AttentionOptions, Name
from jaxencoder.kernels.platform import platform
from jaxencoder.kernels.splash import splash
from jaxencoder.kernels.tiled import tiled
from jaxencoder.kernels.triton import triton

_ATTEND = {"dense": dense, "banded": banded, "chunked": chunked, "splash": splash, "tiled": tiled, "triton": triton}


def run_backend(name: Name, options: AttentionOptions, inputs: AttentionInputs) -> jax.Array:
    """Attention by one backend, [B, T, N, H]; a kernel requested on another kind of device is interpreted."""
    interpreted = {"interpret": platform() != KERNELS[name]} if name in KERNELS else {}
    return _ATTEND[name](inputs, options, **interpreted)
