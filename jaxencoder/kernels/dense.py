"""Attention with all scores in memory: the reference that every other backend must equal."""

import jax
import jax.numpy as jnp

from jaxencoder.kernels.dropout import hashed_dropout, weight_indices
from jaxencoder.kernels.inputs import PLAIN, AttentionInputs, AttentionOptions

FLOOR = -1e30  # score of a masked key; finite, so that a query without visible keys yields no NaN


def dense(inputs: AttentionInputs, options: AttentionOptions = PLAIN, is_global: jax.Array | None = None) -> jax.Array:
    """Attention through scores [B, N, T, S] float32; a query without visible keys gets the mean of all values.

    `is_global` [B, S] bool marks keys that are visible from outside the window too.
    """
    q, k, v, relative, q_segments, k_segments, offset, seed, _ = inputs
    T, S = q.shape[1], k.shape[1]
    mask = q_segments[:, None, :, None] == k_segments[:, None, None, :]  # [B, 1, T, S]
    if options.window or options.causal:
        distance = jnp.arange(S) - offset - jnp.arange(T)[:, None]  # of a key from a query, [T, S]
        if options.window:
            near = jnp.abs(distance) <= options.window
            mask &= near if is_global is None else near | is_global[:, None, None, :]
        mask = mask & (distance <= 0) if options.causal else mask
    scores = jnp.einsum("BTNH,BSNH->BNTS", q, k, preferred_element_type=jnp.float32)
    if relative is not None:
        scores += relative.scores(q, k)
    if options.defer_normalization and not options.dropout:
        # Adding [B, 1, T, S] costs less than selecting in [B, N, T, S]: its terms are computed once for all heads.
        scores += jnp.where(mask, 0.0, FLOOR)
        weights = jnp.exp(scores - scores.max(-1, keepdims=True))
        out = jnp.einsum("BNTS,BSNH->BNTH", weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
        return jnp.swapaxes(out / weights.sum(-1, keepdims=True), 1, 2).astype(v.dtype)
    weights = masked_softmax(scores, mask)  # [B, N, T, S] float32
    if options.dropout:
        weights = hashed_dropout(weights, options.dropout, *weight_indices(seed, weights.shape, offset))
    weights = weights.astype(v.dtype)  # products in the compute dtype
    return jnp.einsum("BNTS,BSNH->BTNH", weights, v, preferred_element_type=jnp.float32).astype(v.dtype)


def masked_softmax(scores: jax.Array, mask: jax.Array) -> jax.Array:
    """Softmax of scores [..., T, S] float32 over the keys that the mask shows; equal weights if it shows none."""
    return jax.nn.softmax(jnp.where(mask, scores, FLOOR), axis=-1)
