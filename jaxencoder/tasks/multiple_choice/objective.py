"""Multiple choice on packed rows: a score for each choice of an example, and a softmax over them.

Zellers et al. 2018 (SWAG), arXiv:1808.05326; the recipe of Devlin et al. 2019 (BERT), arXiv:1810.04805, section 4.4.
"""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp

from jaxencoder.model.config import ComputeConfig, EncoderConfig
from jaxencoder.model.heads import Pooling
from jaxencoder.objectives.objective import Batch, Metrics, Objective, ObjectiveConfig, Params, Vocabulary, mean
from jaxencoder.tasks.classification.objective import document_scores
from jaxencoder.tasks.question_answering.objective import within_segments


@dataclass(frozen=True)
class MultipleChoice(ObjectiveConfig):
    """Settings of multiple choice.

    Raises:
        ValueError: a setting lies outside its range.
    """

    pooling: Pooling = "cls"
    """How a context with a choice becomes one vector, as in Classification."""
    dropout: float = 0.1
    """Before the last projection."""

    def __post_init__(self) -> None:
        if not 0 <= self.dropout < 1:
            raise ValueError(f"objective.dropout must be in [0, 1), got {self.dropout}.")

    def build(self, encoder: EncoderConfig, compute: ComputeConfig, vocabulary: Vocabulary) -> Objective:
        """The pure functions; see `Objective`. Scores are [B, E, 1] float32, one for each choice.

        The choices of an example have one number in batch["groups"] [B, E], -1 where there is none, and
        batch["labels"] is 1 for the right one and 0 for others.

        Metrics: loss (nats an example) and accuracy, of examples whose right choice scores most.
        """
        init, scores = document_scores(encoder, compute, 1, self.pooling, self.dropout)

        def loss(params: Params, batch: Batch, key: jax.Array, train: bool) -> tuple[jax.Array, Metrics]:
            right = batch["labels"] == 1
            log_p, best = within_segments(scores(params, batch, key, train), batch["groups"] + 1)
            examples = right.sum().astype(jnp.float32)
            metrics = {
                "loss": (-jnp.where(right, log_p[..., 0], 0).sum(), examples),
                "accuracy": ((right & best[..., 0]).sum().astype(jnp.float32), examples),
            }
            return mean(metrics), metrics

        return Objective(init, loss, scores)

    @property
    def best(self) -> tuple[str, Literal["min", "max"]]:
        """Accuracy."""
        return "accuracy", "max"
