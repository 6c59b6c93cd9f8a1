"""Every loss with arguments for a batch of N examples of C texts, for tests that hold for all of them."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxencoder.tasks.embeddings import distillation, pairs, ranking, spread, triplets
from jaxencoder.tasks.embeddings.matryoshka import matryoshka
from jaxencoder.tasks.embeddings.vectors import query_scores

ALL_DIRECTIONS = ("query_to_document", "document_to_query", "query_to_query", "document_to_document")
BY_CLASS = ("batch_all_triplet", "batch_hard_triplet", "batch_semi_hard_triplet", "batch_hard_soft_margin_triplet")


def head(features: jax.Array) -> jax.Array:
    """Scores of three classes, by some fixed projection."""
    return features @ jnp.sin(jnp.arange(features.shape[-1] * 3.0).reshape(-1, 3))


def of_scores(loss: Callable, similarity: str = "dot") -> Callable:
    """A loss of the scores of queries with their own texts, as a function of vectors."""
    return lambda vectors, mask, teacher: loss(query_scores(similarity, vectors, mask), mask, teacher)


def arguments(n: int, c: int, d: int) -> dict[str, np.ndarray]:
    """What the losses take besides vectors and mask."""
    random = np.random.default_rng(3)
    return {
        "scores": random.integers(0, 6, n).astype(np.float32) / 5,
        "labels": np.where(np.arange(n) % 5 == 4, -1, np.arange(n) % 3).astype(np.int32),
        "teacher_scores": random.standard_normal((n, c - 1), np.float32),
        "teacher_vectors": random.standard_normal((n, c, d), np.float32),
        "guide_vectors": random.standard_normal((n, c, d + 1), np.float32),
    }


# Name -> a function of vectors, mask, and some of `arguments`.
LOSSES: dict[str, Callable] = {
    "multiple_negatives_ranking": ranking.multiple_negatives_ranking,
    "ranking in all directions": partial(
        ranking.multiple_negatives_ranking, directions=ALL_DIRECTIONS, hardness="all", hardness_strength=5.0
    ),
    "ranking by distance": partial(
        ranking.multiple_negatives_ranking, similarity="euclidean", scale=1.0, directions=ALL_DIRECTIONS
    ),
    "symmetric ranking": partial(
        ranking.multiple_negatives_ranking, directions=ALL_DIRECTIONS[:2], partition="per_direction"
    ),
    "guided_ranking": partial(ranking.guided_ranking, temperature=0.1),
    "mega_batch_margin": ranking.mega_batch_margin,
    "cosent": pairs.cosent,
    "angle": pairs.angle,
    "cosine_regression": pairs.cosine_regression,
    "contrastive": partial(pairs.contrastive, distance="euclidean"),
    "online_contrastive": pairs.online_contrastive,
    "contrastive_tension": pairs.contrastive_tension,
    "pair_classification": partial(pairs.pair_classification, head=head),
    "triplet": triplets.triplet,
    **{name: partial(getattr(triplets, name), **{"distance": "euclidean"}) for name in BY_CLASS},
    "vector_distillation": distillation.vector_distillation,
    "vector_distillation by length": partial(distillation.vector_distillation, distance="euclidean"),
    "margin_mse": of_scores(distillation.margin_mse),
    "score_distillation": of_scores(distillation.score_distillation, "cosine"),
    "global_orthogonality": spread.global_orthogonality,
    "matryoshka": matryoshka(ranking.multiple_negatives_ranking, (2, 4), (1.0, 0.5)),
}
_TAKES = {
    "guided_ranking": "guide_vectors",
    "cosent": "scores",
    "angle": "scores",
    "cosine_regression": "scores",
    **dict.fromkeys(("contrastive", "online_contrastive", "contrastive_tension", "pair_classification"), "labels"),
    **dict.fromkeys(BY_CLASS, "labels"),
    "vector_distillation": "teacher_vectors",
    "vector_distillation by length": "teacher_vectors",
    "margin_mse": "teacher_scores",
    "score_distillation": "teacher_scores",
}


def all_losses(vectors: jax.Array, mask: jax.Array, rest: dict[str, jax.Array]) -> dict[str, tuple]:
    """Name -> (sum, weight), and the gradient [N, C, D] of the sum."""

    def graded(name: str) -> tuple:
        taken = [rest[_TAKES[name]]] if name in _TAKES else []

        def total(vectors: jax.Array) -> tuple[jax.Array, jax.Array]:
            return LOSSES[name](vectors, mask, *taken)

        (value, weight), gradient = jax.value_and_grad(total, has_aux=True)(vectors)
        return value, weight, gradient

    return {name: graded(name) for name in LOSSES}
