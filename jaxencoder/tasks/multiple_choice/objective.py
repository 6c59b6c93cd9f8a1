"""Multiple choice on packed rows: a score for each choice, and a softmax over the choices of an example.

Zellers et al. 2018 (SWAG), arXiv:1808.05326; the recipe of Devlin et al. 2019 (BERT), arXiv:1810.04805, section 4.4.
"""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp

from jaxencoder.model.config import ComputeConfig, EncoderConfig, Pooling
from jaxencoder.objectives.objective import Batch, Metrics
from jaxencoder.tasks.scores import check_dropout, segment_log_softmax, text_scores
from jaxencoder.tasks.task import Network, TaskObjective


@dataclass(frozen=True)
class MultipleChoice(TaskObjective):
    """Settings of multiple choice; ValueError if one lies outside its range."""

    pooling: Pooling = "cls"
    """How a context with a choice becomes one vector, as in Classification."""
    dropout: float = 0.1
    """Rate before the last projection."""

    def __post_init__(self) -> None:
        check_dropout(self.dropout)

    def network(self, encoder: EncoderConfig, compute: ComputeConfig) -> Network:
        """Scores are [B, E, 1] float32, one for each choice."""
        return text_scores(encoder, compute, 1, self.pooling, self.dropout)

    def metrics(self, scores: jax.Array, batch: Batch) -> Metrics:
        """Loss (nats per example) and accuracy, of examples whose right choice has the largest score.

        The choices of an example share a number in batch["groups"] [B, E], -1 at padding. batch["labels"] is 1 for the
        right choice and 0 for others.
        """
        is_right = batch["labels"] == 1
        log_p, is_best = segment_log_softmax(scores, batch["groups"] + 1)
        hits = (is_right & is_best[..., 0]).sum().astype(jnp.float32)
        examples = is_right.sum().astype(jnp.float32)
        return {"loss": (-jnp.where(is_right, log_p[..., 0], 0).sum(), examples), "accuracy": (hits, examples)}

    @property
    def best(self) -> tuple[str, Literal["min", "max"]]:
        return "accuracy", "max"
