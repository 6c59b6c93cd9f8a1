"""Metrics of the scores of documents, by their labels: within the list of each query, and of all documents together.

Ranking metrics are those of trec_eval, as for search; average precision of all documents is scikit-learn's.
"""

from collections.abc import Sequence

import numpy as np

from jaxencoder.tasks.classification.metrics import correlations
from jaxencoder.tasks.reranking.pointwise import POSITIVE

_CUTOFF = 10


def list_metrics(scores: Sequence[np.ndarray], labels: Sequence[np.ndarray]) -> dict[str, float]:
    """How well scores order the documents of each query, float [K] each, and what they say of single documents.

    Returns:
        queries and documents, their numbers; pair_accuracy, the fraction of pairs of a query's documents with different
        labels that the scores order so, half for equal scores. If all labels are 0, 1, 2, ...: the means over the
        queries that have relevant documents (label of at least `POSITIVE`) and others of mrr@10, ndcg@10 (gain: the
        label) and map. Of labels 0 and 1 ap, the average precision over all documents; of fractional ones pearson and
        spearman. Documents of equal scores count in their worst order.
    """
    flat_scores, flat_labels = (np.concatenate([np.zeros(0), *x]) for x in (scores, labels))
    result: dict[str, float] = {"queries": len(scores), "documents": len(flat_labels)}
    pairs = [_pairs(*x) for x in zip(scores, labels, strict=True)]
    if total := sum(count for _, count in pairs):
        result["pair_accuracy"] = sum(right for right, _ in pairs) / total
    are_relevances = (flat_labels >= 0).all() and (flat_labels == np.round(flat_labels)).all()
    ranked = [_ranking(*x) for x in zip(scores, labels, strict=True) if 0 < (x[1] >= POSITIVE).sum() < len(x[1])]
    if are_relevances and ranked:
        names = ("mrr@10", "ndcg@10", "map")
        result |= dict(zip(names, np.mean(ranked, axis=0).tolist(), strict=True))
    if not are_relevances:
        result |= correlations(flat_scores, flat_labels)
    elif flat_labels.max(initial=0) == 1:
        from sklearn import metrics  # slow to import

        result["ap"] = float(metrics.average_precision_score(flat_labels, flat_scores))
    return result


def _pairs(scores: np.ndarray, labels: np.ndarray) -> tuple[float, int]:
    """The number of pairs of different labels in the right order, and of all of them."""
    is_greater = labels[:, None] > labels
    right = (scores[:, None] > scores) + 0.5 * (scores[:, None] == scores)
    return float(right[is_greater].sum()), int(is_greater.sum())


def _ranking(scores: np.ndarray, labels: np.ndarray) -> tuple[float, float, float]:
    """mrr@10, ndcg@10 and map of one query."""
    order = np.lexsort((labels, -scores))
    rank, discount = np.arange(1, len(labels) + 1), 1 / np.log2(np.arange(2, _CUTOFF + 2))
    ordered, best = labels[order], -np.sort(-labels)
    hits = ordered >= POSITIVE
    dcg, ideal = (float(x[:_CUTOFF] @ discount[: len(x)]) for x in (ordered, best))
    precision = (hits * hits.cumsum() / rank)[hits]
    return float((hits / rank)[:_CUTOFF].max()), dcg / ideal, float(precision.mean())
