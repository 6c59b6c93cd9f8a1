"""Losses of reranking that compare single scores with labels, or a positive with its negatives.

All take `scores` [N, K] of N queries with K documents each, `labels` float [N, K] and `mask` bool [N, K], False where a
query has no such document. A document whose label is NaN is left out. What stands at other places changes nothing.
"""

import math

import jax
import jax.numpy as jnp

from jaxencoder.tasks.embeddings.vectors import Loss, masked_log_softmax, masked_sum

POSITIVE = 0.5  # least label of a document that answers its query


def judged(scores: jax.Array, labels: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The arguments of a loss: float32 scores and constant labels with zeros elsewhere, and which documents count."""
    mask = mask & ~jnp.isnan(labels)
    labels = jax.lax.stop_gradient(jnp.where(mask, labels, 0).astype(jnp.float32))
    return jnp.where(mask, scores.astype(jnp.float32), 0), labels, mask


def binary_cross_entropy(scores: jax.Array, labels: jax.Array, mask: jax.Array, *, pos_weight: float = 1.0) -> Loss:
    """Cross-entropy of each label, from 0 to 1, with the sigmoid of its score: BinaryCrossEntropyLoss of ST.

    Nogueira and Cho 2019 (BERT reranker), arXiv:1901.04085.

    Args:
        scores, labels, mask: [N, K], see the module.
        pos_weight: factor of the loss of relevant documents.

    Returns:
        The sum over the documents in nats, and their number.
    """
    check_positive("pos_weight", pos_weight)
    scores, labels, mask = judged(scores, labels, mask)
    losses = pos_weight * labels * jax.nn.softplus(-scores) + (1 - labels) * jax.nn.softplus(scores)
    return masked_sum(losses, mask)


def squared_error(scores: jax.Array, labels: jax.Array, mask: jax.Array) -> Loss:
    """Squared difference of each score from its label, such as a teacher's score: MSELoss of ST.

    Args:
        scores, labels, mask: [N, K], see the module.

    Returns:
        The sum over the documents, and their number.
    """
    scores, labels, mask = judged(scores, labels, mask)
    return masked_sum(jnp.square(scores - labels), mask)


def margin_mse(scores: jax.Array, labels: jax.Array, mask: jax.Array) -> Loss:
    """Squared error of the margin between the first document and each other one: MarginMSELoss of ST.

    Hofstätter et al. 2020, arXiv:2010.02666.

    Args:
        scores, labels, mask: [N, K], see the module; column 0 has the positives, the others negatives. Where only the
            teacher's margins are known, labels are 0 for the positive, and minus the margin for a negative.

    Returns:
        The sum over the negatives, and their number.
    """
    scores, labels, mask = judged(scores, labels, mask)
    errors = (scores[:, :1] - scores[:, 1:]) - (labels[:, :1] - labels[:, 1:])
    return masked_sum(jnp.square(errors), mask[:, :1] & mask[:, 1:])


def info_nce(scores: jax.Array, labels: jax.Array, mask: jax.Array, *, scale: float = 1.0) -> Loss:
    """Cross-entropy of each positive among itself and the negatives of its query: MultipleNegativesRankingLoss of ST.

    van den Oord et al. 2018 (InfoNCE), arXiv:1807.03748; Gao et al. 2021 (rerankers), arXiv:2101.08751. Positives are
    documents with a label of at least `POSITIVE`; sentence-transformers has one, the first. It takes sigmoids of the
    scores by default, and a scale of 10: give them as `scores` for equal values.

    Args:
        scores, labels, mask: [N, K], see the module.
        scale: factor of the scores, the inverse of a temperature.

    Returns:
        The sum over the positives in nats, and their number; the loss of one without negatives is 0.
    """
    check_positive("scale", scale)
    scores, labels, mask = judged(scores, labels, mask)
    is_positive = mask & (labels >= POSITIVE)
    # A softmax for each positive: over the negatives and itself [N, K positives, K].
    is_candidate = (mask & ~is_positive)[:, None] | jnp.eye(scores.shape[1], dtype=bool)
    log_p = masked_log_softmax(scale * jnp.broadcast_to(scores[:, None], is_candidate.shape), is_candidate)
    return masked_sum(-jnp.diagonal(log_p, axis1=1, axis2=2), is_positive)


def check_positive(name: str, value: float) -> None:
    """ValueError unless a setting is a finite number above 0."""
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be a positive number, got {value}.")
