"""The interface of objectives: pure functions in a record, as in optax's transformations."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxencoder.model.config import ComputeConfig, EncoderConfig
from jaxencoder.model.cross_encoder import CrossEncoderConfig
from jaxencoder.model.encoder import Encoder, first_layers
from jaxencoder.model.flops import training_flops
from jaxencoder.model.heads import HeadConfig
from jaxencoder.model.layers import apply
from jaxencoder.model.multi_vector import MultiVectorConfig
from jaxencoder.model.sentence import SentenceConfig

Params = dict[str, Any]
MIN_WEIGHT = 1e-9  # stands for 0, so that a mean over nothing is 0
Batch = dict[str, Any]  # name -> array: of jax on the devices, of numpy on the host
# name -> (sum, weight): they add up over rows, steps and devices. A loss of several terms, each a mean by a weight of
# its own, has arrays [terms] in place of numbers.
Metrics = dict[str, tuple[jax.Array, jax.Array]]


class Objective(NamedTuple):
    """Functions that the trainer needs."""

    # key -> parameters, a nested dict of float32 arrays; those of the encoder under "encoder".
    init: Callable[[jax.Array], Params]
    # (params, batch, key, train) -> (scalar, metrics); the scalar is the mean of metrics["loss"], see `mean`. The key
    # drives corruption and, when training, dropout.
    loss: Callable[[Params, Batch, jax.Array, bool], tuple[jax.Array, Metrics]]
    # The same arguments -> float32 [B, E, labels] of documents or [B, T, labels] of tokens; None for pretraining.
    scores: Callable[[Params, Batch, jax.Array, bool], jax.Array] | None = None
    # parameters -> {name: parameters of one model}, for objectives that train several models.
    models: Callable[[Params], dict[str, Params]] | None = None
    # (batch, key) -> the weights [terms] that `loss` has with these arguments, for losses of several terms.
    loss_weights: Callable[[Batch, jax.Array], jax.Array] | None = None


class Vocabulary(Protocol):
    """The part of a tokenizer that objectives use."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def mask_id(self) -> int: ...
    @property
    def special_ids(self) -> tuple[int, ...]: ...
    def token_id(self, token: str) -> int | None: ...  # None for a token that it lacks
    def word_starts(self) -> np.ndarray: ...  # bool [V], True where a token begins a word


@dataclass(frozen=True)
class ObjectiveConfig:
    """Base of the objectives' settings; the defaults suit objectives without masks."""

    def build(self, encoder: EncoderConfig, compute: ComputeConfig, vocabulary: Vocabulary) -> Objective:
        """The functions that train an encoder with this objective."""
        raise NotImplementedError

    @property
    def masked_loss(self) -> str:
        """Metric that is the cross-entropy of masked tokens; empty for objectives without a field `masking`."""
        return ""

    @property
    def best(self) -> tuple[str, Literal["min", "max"]]:
        """Metric that selects the best checkpoint, and whether it is minimized or maximized."""
        return "loss", "min"

    @property
    def class_labels(self) -> tuple[str, ...]:
        """Names of the classes, in order of id; empty without classes, or before the data is read."""
        return ()

    @property
    def problem_type(self) -> str:
        """The value of problem_type in transformers' config.json; empty if the task has none."""
        return ""

    @property
    def sentence(self) -> SentenceConfig:
        """How a text becomes a vector by a model that is trained with this objective."""
        return SentenceConfig()

    @property
    def cross_encoder(self) -> CrossEncoderConfig | None:
        """How a pair of texts gets a score by a model that is trained with this objective; None if it gets none."""
        return None

    def multi_vector(self, encoder: EncoderConfig) -> MultiVectorConfig | None:
        """How a text becomes a vector for each token by a model that is trained with this objective; None if not."""
        return None

    @property
    def batch_multiple(self) -> int:
        """The rows of a batch are a multiple of this number."""
        return 1

    @property
    def compares_examples(self) -> bool:
        """Whether the loss of an example depends on the others in its batch, which therefore stays together."""
        return False

    def heads(self, encoder: EncoderConfig) -> Mapping[str, HeadConfig]:
        """Trained heads that published checkpoints have, by parameter name, without the masked-language-model head."""
        return {}

    def flops(self, encoder: EncoderConfig, row_length: int) -> float:
        """FLOPs of forward and backward pass per token, without small heads."""
        return training_flops(encoder, row_length)


def mean(metrics: Metrics, name: str = "loss") -> jax.Array:
    """sum / weight of a metric, 0 if the weight is 0; of several terms the sum of their means."""
    total, weight = metrics[name]
    return (total / jnp.maximum(weight, MIN_WEIGHT)).sum()


def terms(metrics: Metrics, coefficients: Mapping[str, float]) -> tuple[jax.Array, jax.Array]:
    """The loss that is the sum of some metrics' means, times these coefficients: sums and weights, both [terms]."""
    sums = [coefficient * metrics[name][0] for name, coefficient in coefficients.items()]
    return jnp.stack(sums), jnp.stack([metrics[name][1] for name in coefficients])


def encode(module: Encoder, params: Params, batch: Batch, key: jax.Array, train: bool) -> jax.Array:
    """The encoder's output [B, T, D] for a batch, with dropout when `train`."""
    return apply(module, params, *_encoder_inputs(batch, train), rngs={"dropout": key})


def encode_layers(
    module: Encoder, params: Params, layers: Sequence[int], batch: Batch, key: jax.Array, train: bool
) -> jax.Array:
    """The outputs [1 + K, B, T, D] of the encoder and of its first layers, of these numbers, see `first_layers`."""
    return first_layers(module, params, layers, *_encoder_inputs(batch, train), rngs={"dropout": key})


def _encoder_inputs(batch: Batch, train: bool) -> tuple[Any, ...]:
    inputs = (batch["token_ids"], batch["segment_ids"], batch["positions"], batch.get("token_type_ids"))
    return *inputs, train, batch.get("global_slots"), batch.get("key_segment_ids")
