"""The losses that the training of embeddings chooses from: what each needs, and how it is computed."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from jaxencoder.model.sentence import Similarity
from jaxencoder.tasks.embeddings.distillation import VectorDistance, margin_mse, score_distillation, vector_distillation
from jaxencoder.tasks.embeddings.pairs import (
    angle,
    contrastive,
    cosent,
    cosine_regression,
    online_contrastive,
    pair_classification,
)
from jaxencoder.tasks.embeddings.ranking import multiple_negatives_ranking
from jaxencoder.tasks.embeddings.triplets import (
    batch_all_triplet,
    batch_hard_soft_margin_triplet,
    batch_hard_triplet,
    batch_semi_hard_triplet,
    triplet,
)
from jaxencoder.tasks.embeddings.vectors import Loss, query_scores

EmbeddingLoss = Literal[
    "ranking", "triplet", "cosent", "angle", "cosine", "contrastive", "online_contrastive", "softmax",
    "batch_all_triplet", "batch_hard_triplet", "batch_semi_hard_triplet", "batch_hard_soft_margin_triplet",
    "margin_mse", "kl", "mse", "l2", "cosine_distance",
]  # fmt: skip

# A loss of vectors [N, C, D], mask [N, C] and labels, NaN for none: scores or classes of pairs [N], a teacher's scores
# [N, C - 1], classes of texts [N, C]; for losses without labels the texts [N, C], bool or their numbers, as in
# ranking.py. A loss of a teacher's vectors has these [N, C, D], as the argument teacher_vectors.
VectorLoss = Callable[[jax.Array, jax.Array, jax.Array], Loss]


class LossKind(NamedTuple):
    """A loss: the labels that it learns, the settings that it uses, and its function."""

    labels: Literal["none", "scores", "teacher_scores", "teacher_vectors", "pair_classes", "text_classes"]
    settings: tuple[str, ...]  # of the objective, given by name
    function: Callable[..., Loss]  # of the arguments of a `VectorLoss`, the similarity and the settings
    by_distance: bool = False  # compares distances, so that the similarity cannot be dot
    has_head: bool = False  # `function` takes a classifier of pairs, `head`


def _ranking(x: jax.Array, _: jax.Array, texts: jax.Array, **settings: Any) -> Loss:
    return multiple_negatives_ranking(x, texts, **settings)


def _triplet(x: jax.Array, mask: jax.Array, _: jax.Array, similarity: Similarity, margin: float) -> Loss:
    return triplet(x, mask, distance=similarity, margin=margin)


def _angle(x: jax.Array, mask: jax.Array, scores: jax.Array, similarity: Similarity, scale: float) -> Loss:
    return angle(x, mask, scores, scale=scale)


def _cosine(x: jax.Array, mask: jax.Array, scores: jax.Array, similarity: Similarity) -> Loss:
    return cosine_regression(x, mask, scores)


def _to_classes(labels: jax.Array) -> jax.Array:
    """Ids of classes, -1 for none."""
    return jnp.where(jnp.isnan(labels), -1, labels).astype(jnp.int32)


def _softmax(
    x: jax.Array, mask: jax.Array, classes: jax.Array, similarity: Similarity, head: Callable[[jax.Array], jax.Array]
) -> Loss:
    return pair_classification(x, mask, _to_classes(classes), head)


def _of_texts(loss: Callable[..., Loss]) -> Callable[..., Loss]:
    """A loss of single texts with classes, as one of all texts of the examples."""

    def function(x: jax.Array, mask: jax.Array, classes: jax.Array, similarity: Similarity, **settings: Any) -> Loss:
        texts, labels = x.reshape(-1, 1, x.shape[-1]), _to_classes(classes).reshape(-1)
        return loss(texts, mask.reshape(-1, 1), labels, distance=similarity, **settings)

    return function


def _by_class(loss: Callable[..., Loss]) -> Callable[..., Loss]:
    """A loss of similar pairs and others, as one of scores."""

    def function(x: jax.Array, mask: jax.Array, scores: jax.Array, similarity: Similarity, margin: float) -> Loss:
        classes = jnp.where(jnp.isnan(scores), -1, scores >= 0.5).astype(jnp.int32)
        return loss(x, mask, classes, distance=similarity, margin=margin)

    return function


def _taught(loss: Callable[..., Loss]) -> Callable[..., Loss]:
    """A loss of similarities and a teacher's scores, as one of vectors."""

    def function(x: jax.Array, mask: jax.Array, teacher: jax.Array, similarity: Similarity, **settings: Any) -> Loss:
        return loss(query_scores(similarity, x, mask), mask, teacher, **settings)

    return function


def _distilled(distance: VectorDistance) -> Callable[..., Loss]:
    """The distance to a teacher's vectors, whatever the similarity."""

    def function(x: jax.Array, mask: jax.Array, teacher_vectors: jax.Array, similarity: Similarity) -> Loss:
        return vector_distillation(x, mask, teacher_vectors, distance=distance)

    return function


LOSSES: Mapping[str, LossKind] = {
    "ranking": LossKind("none", ("scale", "directions", "partition", "hardness", "hardness_strength"), _ranking),
    "triplet": LossKind("none", ("margin",), _triplet, by_distance=True),
    "cosent": LossKind("scores", ("scale",), cosent),
    "angle": LossKind("scores", ("scale",), _angle),
    "cosine": LossKind("scores", (), _cosine),
    "contrastive": LossKind("scores", ("margin",), _by_class(contrastive), by_distance=True),
    "online_contrastive": LossKind("scores", ("margin",), _by_class(online_contrastive), by_distance=True),
    "softmax": LossKind("pair_classes", (), _softmax, has_head=True),
    "batch_all_triplet": LossKind("text_classes", ("margin",), _of_texts(batch_all_triplet), by_distance=True),
    "batch_hard_triplet": LossKind("text_classes", ("margin",), _of_texts(batch_hard_triplet), by_distance=True),
    "batch_semi_hard_triplet": LossKind(
        "text_classes", ("margin",), _of_texts(batch_semi_hard_triplet), by_distance=True
    ),
    "batch_hard_soft_margin_triplet": LossKind(
        "text_classes", (), _of_texts(batch_hard_soft_margin_triplet), by_distance=True
    ),
    "margin_mse": LossKind("teacher_scores", (), _taught(margin_mse)),
    "kl": LossKind("teacher_scores", ("student_temperature", "teacher_temperature"), _taught(score_distillation)),
    "mse": LossKind("teacher_vectors", (), _distilled("mse")),
    "l2": LossKind("teacher_vectors", (), _distilled("euclidean")),
    "cosine_distance": LossKind("teacher_vectors", (), _distilled("cosine")),
}

# The losses that learn the vectors of a teacher.
OF_VECTORS = tuple(loss for loss, kind in LOSSES.items() if kind.labels == "teacher_vectors")


def users_of_settings() -> dict[str, tuple[str, ...]]:
    """The losses that use each of the settings that not all of them use."""
    settings = dict.fromkeys(name for kind in LOSSES.values() for name in kind.settings)
    users = {name: tuple(loss for loss, kind in LOSSES.items() if name in kind.settings) for name in settings}
    return users | {"mask_duplicates": ("ranking",)}  # which the objective itself uses


def vector_loss(
    loss: str, similarity: Similarity, objective: object, head: Callable[[jax.Array], jax.Array] | None = None
) -> VectorLoss:
    """The loss of this name, with its settings as `objective` has them, and the classifier `head` if it has one."""
    kind = LOSSES[loss]
    settings = {name: getattr(objective, name) for name in kind.settings} | ({"head": head} if kind.has_head else {})
    return partial(kind.function, similarity=similarity, **settings)
