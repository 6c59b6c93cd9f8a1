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
from jaxencoder.objectives.objective import Batch, Metrics
from jaxencoder.tasks.question_answering.data import BOTH, END, START
from jaxencoder.tasks.scores import check_dropout, segment_log_softmax, token_scores
from jaxencoder.tasks.task import Network, TaskObjective

HEAD = "span_head"  # its name among the parameters
_HEAD_CONFIG = HeadConfig("tokens", 2)


@dataclass(frozen=True)
class QuestionAnswering(TaskObjective):
    """Settings of extractive question answering; ValueError if one lies outside its range."""

    dropout: float = 0.0
    """Rate before the projection."""
    no_answer: bool = False
    """Questions may have no answer (SQuAD 2.0), which is predicted if [CLS] scores more than the best span."""
    max_answer_length: int = 30
    """Most tokens of a predicted answer."""

    def __post_init__(self) -> None:
        check_dropout(self.dropout)
        self.check_at_least({"max_answer_length": 1})

    def network(self, encoder: EncoderConfig, compute: ComputeConfig) -> Network:
        """Scores are [B, T, 2] float32, of an answer's first and last token."""
        return token_scores(encoder, compute, HEAD, _HEAD_CONFIG, self.dropout)

    def metrics(self, scores: jax.Array, batch: Batch) -> Metrics:
        """Loss (nats per window, mean of both ends) and exact: windows in which both ends have the largest score."""
        labels, segment_ids = batch["token_labels"], batch["segment_ids"]
        log_p, is_best = segment_log_softmax(scores, segment_ids)
        is_end = jnp.stack([(labels == end) | (labels == BOTH) for end in (START, END)], -1)  # [B, T, 2]
        total = sum((jnp.where(is_end[..., i], log_p[..., i], 0).sum() for i in range(2)), jnp.float32(0))
        hits = (is_end & is_best).astype(jnp.int32).sum(-1)  # [B, T]
        # Hits of each window, [B, T + 1]: segment 0 is the padding.
        hits = jax.vmap(lambda x, ids: jax.ops.segment_sum(x, ids, len(ids) + 1))(hits, segment_ids)
        windows = is_end[..., 0].sum().astype(jnp.float32)
        return {"loss": (-total / 2, windows), "exact": ((hits == 2).sum().astype(jnp.float32), windows)}

    @property
    def best(self) -> tuple[str, Literal["min", "max"]]:
        return "exact", "max"

    def heads(self, encoder: EncoderConfig) -> Mapping[str, HeadConfig]:
        return {HEAD: _HEAD_CONFIG}
