"""The one shape of an objective: two pure functions, as optax's transformations are."""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, Protocol

import jax

from jaxencoder.model.config import ComputeConfig, EncoderConfig
from jaxencoder.model.encoder import Encoder
from jaxencoder.model.flops import training_flops
from jaxencoder.model.heads import HeadConfig

Params = dict[str, Any]
Batch = dict[str, jax.Array]
Metrics = dict[str, tuple[jax.Array, jax.Array]]  # name -> (sum, weight): they add up over rows, steps and devices


class Objective(NamedTuple):
    """What the trainer trains.

    Attributes:
        init: key -> parameters, a nested dict of float32 arrays; those of the encoder under "encoder".
        loss: (params, batch, key, train) -> (scalar, metrics). `metrics["loss"]` is (sum, weight) and the scalar is
            sum / weight; `key` drives corruption and, when `train`, dropout.
        scores: (params, batch, key, train) -> [B, E, labels] float32, for objectives that predict something of each
            document; None for the others.
        models: parameters -> those of each model that an objective trains, by name, its encoder under "encoder" again;
            None for objectives that train one, whose parameters these are.
    """

    init: Callable[[jax.Array], Params]
    loss: Callable[[Params, Batch, jax.Array, bool], tuple[jax.Array, Metrics]]
    scores: Callable[[Params, Batch, jax.Array, bool], jax.Array] | None = None
    models: Callable[[Params], dict[str, Params]] | None = None


class Vocabulary(Protocol):
    """What an objective needs to know of a tokenizer."""

    vocab_size: int
    mask_id: int
    special_ids: tuple[int, ...]

    def word_starts(self) -> Any:
        """bool [V], True where a token begins a word."""


class ObjectiveConfig:
    """What the settings of an objective, a frozen dataclass, say of it; most is the same for those without masks."""

    def build(self, encoder: EncoderConfig, compute: ComputeConfig, vocabulary: Vocabulary) -> Objective:
        """The pure functions that train such an encoder."""
        raise NotImplementedError

    @property
    def masked_loss(self) -> str:
        """The metric that is the cross-entropy of masked tokens; empty if there is none."""
        return ""

    @property
    def best(self) -> tuple[str, Literal["min", "max"]]:
        """The metric by which one checkpoint is better than another, and which way."""
        return "loss", "min"

    def heads(self, encoder: EncoderConfig) -> Mapping[str, HeadConfig]:
        """The heads that it trains and that published checkpoints have too, by their names among the parameters; the
        masked-language-model head is not counted."""
        return {}

    def flops(self, encoder: EncoderConfig, row_length: int) -> float:
        """FLOPs of forward and backward pass per token; those of small heads are left out."""
        return training_flops(encoder, row_length)


def mean(metrics: Metrics, name: str = "loss") -> jax.Array:
    """sum / weight of a metric, 0 where nothing was weighed."""
    total, weight = metrics[name]
    return total / jax.numpy.maximum(weight, 1e-9)


def encode(module: Encoder, params: Params, batch: Batch, key: jax.Array, train: bool) -> jax.Array:
    """The encoder's output [B, T, D] for a batch, with dropout when `train`."""
    inputs = (batch["token_ids"], batch["segment_ids"], batch["positions"], batch.get("token_type_ids"))
    return module.apply({"params": params}, *inputs, train, batch.get("global_slots"), rngs={"dropout": key})
