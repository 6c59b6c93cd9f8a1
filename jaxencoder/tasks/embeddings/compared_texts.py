"""Base of objectives that compare the vectors of all texts of a batch.

The batch is that of all devices: its vectors are one array under jit, so that every text is compared with the texts of
all devices and hosts. With `parts`, texts are embedded a part of the batch at a time, see `in_parts`.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import jax
import jax.numpy as jnp
import numpy as np

from jaxencoder.model.sentence import Similarity
from jaxencoder.objectives.objective import Batch
from jaxencoder.tasks.embeddings.data import VectorTexts
from jaxencoder.tasks.embeddings.distillation import check_temperatures
from jaxencoder.tasks.embeddings.losses import LOSSES, EmbeddingLoss, VectorLoss, users_of_settings, vector_loss
from jaxencoder.tasks.embeddings.ranking import Direction, Hardness, Partition, check_settings
from jaxencoder.tasks.embeddings.vectors import by_blocks, finds_positive, masked_sum, similarities, zero_absent
from jaxencoder.tasks.task import TaskObjective, TrainingLabels


@dataclass(frozen=True)
class ComparedTexts(TaskObjective):
    """Base of objectives whose loss compares the vectors of all texts of a batch."""

    loss: EmbeddingLoss = "ranking"
    """ranking: find the positive among the texts of the batch (InfoNCE, multiple negatives). triplet: positives nearer
    than negatives by a margin. The others need the score of each pair in data.label_field: cosent and angle learn their
    order; cosine the score itself, from -1 to 1; contrastive and online_contrastive (its hard pairs) whether it is at
    least 0.5. Of these only angle uses negatives. margin_mse and kl need a teacher's scores of the anchor with each
    text in data.label_field, and learn their differences or their distribution; their usual similarity is dot. mse, l2
    and cosine_distance bring each vector near to that of another model, see `teacher`."""
    similarity: Literal["", Similarity] = ""
    """Compares two vectors. Empty: as init_from has it, or else cosine."""
    scale: float = 20.0
    """Factor of similarities, the inverse of a temperature: in ranking, cosent and angle."""
    margin: float = 0.5
    """Distance (1 - cosine, euclidean or manhattan) by which triplet and contrastive losses separate texts."""
    directions: tuple[Direction, ...] = ("query_to_document",)
    """Similarities in the softmax of ranking: query_to_document, document_to_query, query_to_query,
    document_to_document."""
    partition: Partition = "joint"
    """One softmax over all directions (joint), or the mean of one for each (per_direction)."""
    hardness: Hardness = "none"
    """Negatives that ranking weights by their similarity: hard (the example's own), in_batch or all."""
    hardness_strength: float = 0.0
    """Factor of these similarities: 5 in EmbeddingGemma, 9 in Lan et al. 2025, arXiv:2503.04812."""
    student_temperature: float = 1.0
    """Divides the similarities of kl."""
    teacher_temperature: float = 1.0
    """Divides the teacher's scores of kl."""
    parts: int = 1
    """Parts of a batch that are embedded one after another. More parts take less memory and give the same loss."""

    from_data: ClassVar[tuple[str, ...]] = ("similarity",)

    def __post_init__(self) -> None:
        self.check_at_least({"parts": 1, "margin": 0, "hardness_strength": 0})
        self.check_used(self.loss, users_of_settings())
        if (self.hardness == "none") != (self.hardness_strength == 0):
            problem = f"objective.hardness is {self.hardness}, and objective.hardness_strength {self.hardness_strength}"
            raise ValueError(f"{problem}; set both, or leave both out.")
        if LOSSES[self.loss].by_distance and self.sentence.similarity == "dot":
            raise ValueError(f"objective.loss {self.loss} compares distances, and dot is none; give cosine.")
        check_settings(self.scale, self.directions, self.partition, self.hardness, self.hardness_strength)
        check_temperatures(self.student_temperature, self.teacher_temperature)

    def check_at_least(self, limits: Mapping[str, float]) -> None:
        """ValueError if one of these settings is less than its limit."""
        for name, least in limits.items():
            if not getattr(self, name) >= least:
                raise ValueError(f"objective.{name} must be at least {least}, got {getattr(self, name)}.")

    @property
    def batch_multiple(self) -> int:
        return self.parts

    @property
    def compares_examples(self) -> bool:
        return True

    @property
    def label_array(self) -> tuple[tuple[int, ...], type]:
        return (), np.float32

    @property
    def prompts(self) -> tuple[str, str]:
        """The texts put before anchors and before other texts."""
        return "", ""

    @property
    def vector_texts(self) -> VectorTexts | None:
        """The texts of a record that need a vector of another model; None if none does."""
        return None

    def pair_loss(self) -> VectorLoss:
        """The loss of the vectors of a batch, its similarity and settings filled in."""
        return vector_loss(self.loss, self.sentence.similarity, self)

    def examples(self, scores: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array, jax.Array]:
        """`examples` of a batch, with a teacher's scores if the loss learns them; ValueError if it needs negatives."""
        vectors, mask, labels = examples(scores, batch)
        labels = teacher_scores(batch) if LOSSES[self.loss].labels == "teacher_scores" else labels
        if self.loss == "triplet" and vectors.shape[1] < 3:
            raise ValueError("objective.loss is triplet, but no record has a negative; add some, or set another loss.")
        return vectors, mask, labels

    def with_labels(self, labels: TrainingLabels) -> Self:
        needed = LOSSES[self.loss].labels
        scores = {"scores": "scores", "teacher_scores": "a teacher's scores"}.get(needed)
        if scores and not labels.field:
            raise ValueError(f"objective.loss is {self.loss}, which needs {scores}; name data.label_field.")
        if labels.field and not scores:
            use = "takes all pairs as similar" if needed == "none" else "learns a teacher's vectors"
            problem = f"objective.loss is {self.loss}, which {use}, whatever their scores"
            raise ValueError(f"{problem}; leave out data.label_field, {labels.field}, or set another loss.")
        return dataclasses.replace(self, similarity=self.sentence.similarity)

    def resumed(self, saved: Self) -> Self:
        left_open = [name for name in self.from_data if not getattr(self, name)]
        return dataclasses.replace(self, **{name: getattr(saved, name) for name in left_open})


def examples(vectors: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The examples of a batch: their vectors float32 [N, C, D], which texts there are bool [N, C], scores float32 [N].

    `vectors` [B, E, D] are those of each row's texts, and N is B times the most examples of a row: some are padding,
    without any text. The texts of an example are the anchor, its positive, and negatives. Scores are NaN for none.
    """
    tuples = batch["tuples"]  # [B, G, C]
    chosen = jax.vmap(lambda x, index: x[index])(vectors, tuples)  # [B, G, C, D]
    scores = jax.vmap(lambda x, index: x[index])(batch["labels"], tuples[..., 0])  # [B, G]
    mask = tuples >= 0
    scores = jnp.where(mask[..., 0], scores, jnp.nan)
    texts = tuples.shape[-1]
    return chosen.reshape(-1, texts, vectors.shape[-1]), mask.reshape(-1, texts), scores.reshape(-1)


def is_anchor(batch: Batch) -> jax.Array:
    """Which texts of each row are anchors, bool [B, E]."""
    return (batch["tuples"][..., :1] == jnp.arange(batch["labels"].shape[1])).any(1)


def teacher_scores(batch: Batch) -> jax.Array:
    """A teacher's scores float32 [N, C - 1] of each anchor with its texts, NaN for none; N and C as in `examples`."""
    tuples = batch["tuples"][..., 1:]  # [B, G, C - 1]
    scores = jax.vmap(lambda x, index: x[index])(batch["labels"], tuples)
    return jnp.where(tuples >= 0, scores, jnp.nan).reshape(-1, tuples.shape[-1])


def ranking_accuracy(vectors: jax.Array, mask: jax.Array, similarity: Similarity) -> tuple[jax.Array, jax.Array]:
    """The number of anchors to which no other text is as similar as their positive, and the number of pairs.

    `vectors` [N, C, D] and `mask` [N, C] are as in `examples`. The texts are those of all examples but anchors.
    """
    x = jax.lax.stop_gradient(zero_absent(vectors, mask))

    def is_first(anchors: jax.Array, numbers: jax.Array) -> jax.Array:
        scores = jnp.where(mask[:, 1:], similarities(similarity, anchors, x[:, 1:]), -jnp.inf)  # [n, N, C - 1]
        return finds_positive(scores, numbers).astype(jnp.float32)

    return masked_sum(by_blocks(is_first, x[:, 0], jnp.arange(len(x))), mask[:, 0] & mask[:, 1])
