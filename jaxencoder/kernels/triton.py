"""Flash attention on NVIDIA GPUs: jax's own Pallas kernel for Triton, on packed rows.

Dao et al. 2022 (arXiv:2205.14135). It sees documents and knows neither windows, distances nor dropout.
"""

import importlib.util
import warnings

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from jaxencoder.kernels.platform import before_ampere

_MODULE = "jax.experimental.pallas.ops.gpu.attention"
_BLOCK = 128  # rows are filled up to a multiple of it
_SMALLEST = 16  # sides of a product, on tensor cores
_TILE_BYTES = 1 << 14  # of queries, keys or values: five tiles and more lie in shared memory, 99 KiB on small chips


def runs() -> bool:
    """Whether this jax still has the kernel, and XLA compiles it for the GPUs in use, if there are some."""
    return importlib.util.find_spec(_MODULE) is not None and not before_ampere()


def triton(q: jax.Array, k: jax.Array, v: jax.Array, segments: jax.Array, *, interpret: bool = False) -> jax.Array:
    """As `dense` without a window, in tiles of 64 x 64 scores and less.

    Args:
        q: [B, T, N, H], already scaled.
        k, v: [B, T, N, H].
        segments: [B, T] int, of queries and keys.
        interpret: run anywhere, slowly.

    Returns:
        [B, T, N, H] in the dtype of v.
    """
    with warnings.catch_warnings():
        # Since jax 0.12 its import names tokamax as what to use instead, whose own releases are not stable yet.
        warnings.filterwarnings("ignore", r"jax\.experimental\.pallas\.ops\.gpu\.attention is", DeprecationWarning)
        from jax.experimental.pallas.ops.gpu.attention import BlockSizes, mha
    T, H = q.shape[1], q.shape[3]
    pad, more = -T % _BLOCK, max(_SMALLEST - H, 0)
    q, k, v = (jnp.pad(x.astype(v.dtype), ((0, 0), (0, pad), (0, 0), (0, more))) for x in (q, k, v))
    segments = jnp.pad(segments, ((0, 0), (0, pad)), constant_values=-1)  # they see each other
    block = max(_SMALLEST, min(64, _TILE_BYTES // (pl.next_power_of_2(H + more) * v.dtype.itemsize)))
    # The backward pass holds more tiles.
    back = dict.fromkeys(("block_q_dkv", "block_kv_dkv", "block_q_dq", "block_kv_dq"), min(block, 32))
    blocks = BlockSizes(block_q=block, block_k=block, **back)
    return mha(q, k, v, segments, block_sizes=blocks, interpret=interpret)[:, :T, :, :H]
