"""Ranking losses: the positive of a query before all other texts of the batch.

van den Oord et al. 2018 (InfoNCE), arXiv:1807.03748; Henderson et al. 2017 (multiple negatives), arXiv:1705.00652.

All take `vectors` [N, C, D] of all examples of the global batch: column 0 the queries (anchors), 1 their positives and
from 2 on their hard negatives. `texts` [N, C] tell which of them there are: bool, or int, the numbers of the texts,
equal for equal texts and -1 for none. With numbers, the `related_texts` of an example are not its negatives; in
sentence-transformers they are. An example without a query or without a positive has no loss of its own, but its texts
are negatives of others.
"""

import math
from collections.abc import Sequence
from typing import Literal, get_args

import jax
import jax.numpy as jnp

from jaxencoder.model.sentence import Similarity
from jaxencoder.model.vectors import unit
from jaxencoder.tasks.embeddings.duplicates import candidate_texts, is_present
from jaxencoder.tasks.embeddings.vectors import Loss, by_blocks, check_choice, masked_sum, similarities, zero_absent

Direction = Literal["query_to_document", "document_to_query", "query_to_query", "document_to_document"]
Partition = Literal["joint", "per_direction"]
Hardness = Literal["none", "in_batch", "hard", "all"]
MarginStrategy = Literal["absolute", "relative"]

_WITH_POSITIVE = ("query_to_document", "document_to_query")


def multiple_negatives_ranking(
    vectors: jax.Array,
    texts: jax.Array,
    *,
    similarity: Similarity = "cosine",
    scale: jax.typing.ArrayLike = 20.0,
    directions: Sequence[Direction] = ("query_to_document",),
    partition: Partition = "joint",
    hardness: Hardness = "none",
    hardness_strength: float = 0.0,
) -> Loss:
    """Cross-entropy of each query's positive among the texts of the batch: MultipleNegativesRankingLoss of ST.

    query_to_document with document_to_query and partition "per_direction" is the symmetric loss
    (MultipleNegativesSymmetricRankingLoss; ContrastiveTensionLossInBatchNegatives of vectors from two encoders); all
    four directions and "joint": Li et al. 2023 (GTE), arXiv:2308.03281. With the same text as query and positive, under
    two dropout masks, it is SimCSE (Gao et al. 2021, arXiv:2104.08821).

    Args:
        vectors: [N, C, D], see the module.
        texts: bool or int [N, C], see the module.
        similarity: of two vectors; "euclidean" and "manhattan" are negative distances.
        scale: factor of the similarities, the inverse of a temperature; may be an array, for a learned one.
        directions: scores that enter the softmax of an example. query_to_document: its query with the positives and
            negatives of all, always needed; query_to_query: its query with the other queries; document_to_query: its
            positive with all queries; document_to_document: its positive with the documents of other examples.
        partition: "joint": one softmax over all scores; "per_direction": one for each direction, and their mean. The
            latter only for query_to_document and document_to_query, whose scores include the positive's.
        hardness, hardness_strength: negatives of query_to_document whose logits grow by the strength times their
            similarity, without `scale` and a constant in the gradient. "in_batch": all texts of other examples (Lan et
            al. 2025, arXiv:2503.04812, strength 9); "hard": its own ones (EmbeddingGemma, Schechter Vera et al. 2025,
            arXiv:2509.20354, strength 5); "all": both.

    Returns:
        The sum over the examples that have a query and a positive, and their number.
    """
    check_settings(scale, directions, partition, hardness, hardness_strength)
    mask = is_present(texts)
    vectors = zero_absent(vectors, mask)

    def losses(examples: jax.Array, rows: jax.Array, own_texts: jax.Array) -> jax.Array:
        """The losses [n] of some examples, from their vectors [n, C, D], rows [n] among all and texts [n, C]."""
        is_same = rows[:, None] == jnp.arange(len(vectors))  # [n, N]
        compared = candidate_texts(texts, own_texts, is_same)
        blocks = [_scores(direction, similarity, examples, vectors, compared, is_same) for direction in directions]
        scores, candidates = zip(*blocks, strict=True)
        to_documents = scores[directions.index("query_to_document")]  # [n, N, C - 1]
        logits = [scale * block for block in scores]
        if hardness != "none":
            penalized = _penalized(hardness, is_same, vectors.shape[1] - 1)
            penalty = jnp.where(penalized, hardness_strength * jax.lax.stop_gradient(to_documents), 0)
            logits[directions.index("query_to_document")] += penalty
        if partition == "joint":
            log_z = _log_partition(logits, candidates)
        else:
            log_z = sum(_log_partition([x], [c]) for x, c in zip(logits, candidates, strict=True)) / len(logits)
        # From the same matrix as in the softmax, so that rounding does not make a loss negative.
        return log_z - jnp.where(is_same, scale * to_documents[..., 0], 0).sum(1)

    return masked_sum(by_blocks(losses, vectors, jnp.arange(len(vectors)), texts), mask[:, 0] & mask[:, 1])


def check_settings(
    scale: jax.typing.ArrayLike,
    directions: Sequence[Direction],
    partition: Partition,
    hardness: Hardness,
    strength: float,
) -> None:
    """ValueError for a setting of `multiple_negatives_ranking` that it does not support."""
    if isinstance(scale, (int, float)) and not 0 < scale < math.inf:
        raise ValueError(f"scale must be a positive number, got {scale}.")
    for direction in directions:
        check_choice("a direction", direction, get_args(Direction))
    if "query_to_document" not in directions or len(set(directions)) < len(directions):
        names = ", ".join(directions) or "empty"
        raise ValueError(f"directions must include query_to_document, and each only once, but they are {names}.")
    check_choice("partition", partition, get_args(Partition))
    without = [direction for direction in directions if direction not in _WITH_POSITIVE]
    if partition == "per_direction" and without:
        raise ValueError(f"partition 'per_direction' is not for {without[0]}, which has no positive; use 'joint'.")
    check_choice("hardness", hardness, get_args(Hardness))
    if not 0 <= strength < math.inf:
        raise ValueError(f"hardness_strength must be 0 or a positive number, got {strength}.")


def _scores(
    direction: Direction,
    similarity: Similarity,
    examples: jax.Array,
    vectors: jax.Array,
    candidates: jax.Array,
    is_same: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Similarities [n, N] or [n, N, C - 1] of some examples with the texts of all, and which of them are candidates.

    Args:
        direction: which texts of an example are compared with which of all.
        similarity: of two vectors.
        examples: the vectors [n, C, D] of these examples.
        vectors: [N, C, D] of all.
        candidates: as of `candidate_texts`.
        is_same: bool [n, N], True for an example itself.
    """
    queries, documents = vectors[:, 0], vectors[:, 1:]
    match direction:
        case "query_to_document":
            return similarities(similarity, examples[:, 0], documents), candidates[..., 1:]
        case "document_to_query":
            return similarities(similarity, examples[:, 1], queries), candidates[..., 0]
        case "query_to_query":
            return similarities(similarity, examples[:, 0], queries), candidates[..., 0] & ~is_same
        case "document_to_document":
            return similarities(similarity, examples[:, 1], documents), candidates[..., 1:] & ~is_same[..., None]


def _penalized(hardness: Hardness, is_same: jax.Array, documents: int) -> jax.Array:
    """Negatives whose logits hardness raises, bool [n, N, documents] or [n, N, 1]."""
    is_same, is_positive = is_same[..., None], jnp.arange(documents) == 0
    if hardness == "in_batch":
        return ~is_same
    return is_same & ~is_positive if hardness == "hard" else ~(is_same & is_positive)


def _log_partition(logits: Sequence[jax.Array], candidates: Sequence[jax.Array]) -> jax.Array:
    """log sum exp [N] over the candidates among blocks of logits [N, ...]; a finite number for a row without any."""
    rows = logits[0].shape[0]
    masked = [jnp.where(is_candidate, x, -jnp.inf) for x, is_candidate in zip(logits, candidates, strict=True)]
    together = jnp.concatenate([x.reshape(rows, -1) for x in masked], axis=1)
    has_candidate = (together > -jnp.inf).any(1, keepdims=True)
    return jax.nn.logsumexp(jnp.where(has_candidate, together, 0), axis=1)


def guided_ranking(
    vectors: jax.Array,
    texts: jax.Array,
    guide_vectors: jax.Array,
    *,
    temperature: float = 0.01,
    margin_strategy: MarginStrategy = "absolute",
    margin: float = 0.0,
    contrast_anchors: bool = True,
    contrast_positives: bool = True,
) -> Loss:
    """InfoNCE by cosines without probable false negatives, as a guide model judges them: GISTEmbedLoss of ST.

    Solatorio 2024 (GISTEmbed), arXiv:2402.16829; margins as in NV-Retriever, de Souza P. Moreira et al. 2024,
    arXiv:2407.15831. The softmax of example i has the cosines of its query with all positives and negatives, and on
    request with the other queries, and of its positive with the other positives. One of them is left out where the
    guide's cosine of the same two texts is greater than that of query i with its positive, less the margin.

    A text is never its own negative. In sentence-transformers it is, where the guide's cosine of query and positive
    less the margin is 1 or more. Without a margin the guide itself keeps a text that equals the positive.

    Args:
        vectors: [N, C, D], see the module.
        texts: bool or int [N, C], see the module.
        guide_vectors: [N, C, E] of the same texts, constants.
        temperature: divides the cosines.
        margin_strategy: "absolute": subtract `margin` from the guide's cosine of the positive; "relative": subtract
            the fraction `margin` of it.
        margin: a greater one leaves out more.
        contrast_anchors: whether the other queries are negatives of a query.
        contrast_positives: whether the other positives are negatives of a positive.

    Returns:
        The sum over the examples that have a query and a positive, and their number.
    """
    check_choice("margin_strategy", margin_strategy, get_args(MarginStrategy))
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature must be a positive number, got {temperature}.")
    is_same = jnp.eye(vectors.shape[0], dtype=bool)
    candidates, mask = candidate_texts(texts, texts, is_same), is_present(texts)
    vectors = unit(zero_absent(vectors, mask))
    guides = jax.lax.stop_gradient(unit(zero_absent(guide_vectors, mask)))
    scores, is_candidate = _scores("query_to_document", "dot", vectors, vectors, candidates, is_same)
    by_guide, _ = _scores("query_to_document", "dot", guides, guides, candidates, is_same)
    positive, threshold = (jnp.where(is_same, x[..., 0], 0).sum(1) for x in (scores, by_guide))
    threshold -= margin * (jnp.abs(threshold) if margin_strategy == "relative" else 1)
    is_positive = is_same[..., None] & (jnp.arange(vectors.shape[1] - 1) == 0)
    blocks = [(scores, is_candidate & (is_positive | (by_guide <= threshold[:, None, None])))]
    # Only positives are negatives of a positive, not hard negatives.
    vectors, guides, candidates = vectors[:, :2], guides[:, :2], candidates[..., :2]
    if contrast_anchors:
        scores, is_candidate = _scores("query_to_query", "dot", vectors, vectors, candidates, is_same)
        by_guide, _ = _scores("query_to_query", "dot", guides, guides, candidates, is_same)
        blocks.append((scores, is_candidate & (by_guide <= threshold[:, None])))
    if contrast_positives:
        scores, is_candidate = _scores("document_to_document", "dot", vectors, vectors, candidates, is_same)
        by_guide, _ = _scores("document_to_document", "dot", guides, guides, candidates, is_same)
        blocks.append((scores, is_candidate & (by_guide <= threshold[:, None, None])))
    log_z = _log_partition([x / temperature for x, _ in blocks], [is_kept for _, is_kept in blocks])
    return masked_sum(log_z - positive / temperature, mask[:, 0] & mask[:, 1])


def mega_batch_margin(
    vectors: jax.Array, mask: jax.Array, *, positive_margin: float = 0.8, negative_margin: float = 0.3
) -> Loss:
    """Margins of the cosine with the positive and with the most similar other positive: MegaBatchMarginLoss of ST.

    Wieting and Gimpel 2018 (ParaNMT-50M), arXiv:1711.05732. Hard negatives (columns from 2 on) are ignored.

    Args:
        vectors: [N, C, D], see the module.
        mask: bool [N, C], False where an example has no such text.
        positive_margin: the cosine with the positive has no loss above it.
        negative_margin: the cosine with the most similar other positive has no loss below it.

    Returns:
        The sum over the examples that have a query and a positive, and their number.
    """
    vectors = unit(zero_absent(vectors, mask))
    is_same = jnp.eye(vectors.shape[0], dtype=bool)
    cosines = similarities("dot", vectors[:, 0], vectors[:, 1])
    positive = jnp.where(is_same, cosines, 0).sum(1)
    # A row without negatives has -inf as its maximum, and no loss of one.
    hardest = jnp.where(mask[:, 1] & ~is_same, cosines, -jnp.inf).max(1)
    losses = jax.nn.relu(positive_margin - positive) + jax.nn.relu(hardest - negative_margin)
    return masked_sum(losses, mask[:, 0] & mask[:, 1])


def score_ranking(scores: jax.Array, texts: jax.Array, *, scale: jax.typing.ArrayLike = 1.0) -> Loss:
    """`multiple_negatives_ranking` of any scores of queries with documents, such as those of vectors of tokens.

    Args:
        scores: float [N, N, C - 1] of the query of each example with the documents of each example.
        texts: bool or int [N, C], see the module.
        scale: factor of the scores.

    Returns:
        The sum over the examples that have a query and a positive, and their number.
    """
    is_same = jnp.eye(len(scores), dtype=bool)
    candidates, mask = candidate_texts(texts, texts, is_same), is_present(texts)
    logits = jnp.asarray(scale * jnp.where(mask[:, 1:], scores.astype(jnp.float32), 0))
    positive = jnp.where(is_same, logits[..., 0], 0).sum(1)
    return masked_sum(_log_partition([logits], [candidates[..., 1:]]) - positive, mask[:, 0] & mask[:, 1])
