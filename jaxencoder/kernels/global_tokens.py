"""Windowed attention with a few global tokens: Longformer (Beltagy et al. 2020, arXiv:2004.05150)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxencoder.kernels.banded import GlobalKeys, banded
from jaxencoder.kernels.choice import choose_backend
from jaxencoder.kernels.dense import dense, masked_softmax
from jaxencoder.kernels.dropout import hashed_dropout, random_seed, weight_indices
from jaxencoder.kernels.inputs import AttentionInputs, AttentionOptions


class QKV(NamedTuple):
    """Queries, keys and values, [B, length, N, H] in any float dtype."""

    q: jax.Array
    k: jax.Array
    v: jax.Array


def global_attention(
    local: QKV,
    full: QKV,
    segment_ids: jax.Array,
    global_slots: jax.Array,
    *,
    options: AttentionOptions,
    key: jax.Array | None = None,
) -> jax.Array:
    """Attention within a window, and from and to a few global tokens within their document.

    Every token sees its window and its document's global tokens, in one float32 softmax over `local` keys. The output
    of a global token is softmax(q k^T / sqrt(H)) v of `full` instead, over its whole document.

    Args:
        local: of all T tokens.
        full: queries of the G global tokens; keys and values of all T tokens.
        segment_ids: [B, T] int, the document of each token, 0 for padding.
        global_slots: [B, G] int, distinct positions of the global tokens in the row, -1 for unused slots.
        options: see `AttentionOptions`. `dense` holds [B, N, T, T] scores, every other backend
            [B, N, T, about 2 * window + 128 + 2 * G].
        key: a PRNG key for dropout.

    Returns:
        [B, T, N, H] in the dtype of v.

    Raises:
        ValueError: no window, or dropout without a key.
    """
    if not options.window:
        raise ValueError("Global tokens need a window for the other tokens; without one every token is global.")
    if options.dropout and key is None:
        raise ValueError(f"Attention dropout {options.dropout} needs a key.")
    T = segment_ids.shape[1]
    seed = random_seed(key)
    used, indices = global_slots >= 0, jnp.maximum(global_slots, 0)  # [B, G]
    targets = jnp.where(used, global_slots, T)  # unused slots point behind the row, where writes are dropped
    write = jax.vmap(lambda row, index, values: row.at[index].set(values, mode="drop"))
    is_global = write(jnp.zeros(segment_ids.shape, bool), targets, used)  # [B, T]
    # Segment -1 is seen by no one.
    slot_segments = jnp.where(used, jnp.take_along_axis(segment_ids, indices, axis=1), -1)  # [B, G]
    q, global_q = (x * (x.shape[-1] ** -0.5) for x in (local.q, full.q))
    inputs = AttentionInputs(q, local.k, local.v, None, segment_ids, segment_ids, seed=seed)
    if choose_backend(options, T, global_tokens=True) == "dense":
        out = dense(inputs, options, is_global)
    else:
        k, v = (jnp.take_along_axis(x, indices[..., None, None], axis=1) for x in (local.k, local.v))
        out = banded(inputs, options, GlobalKeys(k, v, slot_segments, global_slots, is_global))
    full = full._replace(q=global_q)
    global_out = _full_attention(full, slot_segments, segment_ids, global_slots, options.dropout, seed)
    return write(out, targets, global_out.astype(out.dtype))


def _full_attention(
    full: QKV, segments: jax.Array, segment_ids: jax.Array, slots: jax.Array, dropout: float, seed: jax.Array | None
) -> jax.Array:
    """Outputs of the global tokens, [B, G, N, H] float32."""
    mask = segments[:, None, :, None] == segment_ids[:, None, None, :]  # [B, 1, G, S]
    scores = jnp.einsum("BGNH,BSNH->BNGS", full.q, full.k, preferred_element_type=jnp.float32)
    weights = masked_softmax(scores, mask)
    if dropout:
        word, batch, head, _, keys = weight_indices(seed, weights.shape)
        indices = batch[:, None, None, None], head[:, None, None], slots[:, None, :, None], keys
        weights = hashed_dropout(weights, dropout, word, *indices)
    return jnp.einsum("BNGS,BSNH->BGNH", weights.astype(full.v.dtype), full.v, preferred_element_type=jnp.float32)
