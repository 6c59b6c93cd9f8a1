"""Global attention in memory linear in T, on any platform: queries in blocks, scores computed again for the gradients.

As Rabe and Staats 2021 ("Self-attention does not need O(n^2) memory", arXiv:2112.05682), but each block sees all keys
at once.
"""

from functools import partial

import jax
import jax.numpy as jnp

from jaxencoder.kernels.dense import FLOOR, places
from jaxencoder.kernels.dropout import hashed_dropout
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
    """As `dense`, through scores [B, N, block, S] float32, forward and backward.

    Args:
        block: queries of a block; 0 chooses a power of 2 from 32 to 512, by what the scores of a block take.

    Returns:
        [B, T, N, H] in the dtype of v.
    """
    B, T, N, H = q.shape
    S = k.shape[1]
    block = block or block_size(B, T, N, S)
    X = -(-T // block)
    pad = X * block - T
    if relative is not None:
        relative = relative.rows(-pad, T + pad + S - 1)  # of the filled-up row

    def blocks(x: jax.Array) -> jax.Array:
        """[B, T, ...] -> [X, B, block, ...]"""
        x = jnp.pad(x, [(0, 0), (0, pad)] + [(0, 0)] * (x.ndim - 2))
        return jnp.moveaxis(x.reshape(B, X, block, *x.shape[2:]), 1, 0)

    # In float32, so that the gradients of the blocks add up in it; what is computed with has the dtypes that came.
    exact = jax.tree.map(lambda x: x.astype(jnp.float32), (k, v, relative))
    dtypes = jax.tree.map(lambda x: x.dtype, (k, v, relative))

    @partial(jax.checkpoint, prevent_cse=False)
    def attend(q, q_segments, i, exact):
        k, v, relative = jax.tree.map(lambda x, dtype: x.astype(dtype), exact, dtypes)
        scores = jnp.einsum("BTNH,BSNH->BNTS", q, k, preferred_element_type=jnp.float32)
        if relative is not None:
            scores += _scores(q, k, relative.rows((X - 1 - i) * block, block + S - 1))
        mask = q_segments[:, None, :, None] == k_segments[:, None, None, :]
        if window:
            at = i * block + jnp.arange(block)[:, None]
            mask &= jnp.abs(jnp.arange(S) - offset - at) <= window
        scores = jnp.where(mask, scores, FLOOR)
        # The largest score cancels: without a gradient of its own it need not be found again.
        weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(-1, keepdims=True)))
        total = weights.sum(-1)
        if dropout:
            weights = hashed_dropout(weights, dropout, seed, *places(seed, weights.shape, offset, i * block))
        out = jnp.einsum("BNTS,BSNH->BTNH", weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
        return (out / jnp.moveaxis(total, 1, 2)[..., None]).astype(v.dtype)

    parts = blocks(q), blocks(q_segments), jnp.arange(X)
    if X == 1:
        return attend(*jax.tree.map(lambda x: x[0], parts), exact)[:, :T]
    _, out = jax.lax.scan(lambda _, x: (None, attend(*x, exact)), None, parts)
    return jnp.moveaxis(out, 0, 1).reshape(B, X * block, N, H)[:, :T]


def block_size(B: int, T: int, N: int, S: int) -> int:
    """Queries of a block, so that its scores stay in bounds for rows of any length."""
    block, most = 512, _SCORES.get(platform(), 1 << 26)
    while block > 32 and (block * B * N * S > most or block // 2 >= T):
        block //= 2
    return block


def _scores(q: jax.Array, k: jax.Array, relative: Relative) -> jax.Array:
    """As `relative.scores`, where the keys [B, S, N, H] are many more than the queries [B, T, N, H].

    A block of T keys meets 2 T - 1 distances, of all T + S - 1.
    """
    if relative.queries is None:
        return relative.scores(q, k)
    B, T, N, H = q.shape
    S = k.shape[1]
    Y = -(-S // T)
    pad = Y * T - S
    table = jnp.pad(relative.queries, ((0, pad + 1), (0, 0), (0, 0))).reshape(Y + 1, T, N, H)
    table = jnp.concatenate([table[:-1], table[1:]], axis=1)[:, ::-1][:, 1:]  # [Y, 2 T - 1, N, H]
    keys = jnp.pad(k, ((0, 0), (0, pad), (0, 0), (0, 0))).reshape(B, Y, T, N, H)
    y = jnp.einsum("BYSNH,YRNH->BNYSR", keys, table, preferred_element_type=jnp.float32)
    scores = jnp.moveaxis(skew(y, T), -1, 2).reshape(B, N, T, Y * T)[..., :S]
    return scores + Relative(relative.keys, None, relative.bias).scores(q, k)
