"""Losses of reranking over the order of a query's documents.

All take `scores` [N, K] of N queries with K documents each, `labels` float [N, K] and `mask` bool [N, K], False where a
query has no such document. A document whose label is NaN is left out. What stands at other places changes nothing.
"""

import math
from typing import Literal, get_args

import jax
import jax.numpy as jnp

from jaxencoder.tasks.embeddings.vectors import Loss, check_choice, masked_log_softmax, masked_sum
from jaxencoder.tasks.reranking.pointwise import check_positive, judged

Weighting = Literal["none", "ndcg1", "ndcg2", "lambdarank", "ndcg2++"]
Order = Literal["labels", "input"]

_EPSILON = 1e-10
_MAX_DIFFERENCE = 1e8  # of two scores, as in sentence-transformers


def lambda_loss(
    scores: jax.Array,
    labels: jax.Array,
    mask: jax.Array,
    *,
    weighting: Weighting = "ndcg2++",
    k: int = 0,
    sigma: float = 1.0,
    mu: float = 10.0,
) -> Loss:
    """Weighted logistic loss of pairs of documents in the wrong order: LambdaLoss of ST, in bits.

    Wang et al. 2018 (LambdaLoss), doi:10.1145/3269206.3271784; Burges 2010 (LambdaRank), MSR-TR-2010-82.

    Args:
        scores, labels, mask: [N, K], see the module; labels are relevances, those below 0 count as 0 in nDCG.
        weighting: of a pair: "none" (RankNet); "ndcg1": gain of the first over its discount, of all pairs, a document
            with itself too; "ndcg2": difference of the gains times that of the discounts at the pair's distance;
            "lambdarank": times the difference of the discounts at both ranks; "ndcg2++": `mu` times "ndcg2" plus
            "lambdarank".
        k: pairs of which one is among the first k by score, and the ideal nDCG of k documents; 0: all.
        sigma: factor of the differences of scores.
        mu: for "ndcg2++".

    Returns:
        The sum over the pairs of a query whose first document has the greater label, and their number.
    """
    check_choice("weighting", weighting, get_args(Weighting))
    check_positive("sigma", sigma)
    if k < 0:
        raise ValueError(f"k must be a positive number, or 0 for all documents, got {k}.")
    scores, labels, mask = judged(scores, labels, mask)
    ranks = jnp.argsort(-jax.lax.stop_gradient(jnp.where(mask, scores, -jnp.inf)))
    scores, labels, mask = (jnp.take_along_axis(x, ranks, axis=1) for x in (scores, labels, mask))
    size = scores.shape[1]
    is_top = jnp.arange(size) < (k or size)
    is_pair = mask[:, :, None] & mask[:, None] & (is_top[:, None] | is_top)
    if weighting != "ndcg1":
        is_pair &= labels[:, :, None] > labels[:, None]
    weights = _pair_weights(weighting, jnp.maximum(labels, 0), is_top, mu)
    differences = jnp.clip(scores[:, :, None] - scores[:, None], -_MAX_DIFFERENCE, _MAX_DIFFERENCE)
    return masked_sum(weights * jax.nn.softplus(-sigma * differences) / math.log(2), is_pair)


def _pair_weights(weighting: Weighting, relevance: jax.Array, is_top: jax.Array, mu: float) -> jax.Array:
    """Weights, broadcast to [N, K, K], of pairs of documents with relevances [N, K] in the order of their scores."""
    if weighting == "none":
        return jnp.ones(())
    position = jnp.arange(relevance.shape[1], dtype=jnp.float32)
    discount = jnp.log2(2 + position)
    ideal = jnp.where(is_top, (jnp.exp2(-jnp.sort(-relevance)) - 1) / discount, 0).sum(1)
    gain = (jnp.exp2(relevance) - 1) / jnp.maximum(ideal, _EPSILON)[:, None]
    if weighting == "ndcg1":
        return (gain / discount)[:, :, None]
    gains = jnp.abs(gain[:, :, None] - gain[:, None])
    by_rank = jnp.abs(1 / discount[:, None] - 1 / discount)
    distance = jnp.abs(position[:, None] - position)
    by_distance = 1 / jnp.log2(1 + jnp.maximum(distance, 1)) - 1 / jnp.log2(2 + distance)
    by_distance = jnp.where(distance > 0, by_distance, 0)
    return gains * {"ndcg2": by_distance, "lambdarank": by_rank, "ndcg2++": mu * by_distance + by_rank}[weighting]


def rank_net(scores: jax.Array, labels: jax.Array, mask: jax.Array, *, k: int = 0, sigma: float = 1.0) -> Loss:
    """Logistic loss, in bits, of the pairs of a query's documents whose first has the greater label: RankNetLoss of ST.

    Burges et al. 2005, doi:10.1145/1102351.1102363.

    Args:
        scores, labels, mask: [N, K], see the module.
        k, sigma: as in `lambda_loss`.

    Returns:
        The sum over the pairs, and their number.
    """
    return lambda_loss(scores, labels, mask, weighting="none", k=k, sigma=sigma)


def list_net(scores: jax.Array, labels: jax.Array, mask: jax.Array, *, temperature: float = 1.0) -> Loss:
    """Cross-entropy of the softmax of a query's labels with that of its scores: ListNetLoss of ST.

    Cao et al. 2007, doi:10.1145/1273496.1273513.

    Args:
        scores, labels, mask: [N, K], see the module.
        temperature: divides the labels; sentence-transformers has 1.

    Returns:
        The sum over the queries in nats, and their number.
    """
    check_positive("temperature", temperature)
    scores, labels, mask = judged(scores, labels, mask)
    p = jnp.where(mask, jnp.exp(masked_log_softmax(labels / temperature, mask)), 0)
    return masked_sum(-(p * masked_log_softmax(scores, mask)).sum(1), mask.any(1))


def list_mle(
    scores: jax.Array, labels: jax.Array, mask: jax.Array, *, order: Order = "labels", by_position: bool = False
) -> Loss:
    """Negative log-likelihood of the right order, chosen document by document: ListMLELoss and PListMLELoss of ST.

    Xia et al. 2008 (ListMLE), doi:10.1145/1390156.1390306; Lan et al. 2014 (p-ListMLE), UAI.

    Args:
        scores, labels, mask: [N, K], see the module.
        order: the right one. "labels": by label, greatest first, equal ones as given; "input": as given, which is the
            default of sentence-transformers.
        by_position: weights 2^(n - rank) - 1 of the n choices, divided by their sum, so that the first count most.

    Returns:
        The sum over the queries in nats, and their number; a single document has no loss.
    """
    check_choice("order", order, get_args(Order))
    scores, labels, mask = judged(scores, labels, mask)
    if order == "labels":
        ranks = jnp.argsort(-jnp.where(mask, labels, -jnp.inf))
        scores, mask = (jnp.take_along_axis(x, ranks, axis=1) for x in (scores, mask))
    absent = jnp.finfo(jnp.float32).min
    log_z = jax.lax.cumlogsumexp(jnp.where(mask, scores, absent), axis=1, reverse=True)
    losses = jnp.where(mask, log_z - scores, 0)
    if by_position:
        number, rank = mask.sum(1, keepdims=True), mask.cumsum(1)
        shift = jnp.maximum(number - 100, 0)  # 2^128 is no float32, nor is the inverse of 2^127 on every device
        weights = jnp.where(mask, jnp.exp2((number - rank - shift).astype(jnp.float32)) - jnp.exp2(-1.0 * shift), 0)
        losses *= weights / (weights.sum(1, keepdims=True) + _EPSILON)
    return masked_sum(losses.sum(1), mask.any(1))


def adr_mse(scores: jax.Array, labels: jax.Array, mask: jax.Array, *, alpha: float = 1.0) -> Loss:
    """Squared error of smooth ranks by score, discounted by the rank by label: ADRMSELoss of ST.

    Schlatt et al. 2024 (Rank-DistiLLM), arXiv:2405.07920; Qin et al. 2010 (approximate ranks).

    Args:
        scores, labels, mask: [N, K], see the module. Equal labels share the mean of their ranks.
        alpha: factor of the differences of scores, before the sigmoid.

    Returns:
        The sum over the documents, and their number.
    """
    check_positive("alpha", alpha)
    scores, labels, mask = judged(scores, labels, mask)
    are_both, is_self = mask[:, :, None] & mask[:, None], jnp.eye(scores.shape[1], dtype=bool)
    above = jax.nn.sigmoid(alpha * (scores[:, None] - scores[:, :, None]))
    rank = 1 + jnp.where(are_both & ~is_self, above, 0).sum(2)
    greater = (are_both & (labels[:, None] > labels[:, :, None])).sum(2)
    equal = (are_both & (labels[:, None] == labels[:, :, None])).sum(2)
    target = greater + (equal + 1) / 2
    return masked_sum(jnp.square(target - rank) / jnp.log2(target + 1), mask)
