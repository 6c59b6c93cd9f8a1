"""Base of objectives that compare the vectors of all texts of a batch.

The batch is that of all devices: its vectors are one array under jit, so that every text is compared with the texts of
all devices and hosts. With `parts`, texts are embedded a part of the batch at a time, see `in_parts`.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal, Self

import jax
import jax.numpy as jnp
import numpy as np

from jaxencoder.model.sentence import Similarity
from jaxencoder.objectives.objective import Batch, Metrics
from jaxencoder.tasks.embeddings.data import VectorTexts
from jaxencoder.tasks.embeddings.distillation import check_temperatures
from jaxencoder.tasks.embeddings.duplicates import compared_texts, is_present, text_numbers
from jaxencoder.tasks.embeddings.losses import LOSSES, EmbeddingLoss, VectorLoss, users_of_settings, vector_loss
from jaxencoder.tasks.embeddings.ranking import Direction, Hardness, Partition, check_settings
from jaxencoder.tasks.embeddings.source_metrics import metrics_of_source
from jaxencoder.tasks.embeddings.vectors import Loss, by_blocks, finds_positive, masked_sum, similarities, zero_absent
from jaxencoder.tasks.task import TaskObjective, TrainingLabels

_TRIPLET = 3  # texts of an example with a negative
# What data.label_field holds for a loss that learns these labels.
_LABELS = {
    "scores": "scores",
    "teacher_scores": "a teacher's scores",
    "pair_classes": "classes of pairs",
    "text_classes": "classes of texts",
}


@dataclass(frozen=True)
class ComparedTexts(TaskObjective):
    """Base of objectives whose loss compares the vectors of all texts of a batch."""

    loss: EmbeddingLoss = "ranking"
    """ranking: find the positive among the texts of the batch (InfoNCE, multiple negatives). triplet: positives nearer
    than negatives by a margin. batch_all_triplet, batch_hard_triplet, batch_semi_hard_triplet and
    batch_hard_soft_margin_triplet: triplets made of the single texts of a batch, by their classes in data.label_field.
    softmax: the class of each pair in data.label_field, by a classifier. The others need the score of each pair in
    data.label_field: cosent and angle learn their order; cosine the score itself, from -1 to 1; contrastive and
    online_contrastive (its hard pairs) whether it is at least 0.5. Of these only angle uses negatives. margin_mse and
    kl need a teacher's scores of the anchor with each text in data.label_field, and learn their differences or their
    distribution; their usual similarity is dot. mse, l2 and cosine_distance bring each vector near to that of another
    model, see `teacher`."""
    losses: tuple[EmbeddingLoss, ...] = ()
    """A loss for each source of data.train, in their order, in place of loss; with data.batch_sources one. Each source
    has the fields and the labels that its loss needs; data.label_field is found by its usual names."""
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
    mask_duplicates: bool = True
    """Leave the anchors and positives of examples that have an anchor or a positive in common, which are equal texts,
    out of each other's negatives in ranking. False: they are negatives, as in sentence-transformers."""
    student_temperature: float = 1.0
    """Divides the similarities of kl."""
    teacher_temperature: float = 1.0
    """Divides the teacher's scores of kl."""
    parts: int = 1
    """Parts of a batch that are embedded one after another. More parts take less memory and give the same loss."""

    from_data: ClassVar[tuple[str, ...]] = ("similarity",)

    def __post_init__(self) -> None:
        self.check_at_least({"parts": 1, "margin": 0, "hardness_strength": 0})
        if self.losses and self.loss != type(self).loss:
            problem = f"objective.loss is {self.loss}, and objective.losses {' '.join(self.losses)}"
            raise ValueError(f"{problem}; set one of them.")
        self.check_used(self.all_losses, users_of_settings())
        if (self.hardness == "none") != (self.hardness_strength == 0):
            problem = f"objective.hardness is {self.hardness}, and objective.hardness_strength {self.hardness_strength}"
            raise ValueError(f"{problem}; set both, or leave both out.")
        for loss in self.all_losses:
            if LOSSES[loss].by_distance and self.sentence.similarity == "dot":
                raise ValueError(f"objective.loss {loss} compares distances, and dot is none; give cosine.")
        check_settings(self.scale, self.directions, self.partition, self.hardness, self.hardness_strength)
        check_temperatures(self.student_temperature, self.teacher_temperature)

    @property
    def all_losses(self) -> tuple[EmbeddingLoss, ...]:
        return self.losses or (self.loss,)

    @property
    def by_source(self) -> tuple[Self, ...]:
        """The objective of each source; empty if they have no losses of their own."""
        return tuple(self.of_source(number) for number in range(len(self.losses)))

    def of_source(self, number: int) -> Self:
        """The objective with the loss of a source alone, and the settings that it uses."""
        loss = self.losses[number]
        unused = [name for name, losses in users_of_settings().items() if loss not in losses]
        defaults = {name: getattr(type(self), name) for name in unused}
        return dataclasses.replace(self, loss=loss, losses=(), **defaults)

    def metrics(self, scores: jax.Array, batch: Batch) -> Metrics:
        """The metrics of a batch, if sources have losses of their own those of its source, see `metrics_of_source`."""
        if not self.losses:
            return self.loss_metrics(scores, batch)
        if (missing := _TRIPLET - batch["tuples"].shape[-1]) > 0:  # another source has negatives
            batch = batch | {"tuples": jnp.pad(batch["tuples"], [(0, 0), (0, 0), (0, missing)], constant_values=-1)}
        branches = [partial(objective.loss_metrics, scores, batch) for objective in self.by_source]
        return metrics_of_source(branches, self.losses, batch)

    def loss_metrics(self, scores: jax.Array, batch: Batch) -> Metrics:
        """The metrics of a batch by the objective's only loss."""
        raise NotImplementedError

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

    def pair_loss(self, head: Callable[[jax.Array], jax.Array] | None = None) -> VectorLoss:
        """The loss of the vectors of a batch, its similarity, settings and classifier filled in."""
        return vector_loss(self.loss, self.sentence.similarity, self, head)

    def texts(self, batch: Batch) -> jax.Array:
        """The mask of `examples`, or with `mask_duplicates` the numbers of the texts, [N, C]."""
        return text_numbers(batch) if self.mask_duplicates else text_mask(batch)

    def examples(self, scores: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array, jax.Array]:
        """`examples` of a batch with the labels of a `VectorLoss`."""
        vectors, mask, labels = examples(scores, batch)
        match LOSSES[self.loss].labels:
            case "teacher_scores":
                labels = teacher_scores(batch)
            case "text_classes":
                labels = text_labels(batch)
            case "none":
                labels = self.texts(batch)
        return vectors, mask, labels

    def with_labels(self, labels: TrainingLabels) -> Self:
        if self.losses:  # `SourceSchemas` checks the labels of each source
            for number, (loss, texts) in enumerate(zip(self.losses, labels.source_texts, strict=True), 1):
                if loss == "triplet" and texts < _TRIPLET:
                    problem = f"objective.losses has triplet for source {number} of data.train"
                    raise ValueError(f"{problem}, but none of its records has a negative; set another loss.")
            return dataclasses.replace(self, similarity=self.sentence.similarity)
        if self.loss == "triplet" and labels.texts < _TRIPLET:
            problem = "objective.loss is triplet, but no record of data.train has a negative"
            raise ValueError(f"{problem}; add some, or set another loss.")
        needed = LOSSES[self.loss].labels
        content = _LABELS.get(needed)
        if content and not labels.field:
            raise ValueError(f"objective.loss is {self.loss}, which needs {content}; name data.label_field.")
        if labels.field and not content:
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
    scores = jnp.where(tuples[..., 0] >= 0, scores, jnp.nan)
    return chosen.reshape(-1, tuples.shape[-1], vectors.shape[-1]), text_mask(batch), scores.reshape(-1)


def text_mask(batch: Batch) -> jax.Array:
    """Which texts the examples of a batch have, bool [N, C]."""
    return (batch["tuples"] >= 0).reshape(-1, batch["tuples"].shape[-1])


def is_anchor(batch: Batch) -> jax.Array:
    """Which texts of each row are anchors, bool [B, E]."""
    return (batch["tuples"][..., :1] == jnp.arange(batch["labels"].shape[1])).any(1)


def text_labels(batch: Batch) -> jax.Array:
    """The labels float32 [N, C] of the texts of the examples, NaN for none; N and C as in `examples`."""
    tuples = batch["tuples"]  # [B, G, C]
    labels = jax.vmap(lambda x, index: x[index])(batch["labels"], tuples)
    return jnp.where(tuples >= 0, labels, jnp.nan).reshape(-1, tuples.shape[-1])


def teacher_scores(batch: Batch) -> jax.Array:
    """A teacher's scores float32 [N, C - 1] of each anchor with its texts, NaN for none; N and C as in `examples`."""
    return text_labels(batch)[:, 1:]


def ranking_accuracy(vectors: jax.Array, mask: jax.Array, similarity: Similarity) -> Loss:
    """The number of anchors to which no other text is as similar as their positive, and the number of pairs.

    `vectors` [N, C, D] are as in `examples`, and `mask` [N, C] is as in `multiple_negatives_ranking`. The texts are
    those of all examples but anchors.
    """
    texts, mask = mask, is_present(mask)
    x = jax.lax.stop_gradient(zero_absent(vectors, mask))

    def is_first(anchors: jax.Array, numbers: jax.Array, own_texts: jax.Array) -> jax.Array:
        compared = compared_texts(texts, own_texts, numbers[:, None] == jnp.arange(len(x)))
        scores = similarities(similarity, anchors, x[:, 1:])  # [n, N, C - 1]
        return finds_positive(jnp.where(compared[..., 1:], scores, -jnp.inf), numbers).astype(jnp.float32)

    return masked_sum(by_blocks(is_first, x[:, 0], jnp.arange(len(x)), texts), mask[:, 0] & mask[:, 1])
