"""Distillation from a teacher's vectors or from its scores, computed before; no gradient reaches them."""

import math
from collections.abc import Callable
from typing import Literal, get_args

import jax
import jax.numpy as jnp

from jaxencoder.model.vectors import length
from jaxencoder.tasks.embeddings.vectors import (
    Loss,
    check_choice,
    masked_log_softmax,
    masked_sum,
    pair_similarities,
    zero_absent,
)

VectorDistance = Literal["mse", "euclidean", "cosine"]


def vector_distillation(
    vectors: jax.Array,
    mask: jax.Array,
    teacher_vectors: jax.Array,
    *,
    distance: VectorDistance = "mse",
    project: Callable[[jax.Array], jax.Array] | None = None,
) -> Loss:
    """Distance from the teacher's vector of the same text: EmbedDistillLoss of ST; "mse" is its MSELoss.

    Reimers and Gurevych 2020 (multilingual students), arXiv:2004.09813; Kim et al. 2023 (EmbedDistill),
    arXiv:2301.12005.

    Args:
        vectors: [N, C, D] of all examples of the global batch; the columns are alike.
        mask: bool [N, C], False where an example has no such text.
        teacher_vectors: [N, C, E], or [N, E] for a text and its translations, which share a vector.
        distance: "mse": mean of the squared differences over the E components; "euclidean" (ST's "l2"); "cosine":
            1 - cosine.
        project: vectors [..., D] -> [..., E], for a teacher of another size.

    Returns:
        The sum over the texts, and their number: the mean over columns, as in sentence-transformers, if every example
        has all of them.

    Raises:
        ValueError: the sizes D and E differ without a projection.
    """
    check_choice("distance", distance, get_args(VectorDistance))
    students = zero_absent(vectors, mask)
    students = students if project is None else project(students)
    teachers = teacher_vectors if teacher_vectors.ndim == vectors.ndim else teacher_vectors[:, None]
    if students.shape[-1] != teachers.shape[-1]:
        sizes = f"vectors of size {students.shape[-1]}, but the teacher's have size {teachers.shape[-1]}"
        raise ValueError(f"The student has {sizes}; give a projection to the teacher's size.")
    teachers = jnp.broadcast_to(teachers, (*mask.shape, teachers.shape[-1]))
    teachers = jax.lax.stop_gradient(zero_absent(teachers, mask))
    match distance:
        case "mse":
            losses = jnp.square(students - teachers).mean(-1)
        case "euclidean":
            losses = length(students - teachers)
        case "cosine":
            losses = 1 - pair_similarities("cosine", students, teachers)
    return masked_sum(losses, mask)


def margin_mse(scores: jax.Array, mask: jax.Array, teacher_scores: jax.Array) -> Loss:
    """Squared error of the margin between positive and negative as the teacher has it: MarginMSELoss of ST.

    Hofstätter et al. 2020, arXiv:2010.02666.

    Args:
        scores: float [N, C - 1] of each query with its texts: the positive, and from column 1 on the negatives.
        mask: bool [N, C] of the queries (column 0) and these texts, False where an example has no such text.
        teacher_scores: float [N, C - 1] of the same texts; NaN for none. Where only the teacher's margins are known:
            0 for the positive, and minus the margin for a negative.

    Returns:
        The sum over the negatives, and their number.
    """
    has_score = mask[:, :1] & mask[:, 1:] & ~jnp.isnan(teacher_scores)
    scores = jnp.where(has_score, scores.astype(jnp.float32), 0)
    teachers = jax.lax.stop_gradient(jnp.where(has_score, teacher_scores, 0))
    errors = (scores[:, :1] - scores[:, 1:]) - (teachers[:, :1] - teachers[:, 1:])
    return masked_sum(jnp.square(errors), has_score[:, :1] & has_score[:, 1:])


def score_distillation(
    scores: jax.Array,
    mask: jax.Array,
    teacher_scores: jax.Array,
    *,
    student_temperature: float = 1.0,
    teacher_temperature: float = 1.0,
) -> Loss:
    """KL divergence from the teacher's softmax over a query's documents: DistillKLDivLoss of ST.

    Lin et al. 2020 (Tightly-Coupled Teachers), arXiv:2010.11386. Multiplied by the square of the student's
    temperature, so that the gradient does not shrink with it.

    Args:
        scores: float [N, C - 1] of each query with its documents.
        mask: bool [N, C] of the queries (column 0) and their documents, False where an example has no such text.
        teacher_scores: float [N, C - 1] of the same documents. One with NaN is left out; one with -inf has
            probability 0.
        student_temperature: divides the scores.
        teacher_temperature: divides the teacher's scores.

    Returns:
        The sum over the queries with two documents or more, in nats, and their number; with one, there is no loss.
    """
    check_temperatures(student_temperature, teacher_temperature)
    is_document = mask[:, :1] & mask[:, 1:] & ~jnp.isnan(teacher_scores)
    scores = jnp.where(is_document, scores.astype(jnp.float32), 0)
    teachers = jax.lax.stop_gradient(jnp.where(is_document, teacher_scores, -jnp.inf))
    is_list = (is_document.sum(1) >= 2) & jnp.isfinite(teachers.max(1))
    is_document &= is_list[:, None]
    log_p = masked_log_softmax(teachers / teacher_temperature, is_document)
    log_q = masked_log_softmax(scores / student_temperature, is_document)
    p = jnp.where(is_document, jnp.exp(log_p), 0)
    divergence = jnp.where(p > 0, p * (log_p - log_q), 0).sum(1)
    return masked_sum(student_temperature**2 * divergence, is_list)


def check_temperatures(student_temperature: float, teacher_temperature: float) -> None:
    """ValueError for a temperature that is not a positive number."""
    for name, value in (("student_temperature", student_temperature), ("teacher_temperature", teacher_temperature)):
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be a positive number, got {value}.")
