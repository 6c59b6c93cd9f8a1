"""Extractive question answering on packed rows: scores for the first and the last token of the answer.

Rajpurkar et al. 2016 (SQuAD), arXiv:1606.05250; the recipe of Devlin et al. 2019 (BERT), arXiv:1810.04805, sections 4.2
and 4.3: two scores for each token, with [CLS] as the answer to questions that have none.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp

from jaxencoder.model.config import ComputeConfig, EncoderConfig
from jaxencoder.model.heads import HeadConfig
from jaxencoder.objectives.objective import Batch, Metrics, Objective, Params, Vocabulary, mean
from jaxencoder.tasks.question_answering.data import BOTH, END, START
from jaxencoder.tasks.scores import check_dropout, segment_log_softmax, segment_sums, token_scores
from jaxencoder.tasks.task import TaskObjective

HEAD = "span_head"  # its name among the parameters
_HEAD_CONFIG = HeadConfig("tokens", 2)


@dataclass(frozen=True)
class QuestionAnswering(TaskObjective):
    """Settings of extractive question answering.

    Raises:
        ValueError: a setting lies outside its range.
    """

    dropout: float = 0.0
    """Rate before the projection."""
    no_answer: bool = False
    """Questions may have no answer (SQuAD 2.0), which is predicted if [CLS] scores more than the best span."""
    max_answer_length: int = 30
    """Most tokens of a predicted answer."""

    def __post_init__(self) -> None:
        check_dropout(self.dropout)
        if self.max_answer_length < 1:
            raise ValueError(f"objective.max_answer_length must be at least 1, got {self.max_answer_length}.")

    def build(self, encoder: EncoderConfig, compute: ComputeConfig, vocabulary: Vocabulary) -> Objective:
        """The pure functions; see `Objective`. Scores are [B, T, 2] float32, of an answer's first and last token.

        Metrics: loss (nats per window, the mean of both ends) and exact, the fraction of windows in which both ends
        have the largest score.
        """
        init, scores = token_scores(encoder, compute, HEAD, _HEAD_CONFIG, self.dropout)

        def loss(params: Params, batch: Batch, key: jax.Array, train: bool) -> tuple[jax.Array, Metrics]:
            labels, segment_ids = batch["token_labels"], batch["segment_ids"]
            log_p, is_best = segment_log_softmax(scores(params, batch, key, train), segment_ids)
            ends = [(labels == end) | (labels == BOTH) for end in (START, END)]
            total = sum(jnp.where(end, log_p[..., i], 0).sum() for i, end in enumerate(ends))
            hits = jnp.asarray(sum((end & is_best[..., i]).astype(jnp.int32) for i, end in enumerate(ends)))
            is_exact = segment_sums(hits, segment_ids) == 2
            windows = ends[0].sum().astype(jnp.float32)
            metrics = {
                "loss": (-total / 2, windows),
                "exact": (is_exact.sum().astype(jnp.float32), windows),
            }
            return mean(metrics), metrics

        return Objective(init, loss, scores)

    @property
    def best(self) -> tuple[str, Literal["min", "max"]]:
        """The fraction of windows in which both ends have the largest score."""
        return "exact", "max"

    def heads(self, encoder: EncoderConfig) -> Mapping[str, HeadConfig]:
        """One projection of each token, as published question-answering models have."""
        return {HEAD: _HEAD_CONFIG}
