"""Attention with all scores in memory: the reference that every other backend must equal."""

import jax
import jax.numpy as jnp

from jaxencoder.kernels.dropout import hashed_dropout
from jaxencoder.kernels.relative import RelativeTerms

FLOOR = -1e30  # a finite one: a query that sees no key must not make NaN
ATTENDED = "attended"  # the name, for remat policies, of what backends without all scores in memory keep of a layer


def dense(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    q_segments: jax.Array,
    k_segments: jax.Array,
    relative: RelativeTerms | None = None,
    *,
    window: int = 0,
    offset: jax.typing.ArrayLike = 0,
    dropout: float = 0.0,
    seed: jax.Array | None = None,
    is_global: jax.Array | None = None,
    late: bool = False,
) -> jax.Array:
    """softmax(q k^T + relative + mask) v, through scores [B, N, T, S] float32.

    Args:
        q: [B, T, N, H], already scaled, as the tables of `relative` are.
        k, v: [B, S, N, H].
        q_segments, k_segments: [B, T] and [B, S] int; a query sees the keys with its own number.
        relative: what distances add.
        window: how many tokens to either side a query sees; 0: all.
        offset: the key that stands where the first query does.
        dropout: probability that a weight is dropped.
        seed: of `random_seed`, for dropout.
        is_global: [B, S] bool, keys that are seen from outside the window too.
        late: divide by the sum of the softmax after the product with v, as flash attention does (Dao et al. 2022,
            arXiv:2205.14135), where there is no dropout: the same up to rounding, in half the time on a CPU.

    Returns:
        [B, T, N, H] in the dtype of v.
    """
    T, S = q.shape[1], k.shape[1]
    mask = q_segments[:, None, :, None] == k_segments[:, None, None, :]  # [B, 1, T, S]
    if window:
        near = jnp.abs(jnp.arange(S) - offset - jnp.arange(T)[:, None]) <= window
        mask &= near if is_global is None else near | is_global[:, None, None, :]
    scores = jnp.einsum("BTNH,BSNH->BNTS", q, k, preferred_element_type=jnp.float32)
    if relative is not None:
        scores += relative.scores(q, k)
    if late and not dropout:
        # Added, the mask is worked out once for all heads.
        scores += jnp.where(mask, 0.0, FLOOR)
        weights = jnp.exp(scores - scores.max(-1, keepdims=True))
        out = jnp.einsum("BNTS,BSNH->BNTH", weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
        return jnp.swapaxes(out / weights.sum(-1, keepdims=True), 1, 2).astype(v.dtype)
    weights = masked_softmax(scores, mask)
    if dropout:
        weights = hashed_dropout(weights, dropout, seed, *places(seed, weights.shape, offset))
    weights = weights.astype(v.dtype)
    return jnp.einsum("BNTS,BSNH->BTNH", weights, v, preferred_element_type=jnp.float32).astype(v.dtype)


def masked_softmax(scores: jax.Array, mask: jax.Array) -> jax.Array:
    """Over the last axis, of what the mask lets through; equal weights where that is nothing."""
    return jax.nn.softmax(jnp.where(mask, scores, FLOOR), axis=-1)


def places(
    seed: jax.Array, shape: tuple[int, ...], offset: jax.typing.ArrayLike, first: jax.typing.ArrayLike = 0
) -> tuple[jax.Array, ...]:
    """Batch, head, query and key, in the whole batch, of scores [B, N, T, S] whose queries begin at `first`."""
    batch, head, query, key = (jnp.arange(size) for size in shape)
    # The key in the first query's place, `offset`, is seed[3] in the whole row.
    batch, head = seed[1] + batch.astype(jnp.uint32), seed[2] + head.astype(jnp.uint32)
    query, key = seed[3] + (first + query).astype(jnp.uint32), seed[3] + (key - offset).astype(jnp.uint32)
    return batch[:, None, None, None], head[:, None, None], query[:, None], key
