"""Base of objectives that compare the vectors of all texts of a batch, one vector for each text."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal, Self

import jax
import jax.numpy as jnp

from jaxencoder.model.sentence import Similarity
from jaxencoder.objectives.objective import Batch, Metrics
from jaxencoder.tasks.embeddings.batch_objective import BatchObjective, check_label_field
from jaxencoder.tasks.embeddings.data import VectorTexts
from jaxencoder.tasks.embeddings.examples import examples, teacher_scores, text_labels
from jaxencoder.tasks.embeddings.losses import LOSSES, EmbeddingLoss, VectorLoss, users_of_settings, vector_loss
from jaxencoder.tasks.embeddings.ranking import Direction, Hardness, Partition, check_settings
from jaxencoder.tasks.embeddings.source_metrics import metrics_of_source
from jaxencoder.tasks.task import TrainingLabels

_TRIPLET = 3  # texts of an example with a negative
# What data.label_field holds for a loss that learns these labels.
_LABELS = {
    "scores": "scores",
    "teacher_scores": "a teacher's scores",
    "pair_classes": "classes of pairs",
    "text_classes": "classes of texts",
}


@dataclass(frozen=True)
class ComparedTexts(BatchObjective):
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

    from_data: ClassVar[tuple[str, ...]] = ("similarity",)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_at_least({"margin": 0, "hardness_strength": 0})
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
        use = "takes all pairs as similar" if LOSSES[self.loss].labels == "none" else "learns a teacher's vectors"
        check_label_field(self.loss, labels.field, _LABELS.get(LOSSES[self.loss].labels, ""), use)
        return dataclasses.replace(self, similarity=self.sentence.similarity)

    def resumed(self, saved: Self) -> Self:
        left_open = [name for name in self.from_data if not getattr(self, name)]
        return dataclasses.replace(self, **{name: getattr(saved, name) for name in left_open})
