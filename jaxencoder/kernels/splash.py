"""Attention without scores of distances on TPUs: JAX's splash attention, which skips the tiles outside of a window."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu import splash_attention

from jaxencoder.kernels.dense import ATTENDED

_LANES = 128
_LONGEST = 1024, 1024  # queries and keys of a tile
_LOCAL = 512, 256  # with a window, outside of which most keys of a tile are


def splash(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    q_segments: jax.Array,
    k_segments: jax.Array,
    *,
    window: int = 0,
    offset: int = 0,
    interpret: bool = False,
) -> jax.Array:
    """Bidirectional attention within documents, and within a window if there is one.

    Args:
        q: [B, T, N, H] bfloat16 or float32, scaled already.
        k, v: [B, S, N, H] in the dtype of q.
        q_segments: [B, T] int32, the document of each query; padding is a document of its own, 0.
        k_segments: [B, S] int32 likewise; tokens of segment -1, queries or keys, are seen by nobody.
        window: how many tokens to either side a query sees; 0 means all of its document.
        offset: where query 0 stands among the keys, with a window.
        interpret: run on any device, slowly.

    Returns:
        [B, T, N, H] in the dtype of q. A query that sees nothing gets something finite.

    Raises:
        ValueError: a window that begins or ends with queries beside all keys.
    """
    T, S, N = q.shape[1], k.shape[1], q.shape[2]
    if window and not 0 <= offset <= S - T:
        raise ValueError(f"With a window, {T} queries from key {offset} on need as many of the {S} keys.")
    longest = _LOCAL if window else _LONGEST
    blocks = tile_length(T, longest[0]), tile_length(S, longest[1])
    T_pad, S_pad = -T % blocks[0], -S % blocks[1]

    def heads(x: jax.Array, pad: int) -> jax.Array:
        """[B, T, N, H] -> [B, N, T', H]"""
        return jnp.swapaxes(jnp.pad(x, [(0, 0), (0, pad), (0, 0), (0, 0)]), 1, 2)

    # Two numbers for what is nobody's: not even the others of its kind see it.
    q_segments = jnp.pad(jnp.where(q_segments < 0, -2, q_segments), [(0, 0), (0, T_pad)], constant_values=-2)
    k_segments = jnp.pad(jnp.where(k_segments < 0, -1, k_segments), [(0, 0), (0, S_pad)], constant_values=-1)
    kernel = _kernel(N, T + T_pad, S + S_pad, blocks, window, offset, interpret)
    segments = splash_attention.SegmentIds(q_segments, k_segments)
    out = jax.vmap(kernel)(heads(q, T_pad), heads(k, S_pad), heads(v, S_pad), segments)
    return jnp.swapaxes(out, 1, 2)[:, :T]


def tile_length(length: int, longest: int) -> int:
    """The least multiple of 128 tokens that covers a length with as few tiles as those of the longest length do."""
    blocks = -(-length // longest)
    return -(-length // (blocks * _LANES)) * _LANES


def _kernel(
    N: int, T: int, S: int, blocks: tuple[int, int], window: int, offset: int, interpret: bool
) -> Callable[..., jax.Array]:
    """What one row's heads [N, T, H] go through; jax keeps what it finds out about equal masks."""
    if window:
        mask = splash_attention.LocalMask((T, S), (window, window), offset)
    else:
        mask = splash_attention.FullMask((T, S))
    queries, keys = blocks
    # One backward kernel keeps a gradient of the queries for every block of keys: two kernels where there are several.
    fused = keys == S
    sizes = splash_attention.BlockSizes(
        block_q=queries,
        block_kv=keys,
        block_q_dkv=queries,
        block_kv_dkv=keys,
        block_q_dq=None if fused else queries,
        block_kv_dq=None if fused else keys,
        use_fused_bwd_kernel=fused,
    )
    return splash_attention.make_splash_mha(
        splash_attention.MultiHeadMask([mask] * N),
        block_sizes=sizes,
        head_shards=1,
        q_seq_shards=1,
        residual_checkpoint_name=ATTENDED,
        interpret=interpret,
    )
