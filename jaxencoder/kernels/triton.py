"""Flash attention (Dao et al. 2022, arXiv:2205.14135) on NVIDIA GPUs: jax's own Pallas kernel for Triton.

It supports documents and causal attention, but no windows, terms by distance or dropout.
"""

import importlib.util
import warnings

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from jaxencoder.kernels.inputs import PLAIN, AttentionInputs, AttentionOptions
from jaxencoder.kernels.platform import before_ampere

_MODULE = "jax.experimental.pallas.ops.gpu.attention"
_BLOCK = 128  # rows are padded to a multiple of it
_SMALLEST = 16  # shortest side of a product on tensor cores
_TILE_BYTES = 1 << 14  # of queries, keys or values; shared memory (99 KiB on small chips) holds five tiles or more


def runs() -> bool:
    """Whether this version of jax has the kernel and XLA compiles it for the GPUs in use."""
    return importlib.util.find_spec(_MODULE) is not None and not before_ampere()


def triton(inputs: AttentionInputs, options: AttentionOptions = PLAIN, *, interpret: bool = False) -> jax.Array:
    """Attention in tiles of up to 64 x 64 scores, of as many queries as keys; of the options `causal` is read."""
    with warnings.catch_warnings():
        # Since jax 0.12 the import recommends tokamax instead, which has no stable release yet.
        warnings.filterwarnings("ignore", r"jax\.experimental\.pallas\.ops\.gpu\.attention is", DeprecationWarning)
        from jax.experimental.pallas.ops.gpu.attention import BlockSizes, mha
    q, k, v, _, segments, *_ = inputs
    T, H = q.shape[1], q.shape[3]
    pad, more = -T % _BLOCK, max(_SMALLEST - H, 0)
    q, k, v = (jnp.pad(x.astype(v.dtype), ((0, 0), (0, pad), (0, 0), (0, more))) for x in (q, k, v))
    segments = jnp.pad(segments, ((0, 0), (0, pad)), constant_values=-1)  # padding sees itself
    block = max(_SMALLEST, min(64, _TILE_BYTES // (pl.next_power_of_2(H + more) * v.dtype.itemsize)))
    # Smaller blocks: the backward pass holds more tiles.
    backward = dict.fromkeys(("block_q_dkv", "block_kv_dkv", "block_q_dq", "block_kv_dq"), min(block, 32))
    blocks = BlockSizes(block_q=block, block_k=block, **backward)
    out: jax.Array = mha(q, k, v, segments, causal=options.causal, block_sizes=blocks, interpret=interpret)
    return out[:, :T, :, :H]
