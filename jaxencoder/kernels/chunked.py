"""Global attention in memory linear in T, on any platform: blocks of queries, each against all keys.

A block's scores are recomputed for the gradients, as by Rabe and Staats 2021 ("Self-attention does not need O(n^2)
memory", arXiv:2112.05682), from the logarithm of their sum (Dao et al. 2022, arXiv:2205.14135).
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from jaxencoder.kernels.blocked_bias import blocked_bias
from jaxencoder.kernels.dense import FLOOR
from jaxencoder.kernels.dropout import hashed_keep, weight_indices
from jaxencoder.kernels.inputs import ATTENDED, PLAIN, AttentionInputs, AttentionOptions
from jaxencoder.kernels.platform import platform

_product = partial(jnp.einsum, preferred_element_type=jnp.float32)
_MAX_SCORES = {"cpu": 1 << 20}  # of a block, over all rows and heads; 4 MiB of float32 stay in the caches of a CPU


def chunked(inputs: AttentionInputs, options: AttentionOptions = PLAIN, block: int = 0) -> jax.Array:
    """Attention through scores [N, B, block, S] float32, forward and backward; 0 for a query that sees no key.

    `block` is the number of queries in a block; 0 chooses a power of 2 from 32 to 512, by the size of its scores.
    """
    if options.dropout and inputs.seed is None:
        raise ValueError(f"Attention dropout {options.dropout} needs a seed.")
    B, T, N, _ = inputs.q.shape
    block = block or block_size(B, T, N, inputs.k.shape[1])
    pad = -T % block
    # Heads first, as the products leave them: [N, B, T, H].
    q, k, v = (jnp.moveaxis(x, 2, 0) for x in inputs[:3])
    q = jnp.pad(q, ((0, 0), (0, 0), (0, pad), (0, 0)))
    q_segments = jnp.pad(inputs.q_segments, ((0, 0), (0, pad)))
    offset, seed = jnp.asarray(inputs.offset), jnp.zeros(4, jnp.uint32) if inputs.seed is None else inputs.seed
    inputs = inputs._replace(q=q, k=k, v=v, q_segments=q_segments, offset=offset, seed=seed)
    out: jax.Array = _attend(inputs, block, options)
    return jnp.moveaxis(out, 0, 2)[:, :T]


def block_size(B: int, T: int, N: int, S: int) -> int:
    """Queries of a block, so that its scores stay bounded for rows of any length.

    At least a 32nd of the keys where these are many, since every block adds to the gradients of all keys.
    """
    block, max_scores = 512, _MAX_SCORES.get(platform(), 1 << 26)
    smallest = min(max(32, S // 32), 256)
    while block > smallest and (block * B * N * S > max_scores or block // 2 >= T):
        block //= 2
    return block


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _attend(inputs: AttentionInputs, block: int, options: AttentionOptions) -> jax.Array:
    return _forward(inputs, block, options)[0]


def _forward(inputs: AttentionInputs, block: int, options: AttentionOptions):
    dropout, T = options.dropout, inputs.q.shape[2]
    blocks = T // block
    # jax hoists whatever does not depend on the differentiated inputs out of the loop: without the barrier, the masks
    # of all blocks would be held at once.
    *barred, q = jax.lax.optimization_barrier(
        (inputs.q_segments, inputs.k_segments, inputs.offset, inputs.seed, inputs.q)
    )
    indices = AttentionInputs(q, inputs.k, inputs.v, inputs.relative, *barred)
    tables = blocked_bias(inputs.relative, inputs.k, T, block)
    k, v = _length_last(inputs.k), _length_last(inputs.v)

    def attend(_, i):
        q_i, part = _block(q, i, block), tables.at_block(i, blocks, block)
        scores = _product("NBTH,NBHS->NBTS", q_i, k) + part.scores(q_i, k.shape[3])
        scores = jnp.where(_mask(indices, i, block, options), scores, FLOOR)
        top = scores.max(-1, keepdims=True)
        weights = jnp.exp(scores - top)
        total = weights.sum(-1, keepdims=True)  # [N, B, block, 1]
        if dropout:
            weights *= _dropout_factors(weights.shape, indices, i, dropout)
        out = _product("NBTS,NBHS->NBTH", weights.astype(v.dtype), v)
        return None, (jnp.where(top > FLOOR, out / total, 0).astype(v.dtype), (top + jnp.log(total))[..., 0])

    _, (out, log_sums) = jax.lax.scan(attend, None, jnp.arange(blocks))
    # [blocks, N, B, block, ...] -> [N, B, T, ...]
    out, log_sums = (jnp.moveaxis(x, 0, 2).reshape(*q.shape[:3], *x.shape[4:]) for x in (out, log_sums))
    out, log_sums = checkpoint_name((out, log_sums), ATTENDED)
    return out, (inputs, out, log_sums)


def _backward(block: int, options: AttentionOptions, residuals, d_out: jax.Array):
    # Without the barrier, XLA keeps the forward pass's scores instead of recomputing them.
    inputs, out, log_sums = jax.lax.optimization_barrier(residuals)
    q, relative, dropout = inputs.q, inputs.relative, options.dropout
    T = q.shape[2]
    blocks = T // block
    tables, pull = jax.vjp(lambda relative, k: blocked_bias(relative, k, T, block), relative, inputs.k)
    k, v = _length_last(inputs.k), _length_last(inputs.v)
    # Sums over the keys of weight times its gradient (Dao et al. 2022, appendix B.2): dropout is in `out` already.
    means = _product("NBTH,NBTH->NBT", out, d_out)

    def differentiate(sums, i):
        dk, dv, d_tables = sums
        q_i, d_out_i, part = _block(q, i, block), _block(d_out, i, block), tables.at_block(i, blocks, block)
        scores = _product("NBTH,NBHS->NBTS", q_i, k) + part.scores(q_i, k.shape[3])
        exp = jnp.exp(scores - _block(log_sums, i, block)[..., None])
        weights = jnp.where(_mask(inputs, i, block, options), exp, 0)
        d_weights = _product("NBTH,NBHS->NBTS", d_out_i, v)  # [N, B, block, S]
        dropped = weights
        if dropout:
            factors = _dropout_factors(weights.shape, inputs, i, dropout)
            dropped, d_weights = weights * factors, d_weights * factors
        dv += _product("NBTH,NBTS->NBHS", d_out_i, dropped.astype(v.dtype))
        d_scores = weights * (d_weights - _block(means, i, block)[..., None])  # derivative of the softmax
        dk += _product("NBTH,NBTS->NBHS", q_i, d_scores.astype(q.dtype))
        dq_i = _product("NBTS,NBHS->NBTH", d_scores.astype(q.dtype), k)
        dq_relative, d_part = part.gradients(d_scores, q_i)
        dq_i, d_tables = dq_i + dq_relative, d_tables.add_at_block(d_part, i, blocks, block)
        return (dk, dv, d_tables), dq_i.astype(q.dtype)

    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), (k, v, tables))  # float32 sums
    (dk, dv, d_tables), dq = jax.lax.scan(differentiate, zeros, jnp.arange(blocks))
    d_relative, dk_relative = pull(jax.tree.map(lambda d, x: d.astype(x.dtype), d_tables, tables))
    dq = jnp.moveaxis(dq, 0, 2).reshape(q.shape)  # [blocks, N, B, block, H] -> [N, B, T, H]
    dk, dv = _length_last(dk).astype(k.dtype) + dk_relative, _length_last(dv).astype(v.dtype)
    return (AttentionInputs._make((dq, dk, dv, d_relative, None, None, None, None, None)),)


_attend.defvjp(_forward, _backward)


def _length_last(x: jax.Array) -> jax.Array:
    """[N, B, S, H] <-> [N, B, H, S], the layout of products that sum over H or T: gradients of keys and values."""
    return jnp.swapaxes(x, 2, 3)


def _block(x: jax.Array, i: jax.Array, block: int) -> jax.Array:
    """Block i of the queries of [N, B, T, ...]."""
    return jax.lax.dynamic_slice_in_dim(x, i * block, block, axis=2)


def _mask(inputs: AttentionInputs, i: jax.Array, block: int, options: AttentionOptions) -> jax.Array:
    """[B, block, S] bool"""
    segments = jax.lax.dynamic_slice_in_dim(inputs.q_segments, i * block, block, axis=1)
    mask = segments[:, :, None] == inputs.k_segments[:, None]
    if options.window or options.causal:
        query, key = i * block + jnp.arange(block), jnp.arange(inputs.k_segments.shape[1]) - inputs.offset
        if options.window:
            mask &= jnp.abs(key - query[:, None]) <= options.window
        mask = mask & (key <= query[:, None]) if options.causal else mask
    return mask


def _dropout_factors(shape: tuple[int, ...], inputs: AttentionInputs, i: jax.Array, dropout: float) -> jax.Array:
    """Factors of the weights [N, B, block, S]: 0, or 1 / (1 - dropout)."""
    N, B, block, S = shape
    word, batch, head, query, key = weight_indices(inputs.seed, (B, N, block, S), inputs.offset, i * block)
    kept = hashed_keep(word, batch[:, 0], head[:, None], query, key, dropout)  # heads first
    return jnp.where(kept, 1 / (1 - dropout), 0)
