"""Classification and regression of documents, on packed rows: one prediction for each document of a row.

The fine-tuning recipe of Devlin et al. 2019, arXiv:1810.04805, section 4.1. For rare classes: the focal loss of Lin et
al. 2017, arXiv:1708.02002; weights by the effective number of examples, Cui et al. 2019, arXiv:1901.05555; scores
adjusted by the classes' frequencies, Menon et al. 2021, arXiv:2007.07314.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from jaxencoder.model.config import ComputeConfig, EncoderConfig
from jaxencoder.model.encoder import Encoder
from jaxencoder.model.heads import Classifier, Pooling, first_tokens
from jaxencoder.objectives.objective import Batch, Metrics, Objective, ObjectiveConfig, Params, Vocabulary, encode, mean
from jaxencoder.tasks.classification.multi_label_loss import multi_label_metrics

Loss = Literal["cross_entropy", "focal", "logit_adjusted"]
ClassWeights = Literal["none", "balanced", "effective"]

_ALMOST_SURE = -1e-6  # log p from which the focal factor falls no further, so that its gradient stays finite


@dataclass(frozen=True)
class Classification(ObjectiveConfig):
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
    loss: Loss = "cross_entropy"
    """Of classes. focal: little is lost on what is all but sure; logit_adjusted: the scores learn what tells classes
    apart beyond their frequencies, as balanced accuracy and macro-F1 want it."""
    focal_gamma: float = 2.0
    """How little: the cross-entropy times (1 - p) ** focal_gamma; 0: no less than it is."""
    adjustment: float = 1.0
    """Of logit_adjusted: this times the log of a class's frequency is added to its score for the loss, in training and
    held-out; never for a prediction."""
    class_weights: ClassWeights = "none"
    """Weight of an example in the mean: 1 / n for a class of n examples (balanced), or less steep, 1 over their
    effective number (1 - beta ** n) / (1 - beta). Of multi_label, the weight of a class in the mean over them."""
    effective_beta: float = 0.999
    """The beta of effective weights, in [0, 1): 0 weighs all alike, towards 1 they become balanced."""
    class_counts: tuple[int, ...] = ()
    """Training examples of each class, where loss or weights ask for them; empty: counted in the sources of the first
    phase, whatever their data.weights."""
    class_names: tuple[str, ...] = ()
    """Of the classes in order of id, as predictions are written; empty: those of the training data, as data.labels."""
    multi_label: bool = False
    """A document has any number of the classes, each a yes or no of its own; set where the labels of the training data
    are lists."""

    def __post_init__(self) -> None:
        if self.labels < 0:
            raise ValueError(f"objective.labels must not be negative, got {self.labels}.")
        if self.class_names and self.labels not in (0, len(self.class_names)):
            raise ValueError(f"objective.class_names has {len(self.class_names)} names of {self.labels} classes.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"objective.dropout must be in [0, 1), got {self.dropout}.")
        for name, kind in (("loss", Loss), ("class_weights", ClassWeights)):
            if getattr(self, name) not in get_args(kind):
                raise ValueError(
                    f"objective.{name} is {getattr(self, name)!r}; choose one of {', '.join(get_args(kind))}."
                )
        if not 0 <= self.focal_gamma < float("inf"):
            raise ValueError(f"objective.focal_gamma must be 0 or a positive number, got {self.focal_gamma}.")
        if not 0 <= self.adjustment < float("inf"):
            raise ValueError(f"objective.adjustment must be 0 or a positive number, got {self.adjustment}.")
        if not 0 <= self.effective_beta < 1:
            raise ValueError(f"objective.effective_beta must be in [0, 1), got {self.effective_beta}.")
        if min(self.class_counts, default=0) < 0:
            raise ValueError(f"objective.class_counts must not be negative, got {self.class_counts}.")

    @property
    def counts_classes(self) -> bool:
        """Whether the loss depends on how frequent the classes are."""
        return self.loss == "logit_adjusted" or self.class_weights != "none"

    def build(self, encoder: EncoderConfig, compute: ComputeConfig, vocabulary: Vocabulary) -> Objective:
        """The pure functions; see `Objective`.

        Metrics: loss (nats or squared error, its weight the sum of the examples' weights) and, for classes, accuracy;
        of several classes for a document those of `multi_label_metrics`.

        Raises:
            ValueError: a loss or weights of classes for values, or counts of other classes, or a loss that is not for
                several classes of one document.
        """
        classes = self.labels if self.labels > 1 else 0
        if not classes and (self.loss != "cross_entropy" or self.class_weights != "none"):
            raise ValueError(
                f"objective.loss {self.loss} and class_weights {self.class_weights} are for classes, "
                "but the labels are values; leave them out."
            )
        if self.multi_label and (not classes or self.loss == "logit_adjusted"):
            what = f"objective.loss is {self.loss}" if classes else f"objective.labels is {self.labels}"
            raise ValueError(f"{what}, which is not for several classes of a document; change it or multi_label.")
        if self.class_counts and len(self.class_counts) != classes:
            raise ValueError(f"objective.class_counts counts {len(self.class_counts)} classes of {classes}.")
        # A class that training never sees counts as one that it saw once.
        counts = np.maximum(self.class_counts or (1,) * classes, 1).astype(np.float64)
        prior = self.adjustment * np.log(counts / counts.sum()) if self.loss == "logit_adjusted" else 0.0
        class_weights = self._class_weights(counts)
        init, class_scores = document_scores(encoder, compute, self.labels, self.pooling, self.dropout)

        def loss(params: Params, batch: Batch, key: jax.Array, train: bool) -> tuple[jax.Array, Metrics]:
            scores = class_scores(params, batch, key, train)
            labels = batch["labels"]  # [B, E], or [B, E, C]
            if self.multi_label:
                gamma = self.focal_gamma if self.loss == "focal" else 0.0
                metrics = multi_label_metrics(scores, labels, jnp.asarray(class_weights, jnp.float32), gamma)
                return mean(metrics), metrics
            if not classes:
                there = ~jnp.isnan(labels)
                losses = jnp.square(scores[..., 0] - jnp.where(there, labels, 0))
                metrics = {"loss": (jnp.where(there, losses, 0).sum(), there.sum().astype(jnp.float32))}
                return mean(metrics), metrics
            there = labels >= 0
            target = jnp.where(there, labels, 0)
            log_p = jax.nn.log_softmax(scores + jnp.asarray(prior, jnp.float32))
            log_p = jnp.take_along_axis(log_p, target[..., None], -1)[..., 0]
            losses = -log_p
            if self.loss == "focal" and self.focal_gamma:
                losses *= jnp.exp(self.focal_gamma * jnp.log1p(-jnp.exp(jnp.minimum(log_p, _ALMOST_SURE))))
            weights = jnp.where(there, jnp.asarray(class_weights, jnp.float32)[target], 0)
            right = there & (scores.argmax(-1) == labels)
            metrics = {
                "loss": ((weights * losses).sum(), weights.sum()),
                "accuracy": tuple(x.sum().astype(jnp.float32) for x in (right, there)),
            }
            return mean(metrics), metrics

        return Objective(init, loss, class_scores)

    def _class_weights(self, counts: np.ndarray) -> np.ndarray:
        """Of each class, on average 1 over the training examples; of multi_label, over the classes."""
        if self.class_weights == "none":
            return np.ones_like(counts)
        if self.class_weights == "balanced":
            weights = 1 / counts
        else:
            weights = (1 - self.effective_beta) / (1 - self.effective_beta**counts)
        if self.multi_label:
            return weights / weights.mean()
        return weights * counts.sum() / (weights * counts).sum()

    @property
    def best(self) -> tuple[str, Literal["min", "max"]]:
        """Accuracy of classes, F1 of several for a text, squared error of values."""
        if self.labels == 1:
            return "loss", "min"
        return ("micro_f1" if self.multi_label else "accuracy"), "max"


def document_scores(
    encoder: EncoderConfig, compute: ComputeConfig, labels: int, pooling: Pooling, dropout: float
) -> tuple[Callable, Callable]:
    """The functions `init` and `scores` of an objective that pools each document and scores its vector.

    Args:
        labels: how many scores.
        pooling, dropout: of the classifier, "classifier" among the parameters.
    """
    module = Encoder(encoder, compute)
    head = Classifier(encoder, labels, pooling, dropout)

    def init(key: jax.Array) -> Params:
        body, top = jax.random.split(key)
        one = jnp.ones((1, 1), jnp.int32)
        hidden = jnp.zeros((1, 1, encoder.hidden_size))
        return {
            "encoder": module.init(body, one, one, one * 0)["params"],
            "classifier": head.init(top, hidden, one, 1, False)["params"],
        }

    def scores(params: Params, batch: Batch, key: jax.Array, train: bool) -> jax.Array:
        body, top = jax.random.split(key)
        documents = batch["labels"].shape[1]
        if "global_slots" not in batch and encoder.global_tokens and pooling == "cls":
            batch = batch | {"global_slots": first_tokens(batch["segment_ids"], documents)}
        hidden = encode(module, params["encoder"], batch, body, train)
        inputs = (hidden, batch["segment_ids"], documents, train)
        return head.apply({"params": params["classifier"]}, *inputs, rngs={"dropout": top})

    return init, scores
