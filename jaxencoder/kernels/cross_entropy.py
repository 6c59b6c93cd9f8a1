"""Cross-entropy over a vocabulary, without all logits in memory at once.

The forward pass computes the gradient of each chunk from its logits, and the backward pass only scales it: no logits
are stored or computed twice (as in Hsu et al. 2024, arXiv:2410.10989).
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Predictions(NamedTuple):
    """Predictions at each slot, without gradients: [B, K] each."""

    losses: jax.Array  # cross-entropy in nats, float32
    correct: jax.Array  # whether the target is the most probable token, bool
    samples: jax.Array | None  # a token drawn from the softmax, int32; None without `uniforms`


@partial(jax.custom_vjp, nondiff_argnums=(5,))
def cross_entropy(
    hidden: jax.Array,
    table: jax.Array,
    bias: jax.Array,
    targets: jax.Array,
    weights: jax.Array,
    chunk: int,
    uniforms: jax.Array | None = None,
) -> tuple[jax.Array, Predictions]:
    """Weighted cross-entropy of softmax(hidden @ table^T + bias).

    Args:
        hidden: [B, K, D] float32 or bfloat16.
        table: [V, D] float32, cast to the dtype of `hidden` for the product.
        bias: [V] float32.
        targets: [B, K] int32 in [0, V).
        weights: [B, K] float32; 0 ignores a slot.
        chunk: slots of a row whose logits are held at once: [B, chunk, V] float32.
        uniforms: [B, K] float32 in [0, 1), one random number per slot, which draws a token by the inverse distribution
            function. (The Gumbel trick draws from the same distribution but needs V numbers per slot.)

    Returns:
        (sum of weight * cross-entropy in nats, float32; predictions). Gradients flow to hidden, table and bias through
        the sum.
    """
    return _scan(hidden, table, bias, targets, weights, uniforms, chunk, gradient=False)[0]


def _forward(hidden, table, bias, targets, weights, chunk, uniforms=None):
    return _scan(hidden, table, bias, targets, weights, uniforms, chunk, gradient=True)


def _backward(chunk, gradients, cotangents):
    scale = cotangents[0]
    d_hidden, d_table, d_bias = gradients
    return (d_hidden * scale.astype(d_hidden.dtype), d_table * scale, d_bias * scale, None, None, None)


cross_entropy.defvjp(_forward, _backward)


def _scan(hidden, table, bias, targets, weights, uniforms, chunk, gradient):
    B, K = targets.shape
    C = -(-K // chunk)  # chunks; the last one is padded with slots of weight 0

    def split(x):
        """[B, K, ...] -> [C, B, chunk, ...]"""
        x = jnp.pad(x, [(0, 0), (0, C * chunk - K)] + [(0, 0)] * (x.ndim - 2))
        return jnp.moveaxis(x.reshape(B, C, chunk, *x.shape[2:]), 1, 0)

    def join(x):
        """[C, B, chunk, ...] -> [B, K, ...]"""
        return jnp.moveaxis(x, 0, 1).reshape(B, C * chunk, *x.shape[3:])[:, :K]

    cast = table.astype(hidden.dtype)  # products in the compute dtype

    def body(carry, xs):
        loss, d_table, d_bias = carry
        h, t, w, u = xs  # [B, chunk, D] and three times [B, chunk]
        logits = jnp.einsum("BKD,VD->BKV", h, cast, preferred_element_type=jnp.float32) + bias
        top = logits.max(-1)  # subtracted, it keeps the exponentials finite
        target = jnp.take_along_axis(logits, t[..., None], -1)[..., 0]
        exp = jnp.exp(logits - top[..., None])
        total = exp.sum(-1)
        losses = jnp.log(total) + top - target
        loss += (w * losses).sum()
        predictions = Predictions(losses, target >= top, None if u is None else _draw(exp, u))
        if not gradient:
            return (loss, None, None), (predictions, None)
        onehot = t[..., None] == jnp.arange(logits.shape[-1])
        d_logits = exp * (w / total)[..., None] - jnp.where(onehot, w[..., None], 0)  # w (softmax - onehot)
        # Sum as a product with ones: XLA's CPU backend reduces outer axes 10 times slower, 7% of a small step.
        d_bias += jnp.einsum("BKV,BK->V", d_logits, jnp.ones_like(w), precision="highest")
        d_logits = d_logits.astype(h.dtype)
        d_h = jnp.einsum("BKV,VD->BKD", d_logits, cast, preferred_element_type=jnp.float32).astype(h.dtype)
        d_table += jnp.einsum("BKV,BKD->VD", d_logits, h, preferred_element_type=jnp.float32)
        return (loss, d_table, d_bias), (predictions, d_h)

    sums = (jnp.zeros(table.shape, jnp.float32), jnp.zeros(bias.shape, jnp.float32)) if gradient else (None, None)
    start, xs = (jnp.zeros((), jnp.float32), *sums), jax.tree.map(split, (hidden, targets, weights, uniforms))
    if C == 1:
        carry, ys = body(start, jax.tree.map(lambda x: x[0], xs))
        ys = jax.tree.map(lambda y: y[:, :K], ys)
    else:
        carry, ys = jax.lax.scan(body, start, xs)
        ys = jax.tree.map(join, ys)
    (loss, d_table, d_bias), (predictions, d_hidden) = carry, ys
    return (loss, predictions), (d_hidden, d_table, d_bias) if gradient else None


def _draw(probabilities, uniforms):
    """Tokens int32 [B, K] at which the distribution functions pass `uniforms`; probabilities [B, K, V], any sum.

    Searches among blocks of about sqrt(V) tokens, then within one, so that float32 sums stay short and exact.
    """
    B, K, V = probabilities.shape
    size = 1 << (max(V - 1, 1).bit_length() // 2)
    blocks = jnp.pad(probabilities, [(0, 0), (0, 0), (0, -V % size)]).reshape(B, K, -1, size)
    ends = blocks.sum(-1).cumsum(-1)  # [B, K, blocks]
    goal = (uniforms * (1 - 1e-6))[..., None] * ends[..., -1:]  # below the end despite rounding
    block = jnp.minimum((ends <= goal).sum(-1, keepdims=True), ends.shape[-1] - 1)
    inside = jnp.take_along_axis(blocks, block[..., None], axis=2)[..., 0, :]  # [B, K, size]
    goal -= jnp.take_along_axis(ends - blocks.sum(-1), block, axis=-1)
    offset = (inside.cumsum(-1) <= goal).sum(-1)
    last = size - 1 - (inside[..., ::-1] > 0).argmax(-1)
    return jnp.minimum(block[..., 0] * size + jnp.minimum(offset, last), V - 1).astype(jnp.int32)
