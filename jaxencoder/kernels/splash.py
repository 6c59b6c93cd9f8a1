"""Attention without terms by distance on TPUs: JAX's splash attention, which skips the tiles outside a window."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu import splash_attention

from jaxencoder.kernels.inputs import ATTENDED, PLAIN, AttentionInputs, AttentionOptions
from jaxencoder.kernels.tiles import heads_first, pad_segments, tile_length

_LONGEST = 1024, 1024  # queries and keys of a tile
_LOCAL = 512, 256  # with a window, which leaves out most keys of a larger tile


def splash(inputs: AttentionInputs, options: AttentionOptions = PLAIN, *, interpret: bool = False) -> jax.Array:
    """Bidirectional attention within documents, and within a window if there is one.

    Args:
        inputs: see `AttentionInputs`; relative and seed are not read.
        options: window.
        interpret: run on any device, slowly.

    Returns:
        [B, T, N, H] in the dtype of q. A query that sees nothing gets a finite value.

    Raises:
        ValueError: a window and queries outside the range of the keys.
    """
    q, k, v, _, q_segments, k_segments, offset, _ = inputs
    window = options.window
    T, S, N = q.shape[1], k.shape[1], q.shape[2]
    if window and not 0 <= offset <= S - T:
        raise ValueError(
            f"With a window, {T} queries from key {offset} on must lie within the {S} keys; use offsets 0 to {S - T}."
        )
    longest = _LOCAL if window else _LONGEST
    tiles = tile_length(T, longest[0]), tile_length(S, longest[1])
    T_pad, S_pad = -T % tiles[0], -S % tiles[1]
    segments = splash_attention.SegmentIds(*pad_segments(q_segments, k_segments, T_pad, S_pad))
    sizes = T + T_pad, S + S_pad
    if window:
        mask = splash_attention.LocalMask(sizes, (window, window), int(offset))
    else:
        mask = splash_attention.FullMask(sizes)
    kernel = _kernel([mask] * N, tiles, interpret)
    out = jax.vmap(kernel)(heads_first(q, T_pad), heads_first(k, S_pad), heads_first(v, S_pad), segments)
    return jnp.swapaxes(out, 1, 2)[:, :T]


def _kernel(masks: list[Any], tiles: tuple[int, int], interpret: bool) -> Any:
    """Kernel for one row's heads [N, T, H]; jax caches what it derives from equal masks."""
    queries, keys = tiles
    # The fused backward kernel holds a gradient of the queries per block of keys: use two kernels for several blocks.
    fused = keys == masks[0].shape[1]
    blocks = splash_attention.BlockSizes(
        block_q=queries,
        block_kv=keys,
        block_q_dkv=queries,
        block_kv_dkv=keys,
        block_q_dq=None if fused else queries,
        block_kv_dq=None if fused else keys,
        use_fused_bwd_kernel=fused,
    )
    return splash_attention.make_splash_mha(
        splash_attention.MultiHeadMask(masks),
        block_sizes=blocks,
        head_shards=1,
        q_seq_shards=1,
        residual_checkpoint_name=ATTENDED,
        interpret=interpret,
    )
