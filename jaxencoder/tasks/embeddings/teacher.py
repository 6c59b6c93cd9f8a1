"""Training by the vectors of another model: a teacher, whose vectors are learned, or a guide, which judges negatives.

Their vectors of the texts are computed before the training and come with each batch, as "teacher_vectors" [B, E, D].
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Self

import jax
import jax.numpy as jnp

from jaxencoder.model.sentence import Dense
from jaxencoder.objectives.objective import Batch, Params
from jaxencoder.tasks.embeddings.data import VectorTexts
from jaxencoder.tasks.embeddings.examples import take_from_rows
from jaxencoder.tasks.embeddings.losses import OF_VECTORS, VectorLoss
from jaxencoder.tasks.embeddings.ranking import Direction, Hardness, MarginStrategy, Partition, guided_ranking
from jaxencoder.tasks.embeddings.vectors import Loss
from jaxencoder.tasks.task import Network

VECTORS = "teacher_vectors"  # in a batch
PROJECTION = "teacher_projection"  # in the parameters of a run

_IN_GUIDED: tuple[Direction, ...] = ("query_to_document", "query_to_query", "document_to_document")


@dataclass(frozen=True)
class TeacherSettings:
    """Settings of a teacher or guide."""

    teacher: str = ""
    """Model whose vectors mse, l2 and cosine_distance learn: a run, a folder or a hub name, with its own tokenizer,
    prompts and size. It embeds the texts once, before the training; the cache keeps its vectors."""
    teacher_reads: VectorTexts = "each"
    """Texts that the teacher embeds: each, or only the anchor of a record, whose vector its other texts learn too, such
    as translations (Reimers and Gurevych 2020, arXiv:2004.09813)."""
    teacher_size: int = 0
    """Size of the teacher's vectors. 0: as they are. If the model's have another size, a linear projection is learned
    from these to the teacher's; it belongs to the training and is not part of the model."""
    guide: str = ""
    """Model that judges the negatives of ranking, named as a teacher is: a text that it finds more similar to the
    anchor than the positive is left out (GISTEmbed, Solatorio 2024, arXiv:2402.16829)."""
    guide_margin: float = 0.0
    """Leaves out more: texts whose similarity exceeds the positive's minus this."""
    guide_margin_strategy: MarginStrategy = "absolute"
    """absolute: guide_margin is a difference of cosines; relative: a fraction of the positive's cosine."""

    @property
    def vectors_of(self) -> str:
        return "guide" if self.guide else "teacher" if self.teacher else ""

    @property
    def vector_texts(self) -> VectorTexts | None:
        """The texts that the other model embeds; None without one."""
        return "each" if self.guide else self.teacher_reads if self.teacher else None

    def with_vector_size(self, size: int) -> Self:
        if self.guide:
            return self
        if self.teacher_size not in (0, size):
            problem = f"objective.teacher_size is {self.teacher_size}, but {self.teacher} gives vectors of size {size}"
            raise ValueError(f"{problem}; leave it out.")
        return dataclasses.replace(self, teacher_size=size)


# Settings -> the losses that use them.
USED_BY = {
    **dict.fromkeys(("teacher", "teacher_reads", "teacher_size"), OF_VECTORS),
    **dict.fromkeys(("guide", "guide_margin", "guide_margin_strategy"), ("ranking",)),
}


def check_teacher(settings: TeacherSettings, loss: str) -> None:
    """ValueError if the loss and the model whose vectors it needs do not go together."""
    if loss in OF_VECTORS and not settings.teacher:
        raise ValueError(f"objective.loss is {loss}, which learns a model's vectors; name it with objective.teacher.")
    for name in ("guide_margin", "guide_margin_strategy"):
        if not settings.guide and (value := getattr(settings, name)) != getattr(TeacherSettings, name):
            raise ValueError(f"objective.{name} is {value}, but objective.guide names no model; name one.")


def check_guided(similarity: str, directions: tuple[Direction, ...], partition: Partition, hardness: Hardness) -> None:
    """ValueError for a setting of ranking that does not go together with a guide."""
    problem = None
    if similarity != "cosine":
        problem = f"similarity is {similarity}, but ranking with objective.guide compares cosines; give cosine"
    elif other := [direction for direction in directions if direction not in _IN_GUIDED]:
        problem = f"directions has {other[0]}, which ranking with objective.guide has not; leave it out"
    elif partition != "joint":
        problem = f"partition is {partition}, but ranking with objective.guide has one softmax; give joint"
    elif hardness != "none":
        problem = f"hardness is {hardness}, but ranking with objective.guide has no such weights; give none"
    if problem:
        raise ValueError(f"objective.{problem}.")


def guided_loss(settings: TeacherSettings, scale: float, directions: tuple[Direction, ...]) -> Callable[..., Loss]:
    """`guided_ranking` with these settings, as a function of vectors, mask and the guide's vectors."""
    return partial(
        guided_ranking,
        temperature=1 / scale,
        margin=settings.guide_margin,
        margin_strategy=settings.guide_margin_strategy,
        contrast_anchors="query_to_query" in directions,
        contrast_positives="document_to_document" in directions,
    )


def with_teacher_projection(
    network: Network, settings: TeacherSettings, size: int, dimensions: tuple[int, ...] = ()
) -> Network:
    """The functions of a network for vectors of a size, with a projection to the teacher's size if that is another.

    ValueError if `dimensions`, the sizes of truncated vectors that are trained too, are given then.
    """
    init_network, embed = network
    teacher_size = settings.teacher_size
    if teacher_size in (0, size):
        return network
    if dimensions:
        problem = f"objective.dimensions is {dimensions}, but the teacher's vectors have size {teacher_size}"
        raise ValueError(f"{problem} and not {size}; leave it out.")
    shapes = _layer(size, teacher_size).shapes()

    def init(key: jax.Array) -> Params:
        kernel = jax.nn.initializers.lecun_normal()(jax.random.fold_in(key, 2), shapes["kernel"])
        return init_network(key) | {PROJECTION: {"kernel": kernel, "bias": jnp.zeros(shapes["bias"])}}

    return init, embed


def _layer(inputs: int, outputs: int) -> Dense:
    """The projection from the student's vectors to the teacher's."""
    return Dense(inputs, outputs, activation="identity")


def taught(loss: Callable[..., Loss], projection: Params | None) -> VectorLoss:
    """A loss of vectors and `teacher_vectors`, of the vectors after a projection with these parameters, if any."""

    def function(vectors: jax.Array, mask: jax.Array, teachers: jax.Array) -> Loss:
        if projection is not None:
            vectors = _layer(*projection["kernel"].shape)(projection, vectors)
        return loss(vectors, mask, teacher_vectors=teachers)

    return function


def teacher_vectors(batch: Batch) -> jax.Array:
    """The other model's vectors float32 [N, C, D] of the texts of a batch; N and C as in `examples`."""
    chosen = take_from_rows(batch[VECTORS], batch["tuples"])  # [B, G, C, D]
    return chosen.reshape(-1, *chosen.shape[2:])
