"""Global attention in memory linear in T, on any platform: queries in blocks, each against all keys.

The scores of a block are computed again for the gradients, as by Rabe and Staats 2021 ("Self-attention does not need
O(n^2) memory", arXiv:2112.05682), from the logarithm of their sum (Dao et al. 2022, arXiv:2205.14135).
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from jaxencoder.kernels.dense import ATTENDED, FLOOR
from jaxencoder.kernels.blocked_bias import blocked_bias
from jaxencoder.kernels.dropout import hashed_keep
from jaxencoder.kernels.platform import platform
from jaxencoder.kernels.relative import RelativeTerms

_product = partial(jnp.einsum, preferred_element_type=jnp.float32)
_SCORES = {"cpu": 1 << 20}  # of a block, in all rows and heads; 4 MiB of float32 stay in the caches of a CPU


def chunked(
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
    block: int = 0,
) -> jax.Array:
    """As `dense`, through scores [N, B, block, S] float32, forward and backward; 0 for a query that sees no key.

    Args:
        block: queries of a block; 0 chooses a power of 2 from 32 to 512, by what the scores of a block take.

    Returns:
        [B, T, N, H] in the dtype of v.
    """
    B, T, N, _ = q.shape
    S = k.shape[1]
    block = block or block_size(B, T, N, S)
    pad = -T % block
    q, k, v = (jnp.moveaxis(x, 2, 0) for x in (q, k, v))  # heads first, as products leave them
    q = jnp.pad(q, ((0, 0), (0, 0), (0, pad), (0, 0)))
    q_segments = jnp.pad(q_segments, ((0, 0), (0, pad)))
    places = (q_segments, k_segments, jnp.asarray(offset), jnp.zeros(4, jnp.uint32) if seed is None else seed)
    out = _attend(q, k, v, relative or RelativeTerms(), places, block, window, dropout)
    return jnp.moveaxis(out, 0, 2)[:, :T]


def block_size(B: int, T: int, N: int, S: int) -> int:
    """Queries of a block, so that its scores stay in bounds for rows of any length; with many keys, whose gradients
    every block adds to, no fewer than a 32nd of them."""
    block, most = 512, _SCORES.get(platform(), 1 << 26)
    least = min(max(32, S // 32), 256)
    while block > least and (block * B * N * S > most or block // 2 >= T):
        block //= 2
    return block


@partial(jax.custom_vjp, nondiff_argnums=(5, 6, 7))
def _attend(q, k, v, relative, places, block, window, dropout):
    return _forward(q, k, v, relative, places, block, window, dropout)[0]


def _forward(q, k, v, relative, places, block, window, dropout):
    blocks = q.shape[2] // block
    saved = (q, k, v, relative, places)
    # Where gradients are asked for, jax takes out of a loop what does not depend on them, for all its turns at once:
    # the masks of all blocks together. Nothing is known of a barrier's results before its arguments all are.
    places, q = jax.lax.optimization_barrier((places, q))
    tables = blocked_bias(relative, k, q.shape[2], block)
    k, v = _turned(k), _turned(v)

    def attend(_, i):
        scores = _scores(_block(q, i, block), k, tables.met(i, blocks, block))
        scores = jnp.where(_mask(places, i, block, window), scores, FLOOR)
        top = scores.max(-1, keepdims=True)
        weights = jnp.exp(scores - top)
        total = weights.sum(-1, keepdims=True)
        if dropout:
            weights *= _factors(weights.shape, places, i, dropout)
        out = _product("NBTS,NBHS->NBTH", weights.astype(v.dtype), v)
        return None, (jnp.where(top > FLOOR, out / total, 0).astype(v.dtype), (top + jnp.log(total))[..., 0])

    _, (out, log_sums) = jax.lax.scan(attend, None, jnp.arange(blocks))
    out, log_sums = (jnp.moveaxis(x, 0, 2).reshape(*q.shape[:3], *x.shape[4:]) for x in (out, log_sums))
    out, log_sums = checkpoint_name((out, log_sums), ATTENDED)
    return out, (*saved, out, log_sums)


def _backward(block, window, dropout, saved, d_out):
    # Behind the barrier what follows is computed again; else XLA keeps it from the forward pass.
    q, k, v, relative, places, out, log_sums = jax.lax.optimization_barrier(saved)
    blocks = q.shape[2] // block
    tables, pull = jax.vjp(lambda relative, k: blocked_bias(relative, k, q.shape[2], block), relative, k)
    k, v = _turned(k), _turned(v)
    means = _product("NBTH,NBTH->NBT", out, d_out)

    def differentiate(sums, i):
        dk, dv, d_tables = sums
        q_i, d_out_i, met = _block(q, i, block), _block(d_out, i, block), tables.met(i, blocks, block)
        exp = jnp.exp(_scores(q_i, k, met) - _block(log_sums, i, block)[..., None])
        weights = jnp.where(_mask(places, i, block, window), exp, 0)
        d_weights = _product("NBTH,NBHS->NBTS", d_out_i, v)
        used = weights
        if dropout:
            factors = _factors(weights.shape, places, i, dropout)
            used, d_weights = weights * factors, d_weights * factors
        dv += _product("NBTH,NBTS->NBHS", d_out_i, used.astype(v.dtype))
        d_scores = weights * (d_weights - _block(means, i, block)[..., None])
        dk += _product("NBTH,NBTS->NBHS", q_i, d_scores.astype(q.dtype))
        dq_i = _product("NBTS,NBHS->NBTH", d_scores.astype(q.dtype), k)
        more, d_met = met.gradients(d_scores, q_i)
        dq_i, d_tables = dq_i + more, d_tables.plus(d_met, i, blocks, block)
        return (dk, dv, d_tables), dq_i.astype(q.dtype)

    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), (k, v, tables))
    (dk, dv, d_tables), dq = jax.lax.scan(differentiate, zeros, jnp.arange(blocks))
    d_relative, more = pull(jax.tree.map(lambda d, x: d.astype(x.dtype), d_tables, tables))
    dq = jnp.moveaxis(dq, 0, 2).reshape(q.shape)
    return dq, _turned(dk).astype(k.dtype) + more, _turned(dv).astype(v.dtype), d_relative, None


_attend.defvjp(_forward, _backward)


def _turned(x):
    """The length last, as products that sum over H or T leave the gradients of keys and values."""
    return jnp.swapaxes(x, 2, 3)


def _scores(q, k, met):
    return _product("NBTH,NBHS->NBTS", q, k) + met.scores(q, k.shape[3])


def _block(x, i, block):
    """Of [..., N, B, T] or [N, B, T, H] those of block i."""
    return jax.lax.dynamic_slice_in_dim(x, i * block, block, axis=2)


def _mask(places, i, block, window):
    """[B, block, S] bool"""
    q_segments, k_segments, offset, _ = places
    mask = jax.lax.dynamic_slice_in_dim(q_segments, i * block, block, axis=1)[:, :, None] == k_segments[:, None]
    if window:
        query, key = i * block + jnp.arange(block), jnp.arange(k_segments.shape[1]) - offset
        mask &= jnp.abs(key - query[:, None]) <= window
    return mask


def _factors(shape, places, i, dropout):
    """What dropout multiplies weights [N, B, block, S] with."""
    _, _, offset, seed = places
    head, batch, query, key = (jnp.arange(size) for size in shape)
    query, key = (seed[3] + x.astype(jnp.uint32) for x in (i * len(query) + query, key - offset))
    batch, head = seed[1] + batch.astype(jnp.uint32), seed[2] + head.astype(jnp.uint32)
    kept = hashed_keep(seed[0], batch[:, None, None], head[:, None, None, None], query[:, None], key, dropout)
    return jnp.where(kept, 1 / (1 - dropout), 0)
