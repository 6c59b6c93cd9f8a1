"""Classification and regression of texts on packed rows: one prediction for each text of a row.

The fine-tuning recipe of Devlin et al. 2019, arXiv:1810.04805, section 4.1. For rare classes: the focal loss of Lin et
al. 2017, arXiv:1708.02002; weights by the effective number of examples, Cui et al. 2019, arXiv:1901.05555; scores
adjusted by the class frequencies, Menon et al. 2021, arXiv:2007.07314.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self, get_args

import jax
import jax.numpy as jnp
import numpy as np

from jaxencoder.model.config import ComputeConfig, EncoderConfig, Pooling
from jaxencoder.objectives.objective import Batch, Metrics
from jaxencoder.tasks.scores import check_dropout, text_scores
from jaxencoder.tasks.task import Network, TaskObjective, TrainingLabels

Loss = Literal["cross_entropy", "focal", "logit_adjusted"]
ClassWeights = Literal["none", "balanced", "effective"]
_MULTI_LABEL_LOSSES = ("cross_entropy", "focal")  # those that `multi_label_metrics` computes

# Values of problem_type in transformers' config.json.
ONE_CLASS, SEVERAL_CLASSES, VALUE = "single_label_classification", "multi_label_classification", "regression"

_ALMOST_SURE = -1e-6  # log p above which the focal factor stays constant, so that its gradient is finite


@dataclass(frozen=True)
class Classification(TaskObjective):
    """Settings of text classification and regression; ValueError if one lies outside its range."""

    from_data: ClassVar[tuple[str, ...]] = ("labels", "class_names", "class_counts", "multi_label")

    labels: int = 0
    """Number of classes; 1 is regression by squared error, also of labels that are all whole numbers; 0 takes the
    number in the training data."""
    pooling: Pooling = "cls"
    """How a text becomes one vector. With `cls`, a model with global tokens makes the first token global."""
    transform: bool = True
    """BERT's projection and tanh before the last projection. Without it, and its bias, the classifier is that of
    decoders in transformers (with pooling lasttoken), and starts from its weights."""
    dropout: float = 0.1
    """Rate before the last projection."""
    loss: Loss = "cross_entropy"
    """Loss of classes. focal: reduces the loss of examples that are almost certain; logit_adjusted: fits scores
    relative to the class frequencies, which favors balanced accuracy and macro-F1."""
    focal_gamma: float = 2.0
    """Strength of the focal loss: the cross-entropy is multiplied by (1 - p) ** focal_gamma; 0 leaves it unchanged."""
    adjustment: float = 1.0
    """Strength of logit_adjusted: this times the log of a class's frequency is added to its score in the loss, in
    training and held-out; never in a prediction."""
    class_weights: ClassWeights = "none"
    """Weight of an example in the mean: 1 / n for a class of n examples (balanced), or the less steep 1 over their
    effective number (1 - beta ** n) / (1 - beta). With multi_label, the weight of a class in the mean over classes."""
    effective_beta: float = 0.999
    """The beta of effective weights, in [0, 1): 0 gives equal weights, values near 1 approach balanced."""
    class_counts: tuple[int, ...] = ()
    """Training examples of each class, if the loss or the weights use them; empty: counted in the sources of the first
    phase, whatever their data.weights."""
    class_names: tuple[str, ...] = ()
    """Names of the classes in order of id, as predictions are written; empty: those of the training data."""
    multi_label: bool = False
    """A text has any number of the classes, each a separate yes or no; set by training data with lists of labels."""

    def __post_init__(self) -> None:
        if self.labels < 0:
            raise ValueError(f"objective.labels must not be negative, got {self.labels}.")
        if self.class_names and self.labels not in (0, len(self.class_names)):
            raise ValueError(f"objective.class_names has {len(self.class_names)} names of {self.labels} classes.")
        check_dropout(self.dropout)
        for name, value, choices in (("loss", self.loss, Loss), ("class_weights", self.class_weights, ClassWeights)):
            if value not in get_args(choices):
                raise ValueError(f"objective.{name} is {value!r}; choose one of {', '.join(get_args(choices))}.")
        for name, value in (("focal_gamma", self.focal_gamma), ("adjustment", self.adjustment)):
            if not 0 <= value < float("inf"):
                raise ValueError(f"objective.{name} must be 0 or a positive number, got {value}.")
        if not 0 <= self.effective_beta < 1:
            raise ValueError(f"objective.effective_beta must be in [0, 1), got {self.effective_beta}.")
        if min(self.class_counts, default=0) < 0:
            raise ValueError(f"objective.class_counts must not be negative, got {self.class_counts}.")

    def network(self, encoder: EncoderConfig, compute: ComputeConfig) -> Network:
        """Scores are [B, E, labels] float32. ValueError for settings that do not suit the number or kind of labels."""
        classes = self.labels if self.labels > 1 else 0
        if not classes and (self.loss != "cross_entropy" or self.class_weights != "none"):
            settings = f"objective.loss {self.loss} and class_weights {self.class_weights}"
            raise ValueError(f"{settings} are for classes, but the labels are values; leave them out.")
        if self.multi_label and (not classes or self.loss not in _MULTI_LABEL_LOSSES):
            setting = f"objective.loss is {self.loss}" if classes else f"objective.labels is {self.labels}"
            raise ValueError(f"{setting}, which is not for several classes of a document; change it or multi_label.")
        if self.class_counts and len(self.class_counts) != classes:
            raise ValueError(f"objective.class_counts counts {len(self.class_counts)} classes of {classes}.")
        return text_scores(encoder, compute, self.labels, self.pooling, self.dropout, self.transform)

    def metrics(self, scores: jax.Array, batch: Batch) -> Metrics:
        """Loss (nats or squared error, a weighted mean) and accuracy of classes, or those of `multi_label_metrics`."""
        labels = batch["labels"]  # [B, E], with multi_label [B, E, C]
        if self.labels < 2:
            return _value_metrics(scores[..., 0], labels)
        # A class without training examples counts as having one.
        counts = np.maximum(self.class_counts or (1,) * self.labels, 1).astype(np.float64)
        class_weights = jnp.asarray(self._class_weights(counts), jnp.float32)
        gamma = self.focal_gamma if self.loss == "focal" else 0.0
        if self.multi_label:
            return multi_label_metrics(scores, labels, class_weights, gamma)
        is_labeled = labels >= 0
        target = jnp.where(is_labeled, labels, 0)
        prior = self.adjustment * np.log(counts / counts.sum()) if self.loss == "logit_adjusted" else 0.0
        log_p = jax.nn.log_softmax(scores + jnp.asarray(prior, jnp.float32))
        log_p = jnp.take_along_axis(log_p, target[..., None], -1)[..., 0]  # [B, E]
        losses = -log_p
        if gamma:
            losses *= jnp.exp(gamma * jnp.log1p(-jnp.exp(jnp.minimum(log_p, _ALMOST_SURE))))
        weights = jnp.where(is_labeled, class_weights[target], 0)
        hits = (is_labeled & (scores.argmax(-1) == labels)).sum().astype(jnp.float32)
        examples = is_labeled.sum().astype(jnp.float32)
        return {"loss": ((weights * losses).sum(), weights.sum()), "accuracy": (hits, examples)}

    def _class_weights(self, counts: np.ndarray) -> np.ndarray:
        """Weight of each class, on average 1 over the training examples; with multi_label, over the classes."""
        if self.class_weights == "none":
            return np.ones_like(counts)
        beta = self.effective_beta
        weights = 1 / counts if self.class_weights == "balanced" else (1 - beta) / (1 - beta**counts)
        if self.multi_label:
            return weights / weights.mean()
        return weights * counts.sum() / (weights * counts).sum()

    @property
    def best(self) -> tuple[str, Literal["min", "max"]]:
        if self.labels == 1:
            return "loss", "min"
        return ("micro_f1" if self.multi_label else "accuracy"), "max"

    @property
    def class_labels(self) -> tuple[str, ...]:
        return self.class_names

    @property
    def problem_type(self) -> str:
        return VALUE if self.labels == 1 else SEVERAL_CLASSES if self.multi_label else ONE_CLASS

    @property
    def label_array(self) -> tuple[tuple[int, ...], type]:
        if self.multi_label:
            return (self.labels,), np.int8
        return (), np.float32 if self.labels == 1 else np.int32

    def with_labels(self, labels: TrainingLabels) -> Self:
        number = len(labels.names) or 1
        if self.labels not in (0, number):
            raise ValueError(f"objective.labels is {self.labels}, but the training data has {number}; set it to 0.")
        if self.class_names not in ((), labels.names):
            raise ValueError(
                f"objective.class_names is {', '.join(self.class_names)}, but the training data has "
                f"{', '.join(labels.names)}; leave it out, and give data.labels their order."
            )
        has_lists = labels.kind == "classes"
        if self.multi_label and not has_lists:
            field = f"field {labels.field!r} of the training data"
            raise ValueError(f"objective.multi_label is set, but {field} holds no lists of classes; leave it out.")
        uses_counts = self.loss == "logit_adjusted" or self.class_weights != "none"
        counts = labels.counts if labels.names and uses_counts and not self.class_counts else self.class_counts
        return replace(self, labels=number, class_names=labels.names, multi_label=has_lists, class_counts=counts)

    def with_assumed_labels(self, names: Sequence[str]) -> Self:
        return self if self.labels else replace(self, labels=len(names) or 2)

    def resumed(self, saved: Self) -> Self:
        """Keep the counts of classes that the run began with, whatever the sources of its phases are now."""
        return self if self.class_counts else replace(self, class_counts=saved.class_counts)


def _value_metrics(predicted: jax.Array, labels: jax.Array) -> Metrics:
    """Squared error of values [B, E], NaN where there is no text."""
    is_labeled = ~jnp.isnan(labels)
    losses = jnp.square(predicted - jnp.where(is_labeled, labels, 0))
    return {"loss": (jnp.where(is_labeled, losses, 0).sum(), is_labeled.sum().astype(jnp.float32))}


def multi_label_metrics(scores: jax.Array, labels: jax.Array, weights: jax.Array, focal_gamma: float = 0.0) -> Metrics:
    """Metrics of texts with any number of classes, each a separate yes or no, predicted if its logit is above 0.

    `scores` are logits [B, E, C]; `labels` int [B, E, C] are 1 for a class of a text, 0 for others and -1 where there
    is no text; `weights` [C] are those of the classes.

    loss is the cross-entropy in nats, for each text the weighted mean over the classes; micro_f1 is over all decisions
    together; accuracy is of texts whose classes are all predicted correctly.
    """
    is_text = labels[..., 0] >= 0  # [B, E]
    is_true, is_predicted = labels > 0, scores > 0
    log_p = jax.nn.log_sigmoid(jnp.where(is_true, scores, -scores))
    losses = -log_p
    if focal_gamma:
        losses *= jnp.exp(focal_gamma * (log_p - jnp.where(is_true, scores, -scores)))  # 1 - p is p / exp(logit)
    losses = jnp.where(is_text, (losses * weights).mean(-1), 0)
    is_predicted &= is_text[..., None]
    is_exact = is_text & (is_predicted == is_true).all(-1)
    hits, predicted, true, exact, texts = (
        x.sum().astype(jnp.float32) for x in (is_predicted & is_true, is_predicted, is_true, is_exact, is_text)
    )
    return {"loss": (losses.sum(), texts), "micro_f1": (2 * hits, predicted + true), "accuracy": (exact, texts)}
