"""Losses on the vectors that the first layers of a model give, so that the others can be left out.

Li et al. 2024 (2D Matryoshka Sentence Embeddings), arXiv:2402.14776.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Self

import jax
import jax.numpy as jnp

from jaxencoder.tasks.embeddings.vectors import Loss, masked_sum, sum_of_means, zero_absent


@dataclass(frozen=True)
class LayerSettings:
    """Settings of an objective that also trains the vectors of a model's first layers."""

    layers: tuple[int, ...] = ()
    """Also train the vectors that the model's first layers give, these many of them, such as 3 4 5, so that
    `jaxencoder keep-layers` leaves a useful model. 0: the token embeddings alone. Empty: all layers only."""
    layers_per_step: int = 0
    """How many of `layers` an update trains, drawn at random. 0: all."""
    layer_weight: float = 1.0
    """Factor of their loss, the mean over these layers."""
    layer_divergence_weight: float = 1.0
    """Factor of the KL divergence of their vectors from those of all layers, summed over these layers."""
    layer_temperature: float = 0.3
    """Divides the vectors in that divergence, which is multiplied by it."""

    def check_layers(self) -> None:
        """ValueError for a setting outside its range, or one that is not used."""
        if len(set(self.layers)) < len(self.layers) or min(self.layers, default=0) < 0:
            raise ValueError(f"objective.layers is {self.layers}; give different numbers of at least 0.")
        if not 0 <= self.layers_per_step <= len(self.layers):
            problem = f"objective.layers_per_step is {self.layers_per_step}, but objective.layers names"
            raise ValueError(f"{problem} {len(self.layers)}; give a number from 0 to that.")
        if not self.layer_temperature > 0:
            raise ValueError(f"objective.layer_temperature must be a positive number, got {self.layer_temperature}.")
        for name in ("layer_weight", "layer_divergence_weight", "layer_temperature"):
            if not self.layers and (value := getattr(self, name)) != getattr(type(self), name):
                raise ValueError(f"objective.{name} is {value}, but objective.layers names none; set it.")

    def check_model(self, num_layers: int) -> None:
        """ValueError for numbers of layers that are not less than those of the model."""
        if max(self.layers, default=0) >= num_layers:
            problem = f"objective.layers is {self.layers}, but the model has {num_layers}, all of which are trained"
            raise ValueError(f"{problem} in any case; give smaller numbers.")

    def without_layers(self) -> Self:
        """The objective of a model of other layers, which trains all of them only."""
        return dataclasses.replace(self, **{setting.name: setting.default for setting in fields(LayerSettings)})

    def drawn_layers(self, vectors: jax.Array, key: jax.Array) -> jax.Array:
        """The vectors [L, ...] of the layers that an update trains, of those [K, ...] of `layers`."""
        if not self.layers_per_step:
            return vectors
        # Data, so that one program serves all updates; the key depends on the seed and the update only.
        return vectors[jax.random.permutation(key, len(self.layers))[: self.layers_per_step]]


def loss_of_layers(
    loss: Callable[[jax.Array, jax.Array, jax.Array], Loss], vectors: jax.Array, mask: jax.Array, labels: jax.Array
) -> Loss:
    """The mean over layers of a loss on their vectors: AdaptiveLayerLoss of ST without the last layer's.

    Args:
        loss: a function of vectors [N, C, D], the mask [N, C] and labels.
        vectors: [L, N, C, D] of L layers.
        mask: [N, C], as `loss` takes it.
        labels: as `loss` takes them.

    Returns:
        The sum and the weight, the greatest of all layers; see `sum_of_means`.
    """
    totals, counts = jax.lax.map(lambda x: loss(x, mask, labels), vectors)  # one program for all layers
    return sum_of_means(list(totals), list(counts), [1 / len(vectors)] * len(vectors))


def layer_divergence(
    vectors: jax.Array, final_vectors: jax.Array, mask: jax.Array, *, temperature: float = 0.3
) -> Loss:
    """KL divergence from the softmax over a final vector's components, without a gradient: AdaptiveLayerLoss of ST.

    Args:
        vectors: [L, N, C, D] of L layers.
        final_vectors: [N, C, D] of the whole model.
        mask: bool [N, C], False where an example has no such text.
        temperature: divides the vectors.

    Returns:
        The sum over layers and texts, in nats, and the number of texts.
    """
    teachers = jax.nn.log_softmax(jax.lax.stop_gradient(zero_absent(final_vectors, mask)) / temperature)
    students = jax.nn.log_softmax(zero_absent(vectors, mask) / temperature)
    return masked_sum((jnp.exp(teachers) * (teachers - students)).sum((0, -1)), mask)
