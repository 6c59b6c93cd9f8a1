"""Global attention in memory linear in T, on any platform: queries in blocks, each against all keys.

The scores of a block are computed again for the gradients, as by Rabe and Staats 2021 ("Self-attention does not need
O(n^2) memory", arXiv:2112.05682), from the logarithm of their sum (Dao et al. 2022, arXiv:2205.14135).
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxencoder.kernels.dense import FLOOR
from jaxencoder.kernels.dropout import hashed_keep
from jaxencoder.kernels.platform import platform
from jaxencoder.kernels.relative import Relative, skew

_SCORES = {"cpu": 1 << 20}  # of a block, in all rows and heads; 4 MiB of float32 stay in the caches of a CPU


def chunked(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    q_segments: jax.Array,
    k_segments: jax.Array,
    relative: Relative | None = None,
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
    tables = _Tables(*(relative or Relative()))
    # Row T' - 1 + j - i of the filled-up row; heads first, so that no product has to move them.
    tables = jax.tree.map(lambda x: jnp.moveaxis(jnp.pad(x, [(pad, 0)] + [(0, 0)] * (x.ndim - 1)), 1, 0), tables)
    q, k, v = (jnp.moveaxis(x, 2, 0) for x in (q, k, v))
    q = jnp.pad(q, ((0, 0), (0, 0), (0, pad), (0, 0)))
    q_segments = jnp.pad(q_segments, ((0, 0), (0, pad)))
    places = (q_segments, k_segments, jnp.asarray(offset), jnp.zeros(4, jnp.uint32) if seed is None else seed)
    out = _attend(q, k, v, tables, places, block, window, dropout)
    return jnp.moveaxis(out, 0, 2)[:, :T]


def block_size(B: int, T: int, N: int, S: int) -> int:
    """Queries of a block, so that its scores stay in bounds for rows of any length; with many keys, whose gradients
    every block adds to, no fewer than a 32nd of them."""
    block, most = 512, _SCORES.get(platform(), 1 << 26)
    least = min(max(32, S // 32), 256)
    while block > least and (block * B * N * S > most or block // 2 >= T):
        block //= 2
    return block


class _Tables(NamedTuple):
    """As `Relative`, heads first: [N, R, H] each, [N, R] the bias."""

    keys: jax.Array | None
    queries: jax.Array | None
    bias: jax.Array | None


@partial(jax.custom_vjp, nondiff_argnums=(5, 6, 7))
def _attend(q, k, v, tables, places, block, window, dropout):
    return _forward(q, k, v, tables, places, block, window, dropout)[0]


def _forward(q, k, v, tables, places, block, window, dropout):
    def attend(_, i):
        scores = jnp.where(
            _mask(places, i, block, window), _scores(_block(q, i, block), k, _rows(tables, q, k, i, block)), FLOOR
        )
        top = scores.max(-1, keepdims=True)
        weights = jnp.exp(scores - top)
        total = weights.sum(-1, keepdims=True)
        if dropout:
            weights *= _factors(weights.shape, places, i, dropout)
        out = jnp.einsum("NBTS,NBSH->NBTH", weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
        return None, (jnp.where(top > FLOOR, out / total, 0).astype(v.dtype), (top + jnp.log(total))[..., 0])

    _, (out, log_sums) = jax.lax.scan(attend, None, jnp.arange(q.shape[2] // block))
    out, log_sums = (jnp.moveaxis(x, 0, 2).reshape(*q.shape[:3], *x.shape[4:]) for x in (out, log_sums))
    return out, (q, k, v, tables, places, out, log_sums)


def _backward(block, window, dropout, saved, d_out):
    q, k, v, tables, places, out, log_sums = saved
    means = jnp.einsum("NBTH,NBTH->NBT", out, d_out, preferred_element_type=jnp.float32)

    def differentiate(sums, i):
        dk, dv, d_tables = sums
        d_out_i = _block(d_out, i, block)
        scores, pull = jax.vjp(_scores, _block(q, i, block), k, _rows(tables, q, k, i, block))
        exp = jnp.exp(scores - _block(log_sums, i, block)[..., None])
        weights = jnp.where(_mask(places, i, block, window), exp, 0)
        d_weights = jnp.einsum("NBTH,NBSH->NBTS", d_out_i, v, preferred_element_type=jnp.float32)
        used = weights
        if dropout:
            factors = _factors(weights.shape, places, i, dropout)
            used, d_weights = weights * factors, d_weights * factors
        dv += jnp.einsum("NBTS,NBTH->NBSH", used.astype(v.dtype), d_out_i, preferred_element_type=jnp.float32)
        dq, dk_i, rows = pull(weights * (d_weights - _block(means, i, block)[..., None]))
        # In place: a sum of gradients as long as the tables would cost more than a block's products.
        add = lambda table, part: _put(table, _rows(table, q, k, i, block) + part, q, k, i, block)  # noqa: E731
        return (dk + dk_i, dv, jax.tree.map(add, d_tables, rows)), dq

    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), (k, v, tables))
    (dk, dv, d_tables), dq = jax.lax.scan(differentiate, zeros, jnp.arange(q.shape[2] // block))
    dq = jnp.moveaxis(dq, 0, 2).reshape(q.shape)
    sums = jax.tree.map(lambda d, x: d.astype(x.dtype), (dk, dv, d_tables), (k, v, tables))
    return dq, *sums, None


_attend.defvjp(_forward, _backward)


def _block(x, i, block):
    """Of [..., N, B, T] or [N, B, T, H] those of block i."""
    return jax.lax.dynamic_slice_in_dim(x, i * block, block, axis=2)


def _first_row(q, i, block):
    return q.shape[2] - (i + 1) * block


def _rows(tables, q, k, i, block):
    """The rows of tables for the distances that a block meets, row block - 1 + j - i."""
    size = block + k.shape[2] - 1
    return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, _first_row(q, i, block), size, axis=1), tables)


def _put(table, rows, q, k, i, block):
    return jax.lax.dynamic_update_slice_in_dim(table, rows, _first_row(q, i, block), axis=1)


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


def _scores(q, k, rows):
    """[N, B, T, H] of a block and [N, B, S, H] -> [N, B, T, S] float32."""
    product = partial(jnp.einsum, preferred_element_type=jnp.float32)
    (N, B, T, H), S = q.shape, k.shape[2]
    scores = product("NBTH,NBSH->NBTS", q, k)
    if rows.keys is not None:
        scores += skew(product("NBTH,NRH->NBTR", q, rows.keys), S)
    if rows.bias is not None:
        scores += skew(jnp.broadcast_to(rows.bias[:, None], (N, T, rows.bias.shape[1])), S)[:, None]
    if rows.queries is not None:
        # K keys meet T + K - 1 distances, where all of them together meet T + S - 1.
        K = T // 2 if T % 2 == 0 else T
        Y, more = -(-S // K), T // K
        table = jnp.pad(rows.queries, ((0, 0), (0, (Y + more) * K - rows.queries.shape[1]), (0, 0)))
        table = table.reshape(N, Y + more, K, H)
        table = jnp.concatenate([table[:, n : n + Y] for n in range(more + 1)], axis=2)[:, :, : T + K - 1]
        keys = jnp.pad(k, ((0, 0), (0, 0), (0, Y * K - S), (0, 0))).reshape(N, B, Y, K, H)
        # Seen from the keys, the distances run the other way.
        y = skew(product("NBYSH,NYRH->NYBSR", keys, table[:, :, ::-1]), T)
        scores += jnp.transpose(y, (0, 2, 4, 1, 3)).reshape(N, B, T, Y * K)[..., :S]
    return scores
