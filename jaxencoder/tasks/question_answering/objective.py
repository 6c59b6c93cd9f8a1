"""Extractive question answering on packed rows: where in a text the answer begins, and where it ends.

Rajpurkar et al. 2016 (SQuAD), arXiv:1606.05250; the recipe of Devlin et al. 2019 (BERT), arXiv:1810.04805, sections 4.2
and 4.3: two scores for each token, and [CLS] for what has no answer.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp

from jaxencoder.model.config import ComputeConfig, EncoderConfig
from jaxencoder.model.heads import HeadConfig
from jaxencoder.objectives.objective import Batch, Metrics, Objective, ObjectiveConfig, Params, Vocabulary, mean
from jaxencoder.tasks.token_classification.objective import token_scores

NAME = "span_head"  # among the parameters
_HEAD = HeadConfig("tokens", 2)
_START, _END, _BOTH = range(3)  # classes of tokens, as text/spans.py writes them


@dataclass(frozen=True)
class QuestionAnswering(ObjectiveConfig):
    """Settings of extractive question answering.

    Raises:
        ValueError: a setting lies outside its range.
    """

    dropout: float = 0.0
    """Before the projection."""
    no_answer: bool = False
    """Questions may have no answer (SQuAD 2.0): that is predicted where [CLS] scores more than the best span."""
    max_answer_length: int = 30
    """Most tokens of an answer that is predicted."""

    def __post_init__(self) -> None:
        if not 0 <= self.dropout < 1:
            raise ValueError(f"objective.dropout must be in [0, 1), got {self.dropout}.")
        if self.max_answer_length < 1:
            raise ValueError(f"objective.max_answer_length must be at least 1, got {self.max_answer_length}.")

    def build(self, encoder: EncoderConfig, compute: ComputeConfig, vocabulary: Vocabulary) -> Objective:
        """The pure functions; see `Objective`. Scores are [B, T, 2] float32, of an answer's first and last token.

        Metrics: loss (nats a window, the mean of both ends) and exact, the share of windows whose two ends score most.
        """
        init, scores = token_scores(encoder, compute, NAME, _HEAD, self.dropout)

        def loss(params: Params, batch: Batch, key: jax.Array, train: bool) -> tuple[jax.Array, Metrics]:
            labels, segment_ids = batch["token_labels"], batch["segment_ids"]
            log_p, best = within_segments(scores(params, batch, key, train), segment_ids)
            ends = [(labels == end) | (labels == _BOTH) for end in (_START, _END)]
            total = sum(jnp.where(end, log_p[..., i], 0).sum() for i, end in enumerate(ends))
            hits = sum((end & best[..., i]).astype(jnp.int32) for i, end in enumerate(ends))
            right = _sums(hits, segment_ids) == 2
            windows = ends[0].sum().astype(jnp.float32)
            metrics = {
                "loss": (-total / 2, windows),
                "exact": (right.sum().astype(jnp.float32), windows),
            }
            return mean(metrics), metrics

        return Objective(init, loss, scores)

    @property
    def best(self) -> tuple[str, Literal["min", "max"]]:
        """The share of windows whose two ends score most."""
        return "exact", "max"

    def heads(self, encoder: EncoderConfig) -> Mapping[str, HeadConfig]:
        """One projection of each token, as published readers have."""
        return {NAME: _HEAD}


def within_segments(scores: jax.Array, segment_ids: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A softmax over the tokens of each segment.

    Args:
        scores: [B, T, C] float32.
        segment_ids: [B, T].

    Returns:
        (log probabilities [B, T, C], whether a token is the one with the largest score of its segment, the first of
        several, bool [B, T, C]).
    """
    segments = segment_ids.shape[1] + 1

    def row(z: jax.Array, ids: jax.Array) -> tuple[jax.Array, jax.Array]:
        largest = jax.lax.stop_gradient(jax.ops.segment_max(z, ids, segments))[ids]
        total = jax.ops.segment_sum(jnp.exp(z - largest), ids, segments)[ids]
        place = jnp.where(z >= largest, jnp.arange(len(z))[:, None], segments)
        first = jax.ops.segment_min(place, ids, segments)[ids]
        return z - largest - jnp.log(total), place == first

    return jax.vmap(row)(scores, segment_ids)


def _sums(values: jax.Array, segment_ids: jax.Array) -> jax.Array:
    """Sums over each segment: [B, T] to [B, T + 1], segment 0 the padding."""
    return jax.vmap(lambda x, ids: jax.ops.segment_sum(x, ids, len(ids) + 1))(values, segment_ids)
