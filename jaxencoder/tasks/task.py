"""The record of a task: everything that fine-tuning, prediction and evaluation need to know about it.

A task is one record and one folder. To add one, write

    data.py       a `Schema`: the fields of its records and their encoding as tokens; without jax, for worker processes
    objective.py  a `TaskObjective`: settings, head and loss
    predict.py    predictions for records, computed by an opened model, and their evaluation by metrics

and add its record to table.py. The settings, the trainer, `predict` and `evaluate` ask the record. They use the tasks,
so that a task cannot use them: its functions take the opened model by the protocol `TaskModel`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, Protocol, Self

import jax
import numpy as np

from jaxencoder.model.config import ComputeConfig, EncoderConfig
from jaxencoder.model.cross_encoder import CrossEncoderConfig
from jaxencoder.model.heads import HeadConfig
from jaxencoder.model.multi_vector import MultiVectorConfig
from jaxencoder.model.sentence import SentenceConfig
from jaxencoder.objectives.objective import Batch, Metrics, Objective, ObjectiveConfig, Params, Vocabulary, mean
from jaxencoder.text.buckets import BatchPlan
from jaxencoder.text.config import DataConfig
from jaxencoder.text.schema import Schema
from jaxencoder.text.sources.records import Record
from jaxencoder.text.tokenizers.tokenizer import Tokenizer

# The functions `init` and `scores` of an `Objective`.
Network = tuple[Callable[[jax.Array], Params], Callable[[Params, Batch, jax.Array, bool], jax.Array]]


class TrainingLabels(NamedTuple):
    """The labels in the training rows."""

    field: str  # of the records
    kind: str  # as in `segment_labels`, or "token"
    names: tuple[str, ...]  # of the classes, in order of id; empty for values and choices
    counts: tuple[int, ...] = ()  # training examples of each class; empty if labels of texts are not classes
    texts: int = 1  # most texts of an example
    source_texts: tuple[int, ...] = ()  # the same of each training source


class TaskObjective(ObjectiveConfig):
    """Base of a task's objective; a subclass is a frozen dataclass."""

    from_data: ClassVar[tuple[str, ...]] = ()  # settings decided when a run begins if they are left at 0 or empty

    def network(self, encoder: EncoderConfig, compute: ComputeConfig) -> Network:
        """The functions `init` and `scores` of an `Objective`, such as those of `text_scores`."""
        raise NotImplementedError

    def metrics(self, scores: jax.Array, batch: Batch) -> Metrics:
        """The metrics of the scores of a batch, with the "loss" to minimize."""
        raise NotImplementedError

    def loss_batch(self, params: Params, batch: Batch) -> Batch:
        """The batch for `metrics`, with the parameters that only the loss uses."""
        return batch

    def build(self, encoder: EncoderConfig, compute: ComputeConfig, vocabulary: Vocabulary) -> Objective:
        init, scores = self.network(encoder, compute)

        def loss(params: Params, batch: Batch, key: jax.Array, train: bool) -> tuple[jax.Array, Metrics]:
            metrics = self.metrics(scores(params, batch, key, train), self.loss_batch(params, batch))
            return mean(metrics), metrics

        return Objective(init, loss, scores)

    def check_at_least(self, limits: Mapping[str, float]) -> None:
        """ValueError if one of these settings is less than its limit."""
        for name, least in limits.items():
            if not getattr(self, name) >= least:
                raise ValueError(f"objective.{name} must be at least {least}, got {getattr(self, name)}.")

    def check_used(self, losses: Sequence[str], used_by: Mapping[str, Sequence[str]]) -> None:
        """ValueError for a setting, other than its default, that is only for other losses than these."""
        for name, users in used_by.items():
            if not set(losses) & set(users) and (value := getattr(self, name)) != getattr(type(self), name):
                problem = f"objective.{name} is {value}, but objective.loss {' and '.join(losses)} has none"
                raise ValueError(f"{problem}; set {' or '.join(users)}.")

    @property
    def vectors_of(self) -> str:
        """The setting that names another model, whose vector of each text the batches have; empty without one."""
        return ""

    def with_vector_size(self, size: int) -> Self:
        """The objective with the size of these vectors; ValueError if it does not take them."""
        return self

    @property
    def label_array(self) -> tuple[tuple[int, ...], type]:
        """Shape and dtype of an example's label in batch["labels"]."""
        return (), np.int32

    def for_encoder(self, encoder: EncoderConfig) -> Self:
        """The objective with what depends on the encoder filled in; ValueError if they do not fit together."""
        return self

    def with_labels(self, labels: TrainingLabels) -> Self:
        """The objective with the settings of `from_data` filled in; ValueError if one contradicts the data."""
        return self

    def started_from(self, sentence: SentenceConfig) -> Self:
        """The objective with settings of embeddings, if it leaves them open, of the model that training starts from."""
        return self

    def continued_from(self, saved: Self) -> Self:
        """`started_from` for a continued run, whose saved objective has the choices of the model that it began with."""
        return self.started_from(saved.sentence)

    def started_with_heads(self, heads: Mapping[str, HeadConfig]) -> Self:
        """The objective with the heads by which the model that training starts from would score texts."""
        return self

    def started_from_tokens(self, model: MultiVectorConfig | None) -> Self:
        """The objective with settings of the model that training starts from, if that gives a vector for each token."""
        return self

    def with_special_tokens(self, tokenizer: Tokenizer) -> Tokenizer:
        """The tokenizer with the tokens that the objective needs in texts."""
        return tokenizer

    def with_assumed_labels(self, names: Sequence[str]) -> Self:
        """The objective for estimates without data: classes of these names, or two, unless it has some."""
        return self

    def resumed(self, saved: Self) -> Self:
        """The objective of a continued run, with what the data decided when the run began."""
        return self


class TaskConfig(Protocol):
    """The settings of a run that tasks use; `jaxencoder.config.RunConfig` is one."""

    @property
    def model(self) -> EncoderConfig: ...
    @property
    def objective(self) -> ObjectiveConfig: ...
    @property
    def data(self) -> DataConfig: ...
    @property
    def schema(self) -> Schema: ...


class TaskCheckpoint(Protocol):
    """The parts of a checkpoint that tell its task."""

    @property
    def config(self) -> TaskConfig: ...
    @property
    def params(self) -> Params: ...
    @property
    def published(self) -> Any: ...  # None for a run
    @property
    def heads(self) -> Mapping[str, HeadConfig]: ...


class TaskModel(TaskCheckpoint, Protocol):
    """An opened model as tasks use it; see `jaxencoder.inference.model.OpenedModel`."""

    @property
    def tokenizer(self) -> Tokenizer | None: ...
    @property
    def queries(self) -> "TaskModel | None": ...
    @property
    def compute(self) -> ComputeConfig: ...
    @property
    def labels(self) -> tuple[str, ...]: ...
    @property
    def cross_encoder(self) -> CrossEncoderConfig | None: ...
    @property
    def multi_vector(self) -> MultiVectorConfig | None: ...
    @property
    def max_length(self) -> int: ...
    def limit(self, max_length: int | None) -> int: ...
    def run(
        self,
        function: Callable[[Params, Batch], jax.Array],
        ids: Sequence[np.ndarray],
        batch_tokens: int | None = None,
        max_length: int | None = None,
        extra: Callable[[BatchPlan], Batch] | None = None,
    ) -> Iterator[tuple[BatchPlan, np.ndarray]]: ...


class Evaluation(NamedTuple):
    """Metrics of a model on labeled records by name, "classes" those of each class.

    `predictions` are scores of classes or values with the records, from which slices, calibration, thresholds and
    reports are made; None for tasks without them.
    """

    metrics: dict[str, Any]
    predictions: Any = None


@dataclass(frozen=True)
class Task:
    """A task; `evaluate` measures on a source, or for None on the held-out records, by the fields of the model's data.

    `list_items` has an item of each list that predictions add to records, from which Parquet gets its type when all
    lists are empty; lists of text need none.
    """

    name: str  # in messages, such as "text classification"
    schema: Schema  # jax-free and picklable
    objective: type[TaskObjective]
    head: str  # its name in the parameters of a run
    predict: Callable[..., Iterator[list[Record]]]  # (model, source or records, **options) -> records with predictions
    evaluate: Callable[..., Evaluation]  # (model, source or None, **options)
    published_head: str = ""  # its name in published checkpoints; empty if such models are not supported
    scores_classes: bool = False  # whether `evaluate` returns predictions of classes or values
    list_items: Mapping[str, Any] = field(default_factory=dict)
