"""Losses of labeled pairs: graded similarities, similar or not, and classes.

All take `vectors` [N, C, D] of all examples of the global batch and `mask` bool [N, C], False where an example has no
such text; the pair of an example is its columns 0 and 1. An example that lacks one of them, or a label, has no loss.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxencoder.model.sentence import Similarity
from jaxencoder.model.vectors import unit
from jaxencoder.tasks.embeddings.vectors import Loss, masked_sum, pair_similarities, to_distances, zero_absent


def cosent(
    vectors: jax.Array, mask: jax.Array, scores: jax.Array, *, similarity: Similarity = "cosine", scale: float = 20.0
) -> Loss:
    """Order of similarities: log(1 + sum exp(scale * (lower - higher))) over all two pairs: CoSENTLoss of ST.

    `lower` and `higher` are the similarities of the pair with the lower and the higher score. Huang et al. 2024
    (CoSENT), doi:10.1109/TASLP.2024.3402087.

    Args:
        vectors: [N, C, D], see the module.
        mask: bool [N, C].
        scores: float [N], of which only the order matters; NaN for none.
        similarity: of two vectors.
        scale: factor of the similarities.

    Returns:
        The loss of the batch, and 1; both are 0 without any pair.
    """
    vectors = zero_absent(vectors, mask)
    values = pair_similarities(similarity, vectors[:, 0], vectors[:, 1])
    return _order_loss(scale * values, scores, mask[:, 0] & mask[:, 1])


def angle(vectors: jax.Array, mask: jax.Array, scores: jax.Array | None = None, *, scale: float = 20.0) -> Loss:
    """`cosent` with the angle of complex vectors as similarity, which does not saturate: AnglELoss of ST.

    Li and Li 2023 (AnglE), arXiv:2309.12871. The halves of a vector are the real and imaginary parts. If there are
    negatives, each is a pair with the anchor, whose score is 1 minus that of the positive.

    Args:
        vectors: [N, C, D], see the module; columns from 2 on are negatives of column 0.
        mask: bool [N, C].
        scores: float [N] of columns 0 and 1; NaN for none. None: all are 1, for examples with negatives.
        scale: factor of the similarities.

    Returns:
        The loss of the batch, and 1; both are 0 without any pair.

    Raises:
        ValueError: there are neither scores nor negatives.
    """
    columns = vectors.shape[1]
    if scores is None and columns < 3:
        raise ValueError("scores are missing, and without negatives the angle loss needs them; give the pairs' scores.")
    vectors = zero_absent(vectors, mask)
    values = _angle_similarities(vectors[:, :1], vectors[:, 1:])  # [N, C - 1]
    scores = jnp.ones(vectors.shape[0]) if scores is None else scores
    graded = jnp.where(jnp.arange(columns - 1) == 0, scores[:, None], 1 - scores[:, None])
    is_pair = mask[:, :1] & mask[:, 1:]
    return _order_loss(scale * values.reshape(-1), graded.reshape(-1), is_pair.reshape(-1))


def _angle_similarities(a: jax.Array, b: jax.Array) -> jax.Array:
    """|cosine + sine| [...] of vectors [..., D]; an odd D has a zero at its end."""
    odd = [(0, 0)] * (a.ndim - 1) + [(0, a.shape[-1] % 2)]
    (a_real, a_imaginary), (b_real, b_imaginary) = (jnp.split(jnp.pad(unit(x), odd), 2, axis=-1) for x in (a, b))
    cosines = (a_real * b_real + a_imaginary * b_imaginary).sum(-1)
    return jnp.abs(cosines + (a_imaginary * b_real - a_real * b_imaginary).sum(-1))


def _order_loss(values: jax.Array, scores: jax.Array, is_pair: jax.Array) -> Loss:
    """The loss of `cosent` of similarities [M], already scaled, of pairs with scores [M]."""
    is_pair &= ~jnp.isnan(scores)
    is_lower = (scores[:, None] < scores) & is_pair[:, None] & is_pair  # [lower, higher]
    differences = jnp.where(is_lower, values[:, None] - values, -jnp.inf)
    peak = jax.lax.stop_gradient(jnp.maximum(differences.max(), 0))
    loss = peak + jnp.log(jnp.exp(-peak) + jnp.exp(differences - peak).sum())
    return loss, is_pair.any().astype(jnp.float32)


def cosine_regression(vectors: jax.Array, mask: jax.Array, scores: jax.Array) -> Loss:
    """Squared error of the cosine as a prediction of the score: CosineSimilarityLoss of ST.

    Reimers and Gurevych 2019 (Sentence-BERT), arXiv:1908.10084.

    Args:
        vectors: [N, C, D], see the module.
        mask: bool [N, C].
        scores: float [N], in the range of cosines; NaN for none.

    Returns:
        The sum over the pairs, and their number.
    """
    vectors = zero_absent(vectors, mask)
    has_score = ~jnp.isnan(scores)
    errors = pair_similarities("cosine", vectors[:, 0], vectors[:, 1]) - jnp.where(has_score, scores, 0)
    return masked_sum(jnp.square(errors), mask[:, 0] & mask[:, 1] & has_score)


def contrastive(
    vectors: jax.Array, mask: jax.Array, labels: jax.Array, *, distance: Similarity = "cosine", margin: float = 0.5
) -> Loss:
    """Squared distances of similar pairs, and how far others are below the margin: ContrastiveLoss of ST.

    Hadsell et al. 2006, doi:10.1109/CVPR.2006.100. Half the square of each, as in that paper.

    Args:
        vectors: [N, C, D], see the module.
        mask: bool [N, C].
        labels: int [N], 1 for similar pairs and 0 for others; any other label is none.
        distance: "cosine" (1 - cosine), "euclidean" or "manhattan".
        margin: other pairs have no loss at a greater distance.

    Returns:
        The sum over the pairs, and their number.
    """
    distances, is_similar, is_other = _distances(vectors, mask, labels, distance)
    losses = jnp.square(jnp.where(is_similar, distances, jax.nn.relu(margin - distances))) / 2
    return masked_sum(losses, is_similar | is_other)


def online_contrastive(
    vectors: jax.Array, mask: jax.Array, labels: jax.Array, *, distance: Similarity = "cosine", margin: float = 0.5
) -> Loss:
    """`contrastive` of the hard pairs of the batch alone, summed and not halved: OnlineContrastiveLoss of ST.

    Hard are similar pairs farther apart than the nearest of the others, and others nearer than the farthest of the
    similar ones; in a batch of one kind, those beyond the mean distance.

    Args:
        vectors: [N, C, D], see the module.
        mask: bool [N, C].
        labels: int [N], 1 for similar pairs and 0 for others; any other label is none.
        distance: "cosine" (1 - cosine), "euclidean" or "manhattan".
        margin: other pairs have no loss at a greater distance.

    Returns:
        The loss of the batch, and 1; both are 0 without any pair.
    """
    distances, is_similar, is_other = _distances(vectors, mask, labels, distance)
    farthest_similar = jnp.where(is_similar, distances, -jnp.inf).max()
    nearest_other = jnp.where(is_other, distances, jnp.inf).min()
    total, pairs = masked_sum(distances, is_similar | is_other)
    mean = total / jnp.maximum(pairs, 1)
    is_hard_other = is_other & (distances < jnp.where(is_similar.any(), farthest_similar, mean))
    is_hard_similar = is_similar & (distances > jnp.where(is_other.any(), nearest_other, mean))
    losses = jnp.square(jnp.where(is_similar, distances, jax.nn.relu(margin - distances)))
    total, _ = masked_sum(losses, is_hard_similar | is_hard_other)
    return total, (pairs > 0).astype(jnp.float32)


def _distances(
    vectors: jax.Array, mask: jax.Array, labels: jax.Array, distance: Similarity
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Distances [N] of the pairs, which of them are similar, and which are not."""
    vectors = zero_absent(vectors, mask)
    distances = to_distances(distance, pair_similarities(distance, vectors[:, 0], vectors[:, 1]))
    is_pair = mask[:, 0] & mask[:, 1]
    return distances, is_pair & (labels == 1), is_pair & (labels == 0)


def contrastive_tension(vectors: jax.Array, mask: jax.Array, labels: jax.Array) -> Loss:
    """Binary cross-entropy of dot products, whether two texts are the same: ContrastiveTensionLoss of ST.

    Carlsson et al. 2021 (Semantic Re-tuning with Contrastive Tension), openreview.net/forum?id=Ov_sMNau-PF.

    Args:
        vectors: [N, C, D], see the module; column 0 by one encoder, column 1 by another that began as its copy.
        mask: bool [N, C].
        labels: int [N], 1 for the same text and 0 for two texts; any other label is none.

    Returns:
        The sum over the pairs, and 1, as that paper has no mean; both are 0 without any pair.
    """
    vectors = zero_absent(vectors, mask)
    logits = pair_similarities("dot", vectors[:, 0], vectors[:, 1])
    is_pair = mask[:, 0] & mask[:, 1] & ((labels == 0) | (labels == 1))
    total, pairs = masked_sum(-jax.nn.log_sigmoid(jnp.where(labels == 1, logits, -logits)), is_pair)
    return total, (pairs > 0).astype(jnp.float32)


def pair_classification(
    vectors: jax.Array,
    mask: jax.Array,
    labels: jax.Array,
    head: Callable[[jax.Array], jax.Array],
    *,
    texts: bool = True,
    difference: bool = True,
    product: bool = False,
) -> Loss:
    """Cross-entropy of the class of a pair, by a head on features of its vectors u and v: SoftmaxLoss of ST.

    Conneau et al. 2017 (InferSent), arXiv:1705.02364; Reimers and Gurevych 2019 (Sentence-BERT), arXiv:1908.10084.

    Args:
        vectors: [N, C, D], see the module.
        mask: bool [N, C].
        labels: int [N], classes; negative for none.
        head: features [N, F * D] -> scores [N, K] of the K classes; F is 1 to 4.
        texts: whether u and v are among the features; they come first.
        difference: whether |u - v| is, which comes next.
        product: whether u * v is, which comes last.

    Returns:
        The sum over the pairs that have a class, and their number.

    Raises:
        ValueError: there are no features.
    """
    scores = head(pair_features(zero_absent(vectors, mask), texts, difference, product))
    is_labeled = mask[:, 0] & mask[:, 1] & (labels >= 0)
    log_p = jax.nn.log_softmax(scores.astype(jnp.float32))
    log_p = jnp.take_along_axis(log_p, jnp.where(is_labeled, labels, 0)[:, None], axis=-1)[:, 0]
    return masked_sum(-log_p, is_labeled)


def pair_features(vectors: jax.Array, texts: bool = True, difference: bool = True, product: bool = False) -> jax.Array:
    """The features [N, F * D] of pairs, as in `pair_classification`, from `vectors` [N, C, D] without NaN."""
    if not (texts or difference or product):
        raise ValueError("texts, difference and product are all False, so that a pair has no features; choose one.")
    u, v = vectors[:, 0], vectors[:, 1]
    features = [u, v] * texts + [jnp.abs(u - v)] * difference + [u * v] * product
    return jnp.concatenate(features, axis=-1)
