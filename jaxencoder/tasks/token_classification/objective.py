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
from jaxencoder.objectives.objective import Batch, Metrics, Objective, Params, Vocabulary, mean
from jaxencoder.tasks.scores import check_dropout, token_scores
from jaxencoder.tasks.task import TaskObjective, TrainingLabels
from jaxencoder.tasks.token_classification.entities import Scheme, count_entities

HEAD = "token_head"  # its name among the parameters


@dataclass(frozen=True)
class TokenClassification(TaskObjective):
    """Settings of token classification.

    Raises:
        ValueError: a setting lies outside its range.
    """

    from_data: ClassVar[tuple[str, ...]] = ("tags",)

    tags: tuple[str, ...] = ()
    """Classes of a word, in order of id; empty: those of the training data."""
    dropout: float = 0.1
    """Rate before the projection."""

    def __post_init__(self) -> None:
        check_dropout(self.dropout)
        if len(set(self.tags)) < len(self.tags):
            raise ValueError(f"objective.tags names a class more than once: {', '.join(self.tags)}.")

    def build(self, encoder: EncoderConfig, compute: ComputeConfig, vocabulary: Vocabulary) -> Objective:
        """The pure functions; see `Objective`. Scores are [B, T, tags] float32.

        Metrics: loss (nats per word), accuracy of words and, if the tags mark entities, f1 of entities: one is correct
        if its words and its type are.
        """
        init, scores = token_scores(encoder, compute, HEAD, self._head, self.dropout)
        scheme = Scheme.of(self.tags)

        def loss(params: Params, batch: Batch, key: jax.Array, train: bool) -> tuple[jax.Array, Metrics]:
            labels = batch["token_labels"]  # [B, T]
            is_word = labels >= 0
            logits = scores(params, batch, key, train)
            log_p = jnp.take_along_axis(jax.nn.log_softmax(logits), jnp.maximum(labels, 0)[..., None], -1)[..., 0]
            predicted = jnp.where(is_word, logits.argmax(-1), -1)
            is_right = is_word & (predicted == labels)
            count = is_word.sum().astype(jnp.float32)
            metrics = {
                "loss": (-jnp.where(is_word, log_p, 0).sum(), count),
                "accuracy": (is_right.sum().astype(jnp.float32), count),
            }
            if scheme is not None:
                correct, positives, true = count_entities(scheme, predicted, labels, batch["segment_ids"])
                metrics["f1"] = (2.0 * correct, positives + true)
            return mean(metrics), metrics

        return Objective(init, loss, scores)

    @property
    def _head(self) -> HeadConfig:
        return HeadConfig("tokens", max(len(self.tags), 1))

    @property
    def best(self) -> tuple[str, Literal["min", "max"]]:
        """The F1 of entities, or the accuracy of tags that mark none."""
        return ("accuracy" if self.tags and Scheme.of(self.tags) is None else "f1"), "max"

    def heads(self, encoder: EncoderConfig) -> Mapping[str, HeadConfig]:
        """One projection of each token, as most published token classifiers have."""
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
        return replace(self, tags=labels.names)

    def with_assumed_labels(self, names: Sequence[str]) -> Self:
        return self if self.tags else replace(self, tags=tuple(names) or ("O", "B"))
