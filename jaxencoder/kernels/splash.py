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
    """Attention without terms by distance or dropout; a query that sees nothing gets a finite value.

    Raises:
        ValueError: a window or causal attention, and queries outside the range of the keys.
    """
    q, k, v, _, q_segments, k_segments, offset, _, _ = inputs
    window = options.window
    T, S, N = q.shape[1], k.shape[1], q.shape[2]
    if (window or options.causal) and not 0 <= offset <= S - T:
        raise ValueError(
            f"With a window, {T} queries from key {offset} on must lie within the {S} keys; use offsets 0 to {S - T}."
        )
    tiles = tuple(map(tile_length, (T, S), _LOCAL if window else _LONGEST))
    T_pad, S_pad = -T % tiles[0], -S % tiles[1]
    segments = splash_attention.SegmentIds(*pad_segments(q_segments, k_segments, T_pad, S_pad))
    sizes = T + T_pad, S + S_pad
    # A static mask of positions: its empty tiles are skipped. Documents are masked at run time, by segments.
    if window:
        mask = splash_attention.LocalMask(sizes, (window, 0 if options.causal else window), int(offset))
    elif options.causal:
        mask = splash_attention.CausalMask(sizes, int(offset))
    else:
        mask = splash_attention.FullMask(sizes)
    # The fused backward kernel holds a gradient of the queries per block of keys: use two kernels for several blocks.
    fused = tiles[1] == sizes[1]
    backward: dict[str, Any] = {"block_q_dkv": tiles[0], "block_kv_dkv": tiles[1], "use_fused_bwd_kernel": fused}
    if not fused:
        backward |= {"block_q_dq": tiles[0], "block_kv_dq": tiles[1]}
    kernel: Any = splash_attention.make_splash_mha_single_device(  # jax caches what it derives from equal masks
        splash_attention.MultiHeadMask([mask] * N),
        block_sizes=splash_attention.BlockSizes(tiles[0], tiles[1], **backward),
        residual_checkpoint_name=ATTENDED,
        interpret=interpret,
    )
    out: jax.Array = jax.vmap(kernel)(heads_first(q, T_pad), heads_first(k, S_pad), heads_first(v, S_pad), segments)
    return jnp.swapaxes(out, 1, 2)[:, :T]  # [B, N, T', H] -> [B, T, N, H]
