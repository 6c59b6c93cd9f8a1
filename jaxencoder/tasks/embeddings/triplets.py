"""Triplet losses: a positive nearer to the anchor than a negative, by a margin.

Hermans et al. 2017 (In Defense of the Triplet Loss), arXiv:1703.07737; the semi-hard one: Schroff et al. 2015
(FaceNet), arXiv:1503.03832.

`triplet` takes triplets as examples. The others make them of single texts with classes: column 0 of `vectors`
[N, C, D], where `mask` bool [N, C] is True and the label not negative; columns from 1 on are ignored. Texts of equal
class are positives of each other, all others negatives; only these texts count, so that padding changes nothing.
Memory grows with N * N.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxencoder.model.sentence import Similarity
from jaxencoder.tasks.embeddings.vectors import (
    Loss,
    masked_sum,
    pair_similarities,
    similarities,
    to_distances,
    zero_absent,
)


def triplet(vectors: jax.Array, mask: jax.Array, *, distance: Similarity = "euclidean", margin: float = 5.0) -> Loss:
    """max(0, distance to the positive - distance to the negative + margin): TripletLoss of ST.

    Args:
        vectors: [N, C, D], column 0 the anchors, 1 the positives, from 2 on negatives, each of which makes a triplet.
        mask: bool [N, C], False where an example has no such text.
        distance: "cosine" (1 - cosine), "euclidean" or "manhattan".
        margin: in the unit of the distance.

    Returns:
        The sum over the triplets, and their number.
    """
    vectors = zero_absent(vectors, mask)
    distances = to_distances(distance, pair_similarities(distance, vectors[:, :1], vectors[:, 1:]))  # [N, C - 1]
    losses = jax.nn.relu(distances[:, :1] - distances[:, 1:] + margin)
    return masked_sum(losses, mask[:, :1] & mask[:, 1:2] & mask[:, 2:])


class _Batch(NamedTuple):
    """Distances of single texts from each other; anchors are rows."""

    distances: jax.Array  # [N, N]
    is_text: jax.Array  # [N]
    is_positive: jax.Array  # [N, N]
    is_negative: jax.Array  # [N, N]


def _batch(vectors: jax.Array, mask: jax.Array, labels: jax.Array, distance: Similarity) -> _Batch:
    """The distances of the texts in column 0 of `vectors` [N, C, D], by their labels [N]."""
    texts = zero_absent(vectors[:, 0], mask[:, 0])
    distances = to_distances(distance, similarities(distance, texts, texts))
    is_text = mask[:, 0] & (labels >= 0)
    are_texts, is_same_class = is_text[:, None] & is_text, labels[:, None] == labels
    is_positive = are_texts & is_same_class & ~jnp.eye(len(labels), dtype=bool)
    return _Batch(distances, is_text, is_positive, are_texts & ~is_same_class)


def batch_all_triplet(
    vectors: jax.Array, mask: jax.Array, labels: jax.Array, *, distance: Similarity = "euclidean", margin: float = 5.0
) -> Loss:
    """`triplet` of all triplets of the batch that have a loss: BatchAllTripletLoss of ST.

    Args:
        vectors: [N, C, D], see the module.
        mask: bool [N, C].
        labels: int [N], classes; negative for none.
        distance: "cosine" (1 - cosine), "euclidean" or "manhattan".
        margin: in the unit of the distance.

    Returns:
        The sum over the triplets, and the number of those whose loss is not 0.
    """
    distances, _, is_positive, is_negative = _batch(vectors, mask, labels, distance)
    # A triplet has a loss if its negative is nearer than its positive plus the margin. The sum is linear in the
    # distances, each times its number of such triplets, which sorting counts in N * N memory instead of N * N * N.
    limits = jax.lax.stop_gradient(jnp.where(is_positive, distances + margin, -jnp.inf))
    negatives = jax.lax.stop_gradient(jnp.where(is_negative, distances, jnp.inf))
    nearer_negatives = _positions(jnp.sort(negatives), limits, "left")
    farther_positives = len(labels) - _positions(jnp.sort(limits), negatives, "right")
    total, _ = masked_sum(nearer_negatives * (distances + margin), is_positive)
    subtracted, _ = masked_sum(farther_positives * distances, is_negative)
    return total - subtracted, nearer_negatives.sum().astype(jnp.float32)


def batch_hard_triplet(
    vectors: jax.Array, mask: jax.Array, labels: jax.Array, *, distance: Similarity = "euclidean", margin: float = 5.0
) -> Loss:
    """`triplet` of each text with its farthest positive and nearest negative: BatchHardTripletLoss of ST.

    A text without a positive has the distance 0 to it; one without a negative, that to the farthest text.

    Args:
        vectors: [N, C, D], see the module.
        mask: bool [N, C].
        labels: int [N], classes; negative for none.
        distance: "cosine" (1 - cosine), "euclidean" or "manhattan".
        margin: in the unit of the distance.

    Returns:
        The sum over the texts, and their number.
    """
    difference, is_text = _hardest_difference(_batch(vectors, mask, labels, distance))
    return masked_sum(jax.nn.relu(difference + margin), is_text)


def batch_hard_soft_margin_triplet(
    vectors: jax.Array, mask: jax.Array, labels: jax.Array, *, distance: Similarity = "euclidean"
) -> Loss:
    """`batch_hard_triplet` with log(1 + exp(difference)) in place of a margin: BatchHardSoftMarginTripletLoss of ST.

    Args:
        vectors: [N, C, D], see the module.
        mask: bool [N, C].
        labels: int [N], classes; negative for none.
        distance: "cosine" (1 - cosine), "euclidean" or "manhattan".

    Returns:
        The sum over the texts, and their number.
    """
    difference, is_text = _hardest_difference(_batch(vectors, mask, labels, distance))
    return masked_sum(jax.nn.softplus(difference), is_text)


def _hardest_difference(batch: _Batch) -> tuple[jax.Array, jax.Array]:
    """The distance [N] to the farthest positive less that to the nearest negative, and which rows are texts."""
    distances, is_text, is_positive, is_negative = batch
    farthest_positive = jnp.where(is_positive, distances, 0).max(1)
    farthest_text = jnp.where(is_text, distances, 0).max(1)
    nearest_negative = jnp.where(is_negative, distances, jnp.inf).min(1)
    nearest_negative = jnp.where(is_negative.any(1), nearest_negative, farthest_text)
    return farthest_positive - nearest_negative, is_text


def batch_semi_hard_triplet(
    vectors: jax.Array, mask: jax.Array, labels: jax.Array, *, distance: Similarity = "euclidean", margin: float = 5.0
) -> Loss:
    """`triplet` of each pair with its nearest negative beyond the positive: BatchSemiHardTripletLoss of ST.

    If no negative lies beyond the positive, it is the farthest one; a text without negatives has the distance 0.

    Args:
        vectors: [N, C, D], see the module.
        mask: bool [N, C].
        labels: int [N], classes; negative for none.
        distance: "cosine" (1 - cosine), "euclidean" or "manhattan".
        margin: in the unit of the distance.

    Returns:
        The sum over the pairs of a text with another one of its class, and their number.
    """
    distances, _, is_positive, is_negative = _batch(vectors, mask, labels, distance)
    negatives = jnp.sort(jnp.where(is_negative, distances, jnp.inf))
    position = _positions(jax.lax.stop_gradient(negatives), jax.lax.stop_gradient(distances), "right")
    beyond = jnp.take_along_axis(negatives, jnp.minimum(position, len(labels) - 1), axis=1)
    farthest = jnp.where(is_negative, distances, -jnp.inf).max(1)
    farthest = jnp.where(is_negative.any(1), farthest, 0)[:, None]
    semi_hard = jnp.where(jnp.isfinite(beyond), beyond, farthest)
    return masked_sum(jax.nn.relu(distances - semi_hard + margin), is_positive)


def _positions(ordered: jax.Array, values: jax.Array, side: str) -> jax.Array:
    """Positions int [N, M] at which each row of `values` [N, M] would enter the same row of `ordered` [N, N]."""
    return jax.vmap(lambda row, x: jnp.searchsorted(row, x, side=side))(ordered, values)
