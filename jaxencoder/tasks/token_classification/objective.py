"""Classification of words on packed rows: the first token of a word predicts its tag, and entities are counted.

The recipe of Devlin et al. 2019 (BERT), arXiv:1810.04805, section 5.3.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self

import jax
import jax.numpy as jnp

from jaxencoder.model.config import ComputeConfig, EncoderConfig
from jaxencoder.model.heads import HeadConfig
from jaxencoder.objectives.objective import Batch, Metrics
from jaxencoder.tasks.scores import check_dropout, token_scores
from jaxencoder.tasks.task import Network, TaskObjective, TrainingLabels
from jaxencoder.tasks.token_classification.entities import count_entities
from jaxencoder.tasks.token_classification.scheme import Scheme, warn_of_strays

HEAD = "token_head"  # its name among the parameters


@dataclass(frozen=True)
class TokenClassification(TaskObjective):
    """Settings of token classification; ValueError if one lies outside its range."""

    from_data: ClassVar[tuple[str, ...]] = ("tags",)

    tags: tuple[str, ...] = ()
    """Classes of a word, in order of id; empty: those of the training data."""
    dropout: float = 0.1
    """Rate before the projection."""

    def __post_init__(self) -> None:
        check_dropout(self.dropout)
        if len(set(self.tags)) < len(self.tags):
            raise ValueError(f"objective.tags names a class more than once: {', '.join(self.tags)}.")

    def network(self, encoder: EncoderConfig, compute: ComputeConfig) -> Network:
        """Scores are [B, T, tags] float32."""
        return token_scores(encoder, compute, HEAD, self._head, self.dropout)

    def metrics(self, scores: jax.Array, batch: Batch) -> Metrics:
        """Loss (nats per word), accuracy of words and, if the tags mark entities, f1 of entities by words and type."""
        labels = batch["token_labels"]  # [B, T], -1 at tokens that are not a word's first
        is_word = labels >= 0
        log_p = jnp.take_along_axis(jax.nn.log_softmax(scores), jnp.maximum(labels, 0)[..., None], -1)[..., 0]
        predicted = jnp.where(is_word, scores.argmax(-1), -1)
        hits, words = (x.sum().astype(jnp.float32) for x in (is_word & (predicted == labels), is_word))
        metrics = {"loss": (-jnp.where(is_word, log_p, 0).sum(), words), "accuracy": (hits, words)}
        if (scheme := Scheme.of(self.tags)) is not None:
            correct, positives, true = count_entities(scheme, predicted, labels, batch["segment_ids"])
            metrics["f1"] = (2.0 * correct, positives + true)
        return metrics

    @property
    def _head(self) -> HeadConfig:
        return HeadConfig("tokens", max(len(self.tags), 1))

    @property
    def best(self) -> tuple[str, Literal["min", "max"]]:
        return ("accuracy" if self.tags and Scheme.of(self.tags) is None else "f1"), "max"

    def heads(self, encoder: EncoderConfig) -> Mapping[str, HeadConfig]:
        return {HEAD: self._head}

    @property
    def class_labels(self) -> tuple[str, ...]:
        return self.tags

    def with_labels(self, labels: TrainingLabels) -> Self:
        if self.tags not in ((), labels.names):
            raise ValueError(
                f"objective.tags is {', '.join(self.tags)}, but the training data has {', '.join(labels.names)}; "
                "leave it out, or name them in data.labels."
            )
        warn_of_strays(labels.names)
        return replace(self, tags=labels.names)

    def with_assumed_labels(self, names: Sequence[str]) -> Self:
        return self if self.tags else replace(self, tags=tuple(names) or ("O", "B"))
