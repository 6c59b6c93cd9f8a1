"""Masked language modeling: predict hidden tokens from both sides; optionally, predict whether text pairs are in order.

Devlin et al. 2019 (BERT, arXiv:1810.04805); sentence order in place of the next sentence: Lan et al. 2020 (ALBERT,
arXiv:1909.11942). The corruption is part of the compiled step: see `objectives.masking`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp

from jaxencoder.kernels.cross_entropy import Predictions, cross_entropy
from jaxencoder.model.config import ComputeConfig, EncoderConfig
from jaxencoder.model.encoder import Encoder, init_params
from jaxencoder.model.flops import training_flops
from jaxencoder.model.heads import Head, HeadConfig, MlmHead, output_table, pool
from jaxencoder.model.layers import apply
from jaxencoder.objectives.masking import Masked, Masking, mask_tokens
from jaxencoder.objectives.objective import (
    Batch,
    Metrics,
    Objective,
    ObjectiveConfig,
    Params,
    Vocabulary,
    encode,
    mean,
    terms,
)
from jaxencoder.sharding import row_shards

# BERT's head for pairs: the pooler's transform of [CLS], and a projection.
_PAIR_HEADS = {"pooler": HeadConfig("cls", activation="tanh"), "nsp_head": HeadConfig("pooled", 2)}


@dataclass(frozen=True)
class MaskedLM(ObjectiveConfig):
    """Settings of masked language modeling; ValueError if one lies outside its range."""

    masking: Masking = field(default_factory=Masking)
    pairs: bool = False
    """Also predict whether the second text of each pair follows the first, for pairs made by data.pairs. Both losses
    have weight 1."""
    chunk: int = 4096
    """Predicted tokens (on one device) whose logits are in memory at once."""

    def __post_init__(self) -> None:
        if self.chunk < 1:
            raise ValueError(f"objective.chunk must be at least 1, got {self.chunk}.")

    def build(self, encoder: EncoderConfig, compute: ComputeConfig, vocabulary: Vocabulary) -> Objective:
        """The pure functions; see `Objective`.

        Metrics: loss (nats) and accuracy over the predicted tokens; loss_masked, loss_random and loss_kept over those
        shown as [MASK], as another token and unchanged. With pairs, loss is mlm_loss + pair_loss, and there is
        pair_accuracy.
        """
        module, head = Encoder(encoder, compute), MlmHead(encoder)
        pair_heads = {name: Head(encoder, config) for name, config in self.heads(encoder).items()}

        def init(key: jax.Array) -> Params:
            return init_params(jax.random.split(key, 2 + len(pair_heads)), module, {"mlm_head": head, **pair_heads})

        def loss(params: Params, batch: Batch, key: jax.Array, train: bool) -> tuple[jax.Array, Metrics]:
            mask_key, dropout_key = jax.random.split(key)
            masked = mask_tokens(batch, mask_key, self.masking, vocabulary)
            hidden = encode(module, params["encoder"], batch | {"token_ids": masked.token_ids}, dropout_key, train)
            total, predictions = predict(head, params, hidden, masked, self.chunk)
            metrics = masked_metrics(masked, total, predictions, vocabulary.mask_id)
            return pair_loss(params, batch, hidden, metrics) if pair_heads else (mean(metrics), metrics)

        def pair_loss(params: Params, batch: Batch, hidden: jax.Array, metrics: Metrics) -> tuple[jax.Array, Metrics]:
            labels = batch["labels"]  # [B, E], -1 for no pair
            scores = pool(hidden, batch["segment_ids"], labels.shape[1], "cls").astype(hidden.dtype)
            for name, pair_head in pair_heads.items():
                scores = apply(pair_head, params[name], scores)
            is_pair = labels >= 0
            losses = -jnp.take_along_axis(jax.nn.log_softmax(scores), jnp.maximum(labels, 0)[..., None], -1)[..., 0]
            weight = is_pair.sum().astype(jnp.float32)
            pair_metrics = {
                "pair_loss": (jnp.where(is_pair, losses, 0).sum(), weight),
                "pair_accuracy": ((is_pair & (scores.argmax(-1) == labels)).sum().astype(jnp.float32), weight),
            }
            metrics = metrics | pair_metrics | {"mlm_loss": metrics["loss"]}
            metrics["loss"] = terms(metrics, {"mlm_loss": 1.0, "pair_loss": 1.0})
            return mean(metrics), metrics

        def loss_weights(batch: Batch, key: jax.Array) -> jax.Array:
            masked = mask_tokens(batch, jax.random.split(key)[0], self.masking, vocabulary)
            return jnp.stack([masked.weights.sum(), (batch["labels"] >= 0).sum().astype(jnp.float32)])

        return Objective(init, loss, loss_weights=loss_weights if pair_heads else None)

    @property
    def masked_loss(self) -> str:
        return "mlm_loss" if self.pairs else "loss"

    def heads(self, encoder: EncoderConfig) -> Mapping[str, HeadConfig]:
        return _PAIR_HEADS if self.pairs else {}

    def flops(self, encoder: EncoderConfig, row_length: int) -> float:
        return training_flops(encoder, row_length, self.masking.mean_rate)


def predict(
    head: MlmHead, params: Params, hidden: jax.Array, masked: Masked, chunk: int, uniforms: jax.Array | None = None
) -> tuple[jax.Array, Predictions]:
    """The summed loss of the masked tokens, and the predictions at each slot; see `cross_entropy`.

    `params` has "mlm_head", and "encoder" for a shared output table; `hidden` is [B, T, D]; `uniforms` [B, K] draw a
    token at each slot.
    """
    B, K = masked.slots.shape
    x = jnp.take_along_axis(hidden, masked.slots[..., None], axis=1)  # [B, K, D]
    x, bias = apply(head, params["mlm_head"], x)
    chunk = min(K, max(1, chunk * row_shards() // B))
    return cross_entropy(x, output_table(params), bias, masked.targets, masked.weights, chunk, uniforms)


def masked_metrics(masked: Masked, total: jax.Array, predictions: Predictions, mask_id: int) -> Metrics:
    """Loss and accuracy over the predicted tokens, and the loss by the way they were shown."""
    weights = masked.weights
    shown = jnp.take_along_axis(masked.token_ids, masked.slots, axis=1)
    kept = shown == masked.targets
    ways = {"masked": (shown == mask_id) & ~kept, "random": (shown != mask_id) & ~kept, "kept": kept}
    metrics = {"loss": (total, weights.sum()), "accuracy": ((weights * predictions.correct).sum(), weights.sum())}
    for name, way in ways.items():
        metrics[f"loss_{name}"] = ((weights * way * predictions.losses).sum(), (weights * way).sum())
    return metrics
