"""Flash attention on NVIDIA GPUs: jax's own Pallas kernel for Triton, on packed rows.

Dao et al. 2022 (arXiv:2205.14135). It sees documents and knows neither windows, distances nor dropout.
"""

import warnings

import jax
import jax.numpy as jnp

_BLOCK = 128  # rows are filled up to a multiple of it


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
        # Since jax 0.12 its import names tokamax as what to use instead, whose own releases are not stable yet. Here,
        # so that a jax without it lacks this backend alone.
        warnings.filterwarnings("ignore", r"jax\.experimental\.pallas\.ops\.gpu\.attention is", DeprecationWarning)
        from jax.experimental.pallas.ops.gpu.attention import BlockSizes, mha
    T = q.shape[1]
    pad = -T % _BLOCK
    q, k, v = (jnp.pad(x.astype(v.dtype), ((0, 0), (0, pad), (0, 0), (0, 0))) for x in (q, k, v))
    segments = jnp.pad(segments, ((0, 0), (0, pad)), constant_values=-1)  # they see each other
    blocks = BlockSizes(block_q=64, block_k=64, block_q_dkv=32, block_kv_dkv=32, block_q_dq=32, block_kv_dq=32)
    return mha(q, k, v, segments, block_sizes=blocks, interpret=interpret)[:, :T]
