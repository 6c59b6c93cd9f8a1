"""Classification and regression of documents, on packed rows: one prediction for each document of a row.

The fine-tuning recipe of Devlin et al. 2019, arXiv:1810.04805, section 4.1.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxencoder.model.config import ComputeConfig, EncoderConfig
from jaxencoder.model.encoder import Encoder
from jaxencoder.model.heads import Classifier, Pooling, first_tokens
from jaxencoder.objectives.objective import Batch, Metrics, Objective, Params, Vocabulary, mean


@dataclass(frozen=True)
class Classification:
    """Settings of sequence classification.

    Raises:
        ValueError: a setting lies outside its range.
    """

    labels: int = 0
    """Number of classes; 1 is regression by squared error; 0 takes what the training data holds."""
    pooling: Pooling = "cls"
    """How a document becomes one vector; `cls` makes its first token a global one, in a model that has such."""
    dropout: float = 0.1
    """Before the last projection."""

    def __post_init__(self) -> None:
        if self.labels < 0:
            raise ValueError(f"objective.labels must not be negative, got {self.labels}.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"objective.dropout must be in [0, 1), got {self.dropout}.")

    def build(self, encoder: EncoderConfig, compute: ComputeConfig, vocabulary: Vocabulary) -> Objective:
        """The pure functions; see `Objective`. Metrics: loss (nats or squared error) and, for classes, accuracy."""
        module = Encoder(encoder, compute)
        head = Classifier(encoder, self.labels, self.pooling, self.dropout)

        def init(key: jax.Array) -> Params:
            body, top = jax.random.split(key)
            one = jnp.ones((1, 1), jnp.int32)
            hidden = jnp.zeros((1, 1, encoder.hidden_size))
            return {
                "encoder": module.init(body, one, one, one * 0)["params"],
                "classifier": head.init(top, hidden, one, 1, False)["params"],
            }

        def loss(params: Params, batch: Batch, key: jax.Array, train: bool) -> tuple[jax.Array, Metrics]:
            scores = class_scores(params, batch, key, train)
            labels = batch["labels"]  # [B, E]
            if self.labels == 1:
                there = ~jnp.isnan(labels)
                losses = jnp.square(scores[..., 0] - jnp.where(there, labels, 0))
            else:
                there = labels >= 0
                target = jnp.where(there, labels, 0)
                losses = -jnp.take_along_axis(jax.nn.log_softmax(scores), target[..., None], -1)[..., 0]
            weight = there.sum().astype(jnp.float32)
            metrics = {"loss": (jnp.where(there, losses, 0).sum(), weight)}
            if self.labels > 1:
                metrics["accuracy"] = ((there & (scores.argmax(-1) == labels)).sum().astype(jnp.float32), weight)
            return mean(metrics), metrics

        def class_scores(params: Params, batch: Batch, key: jax.Array, train: bool) -> jax.Array:
            body, top = jax.random.split(key)
            documents = batch["labels"].shape[1]
            global_slots = batch.get("global_slots")
            if global_slots is None and encoder.global_tokens and self.pooling == "cls":
                global_slots = first_tokens(batch["segment_ids"], documents)
            hidden = module.apply(
                {"params": params["encoder"]},
                batch["token_ids"],
                batch["segment_ids"],
                batch["positions"],
                batch.get("token_type_ids"),
                train,
                global_slots,
                rngs={"dropout": body},
            )
            inputs = (hidden, batch["segment_ids"], documents, train)
            return head.apply({"params": params["classifier"]}, *inputs, rngs={"dropout": top})

        return Objective(init, loss, class_scores)
