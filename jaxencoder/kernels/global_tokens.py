"""Windows with a few global tokens: Longformer's attention (Beltagy et al. 2020, arXiv:2004.05150)."""

import jax
import jax.numpy as jnp

from jaxencoder.kernels.banded import Beside, banded
from jaxencoder.kernels.choice import Backend, choose_backend
from jaxencoder.kernels.dense import dense, masked_softmax, places
from jaxencoder.kernels.dropout import hashed_dropout, random_seed


def global_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    global_q: jax.Array,
    global_k: jax.Array,
    global_v: jax.Array,
    segment_ids: jax.Array,
    global_slots: jax.Array,
    *,
    window: int,
    dropout: float = 0.0,
    key: jax.Array | None = None,
    backend: Backend = "auto",
) -> jax.Array:
    """Attention within a window, and from and to a few global tokens in all of their document.

    Every token sees its window and its document's global tokens, in one softmax. A global token's own output is
    softmax(global_q global_k^T / sqrt(H)) global_v instead, over all of its document.

    Args:
        q, k, v: [B, T, N, H], any float dtype; the softmax is float32.
        global_q: [B, G, N, H] of the global tokens alone.
        global_k, global_v: [B, T, N, H], what they see.
        segment_ids: [B, T] int, the document of each token, 0 for padding.
        global_slots: [B, G] int, where in the row the global tokens stand, none twice; -1 where there is none.
        window: how many tokens to either side a query sees.
        dropout: probability that an attention weight is dropped; needs `key`.
        backend: `dense` holds [B, N, T, T] scores; every other [B, N, T, about 2 * window + 128 + 2 * G].

    Returns:
        [B, T, N, H] in the dtype of v.

    Raises:
        ValueError: no window, or dropout without a key.
    """
    if not window:
        raise ValueError("Global tokens need a window for the others; without one every token is global.")
    if dropout and key is None:
        raise ValueError(f"Attention dropout {dropout} needs a key.")
    T = segment_ids.shape[1]
    seed = random_seed(key)
    there, inside = global_slots >= 0, jnp.maximum(global_slots, 0)
    slots = jnp.where(there, global_slots, T)  # behind the row: dropped when written
    write = jax.vmap(lambda row, at, values: row.at[at].set(values, mode="drop"))
    is_global = write(jnp.zeros(segment_ids.shape, bool), slots, there)
    slot_segments = jnp.where(there, jnp.take_along_axis(segment_ids, inside, axis=1), -1)  # -1 is nobody's
    q, global_q = (x * (x.shape[-1] ** -0.5) for x in (q, global_q))
    local = (q, k, v, segment_ids, segment_ids)
    options = {"window": window, "dropout": dropout, "seed": seed}
    if choose_backend(backend, T, window, global_tokens=True) == "dense":
        out = dense(*local, is_global=is_global, **options)
    else:
        beside_k, beside_v = (jnp.take_along_axis(x, inside[..., None, None], axis=1) for x in (k, v))
        out = banded(*local, beside=Beside(beside_k, beside_v, slot_segments, global_slots, is_global), **options)
    mask = slot_segments[:, None, :, None] == segment_ids[:, None, None, :]  # [B, 1, G, S]
    scores = jnp.einsum("BGNH,BSNH->BNGS", global_q, global_k, preferred_element_type=jnp.float32)
    weights = masked_softmax(scores, mask)
    if dropout:
        batch, head, _, keys = places(seed, weights.shape, 0)
        weights = hashed_dropout(weights, dropout, seed, batch, head, global_slots[:, None, :, None], keys)
    weights = weights.astype(global_v.dtype)
    seen = jnp.einsum("BNGS,BSNH->BGNH", weights, global_v, preferred_element_type=jnp.float32)
    return write(out, slots, seen.astype(out.dtype))
