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
    """Queries, keys and values, [B, length, N, H] each."""

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
    """Attention within a window, and from and to a few global tokens within their document: [B, T, N, H].

    Every token sees its window and its document's global tokens, in one float32 softmax over `local` keys. The output
    of a global token is softmax(q k^T / sqrt(H)) v of `full` instead, over its whole document (section 3.1).

    Args:
        local: of all T tokens.
        full: queries of the G global tokens; keys and values of all T tokens.
        segment_ids: [B, T] int, the document of each token, 0 for padding.
        global_slots: [B, G] int, distinct positions of the global tokens in the row, -1 for unused slots.
        options: with a window. `dense` holds [B, N, T, T] scores, other backends [B, N, T, 2 * window + 128 + 2 * G].
        key: a PRNG key for dropout; ValueError without one if there is dropout.
    """
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
    q, global_q = (x * (options.scale or x.shape[-1] ** -0.5) for x in (local.q, full.q))
    inputs = AttentionInputs(q, local.k, local.v, None, segment_ids, segment_ids, seed=seed)
    if choose_backend(options, T, global_tokens=True) == "dense":
        out = dense(inputs, options, is_global)
    else:
        k, v = (jnp.take_along_axis(x, indices[..., None, None], axis=1) for x in (local.k, local.v))
        out = banded(inputs, options, GlobalKeys(k, v, slot_segments, global_slots, is_global))
    # The outputs of the global tokens, [B, G, N, H].
    mask = slot_segments[:, None, :, None] == segment_ids[:, None, None, :]  # [B, 1, G, S]
    scores = jnp.einsum("BGNH,BSNH->BNGS", global_q, full.k, preferred_element_type=jnp.float32)
    weights = masked_softmax(scores, mask)
    if options.dropout:
        word, batch, head, _, key_index = weight_indices(seed, weights.shape)
        slots = global_slots[:, None, :, None]  # as the indices of queries
        weights = hashed_dropout(weights, options.dropout, word, batch, head, slots, key_index)
    weights = weights.astype(full.v.dtype)
    global_out = jnp.einsum("BNGS,BSNH->BGNH", weights, full.v, preferred_element_type=jnp.float32)
    return write(out, targets, global_out.astype(out.dtype))
