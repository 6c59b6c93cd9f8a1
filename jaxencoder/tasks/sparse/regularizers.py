"""Regularizers that make vectors sparse, and the number of their active dimensions.

All take `vectors` [N, C, V] of all examples of the global batch, and `mask` bool [N, C], False where an example has no
such text.
"""

import jax
import jax.numpy as jnp

from jaxencoder.tasks.embeddings.vectors import Loss, masked_sum, zero_absent


def flops(vectors: jax.Array, mask: jax.Array, threshold: int = 0) -> Loss:
    """Square of the mean of each dimension over all texts, summed over the dimensions: FlopsLoss of ST.

    Paria et al. 2020 (Minimizing FLOPs), arXiv:2004.05665: what an inverted index computes for two such texts.

    Args:
        threshold: texts with at most this number of active dimensions count as zeros (Geng et al. 2025,
            arXiv:2504.14839).

    Returns:
        The loss of the batch, and 1; both are 0 without any text.
    """
    vectors = zero_absent(vectors, mask)
    if threshold:
        vectors = jnp.where(((vectors != 0).sum(-1) > threshold)[..., None], vectors, 0)
    texts = mask.sum().astype(jnp.float32)
    means = vectors.sum((0, 1)) / jnp.maximum(texts, 1)
    return jnp.square(means).sum(), (texts > 0).astype(jnp.float32)


def l1(vectors: jax.Array, mask: jax.Array, threshold: int = 0) -> Loss:
    """Sum of the absolute entries of a vector; arguments as of `flops`.

    Returns:
        The sum over the texts, and their number.
    """
    vectors = zero_absent(vectors, mask)
    sums = jnp.abs(vectors).sum(-1)
    if threshold:
        sums = jnp.where((vectors != 0).sum(-1) > threshold, sums, 0)
    return masked_sum(sums, mask)


def active_dimensions(vectors: jax.Array, mask: jax.Array) -> Loss:
    """The number of entries other than 0: the sum over the texts, and their number."""
    return masked_sum((vectors != 0).sum(-1).astype(jnp.float32), mask)
