"""Replaced-token detection: a small generator fills masks, and the encoder detects which tokens it replaced.

Clark et al. 2020 (ELECTRA, arXiv:2003.10555); gradient-disentangled embedding sharing: He et al. 2021 (DeBERTa-v3,
arXiv:2111.09543). Both models train in one step; the encoder is the discriminator.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp

from jaxencoder.model.config import ComputeConfig, EncoderConfig
from jaxencoder.model.encoder import Encoder, init_params
from jaxencoder.model.flops import training_flops
from jaxencoder.model.heads import Head, HeadConfig, MlmHead
from jaxencoder.model.layers import apply
from jaxencoder.objectives.masking import Masking, mask_tokens
from jaxencoder.objectives.mlm import masked_metrics, predict
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

Sharing = Literal["shared", "none", "gdes"]


@dataclass(frozen=True)
class ReplacedToken(ObjectiveConfig):
    """Settings of replaced-token detection; the defaults are ELECTRA's. ValueError if one lies outside its range."""

    masking: Masking = field(default_factory=lambda: Masking(mask_probability=1.0, random_probability=0.0))
    generator_width: float = 0.25
    """Heads of the generator as a fraction of the encoder's; hidden and MLP size scale with them."""
    generator_depth: float = 1.0
    """Layers of the generator as a fraction of the encoder's (DeBERTa-v3: 0.5 at full width)."""
    weight: float = 50.0
    """Weight of the discriminator's loss; the generator's has weight 1."""
    sharing: Sharing = "shared"
    """Embeddings: shared, separate (none), or gradient-disentangled (gdes): the discriminator's token table is the
    generator's without gradient plus a trained difference."""
    chunk: int = 4096
    """Predicted tokens (on one device) whose logits are in memory at once."""

    def __post_init__(self) -> None:
        for name in ("generator_width", "generator_depth"):
            if not 0 < getattr(self, name) <= 4:
                raise ValueError(f"objective.{name} is {getattr(self, name)}; use a fraction above 0 and at most 4.")
        if not 0 <= self.weight < float("inf"):
            raise ValueError(f"objective.weight is {self.weight}; give 0 or a positive number.")
        if self.chunk < 1:
            raise ValueError(f"objective.chunk must be at least 1, got {self.chunk}.")

    def generator(self, encoder: EncoderConfig) -> EncoderConfig:
        """The generator's architecture: the encoder's, with fewer or narrower layers."""
        heads = max(1, round(encoder.num_heads * self.generator_width))
        hidden_size = heads * encoder.head_size
        return replace(
            encoder,
            num_layers=max(1, round(encoder.num_layers * self.generator_depth)),
            num_heads=heads,
            num_kv_heads=0,
            hidden_size=hidden_size,
            mlp_size=max(1, round(encoder.mlp_size * heads / encoder.num_heads)),
            embedding_size=0 if encoder.embedding_width == hidden_size else encoder.embedding_width,
        )

    def build(self, encoder: EncoderConfig, compute: ComputeConfig, vocabulary: Vocabulary) -> Objective:
        """The pure functions; see `Objective`.

        Parameters: "encoder" and "rtd_head" are the discriminator; "generator" holds the generator's "encoder" and
        "mlm_head". Shared parameters are stored with the discriminator. `Objective.models` separates the two models.

        Metrics: loss, the sum of mlm_loss and weight * rtd_loss; mlm_accuracy; rtd_accuracy over all tokens, and
        rtd_recall over the replaced ones.
        """
        small = self.generator(encoder)
        discriminator, rtd_head = Encoder(encoder, compute), Head(encoder, self.heads(encoder)["rtd_head"])
        generator, mlm_head = Encoder(small, compute), MlmHead(small)
        models = partial(_separate_models, sharing=self.sharing)

        def init(key: jax.Array) -> Params:
            keys = jax.random.split(key, 4)
            params = init_params(keys[:2], discriminator, {"rtd_head": rtd_head})
            params["generator"] = init_params(keys[2:], generator, {"mlm_head": mlm_head})
            return _share_embeddings(params, self.sharing)

        def loss(params: Params, batch: Batch, key: jax.Array, train: bool) -> tuple[jax.Array, Metrics]:
            mask_key, sample_key, *dropout_keys = jax.random.split(key, 4)
            both = models(params)  # with shared embeddings in both
            masked = mask_tokens(batch, mask_key, self.masking, vocabulary)
            uniforms = jax.random.uniform(sample_key, masked.slots.shape)  # for the generator's samples
            inputs = batch | {"token_ids": masked.token_ids}
            hidden = encode(generator, both["generator"]["encoder"], inputs, dropout_keys[0], train)
            total, predictions = predict(mlm_head, both["generator"], hidden, masked, self.chunk, uniforms)
            mlm_metrics = masked_metrics(masked, total, predictions, vocabulary.mask_id)

            assert predictions.samples is not None  # drawn from `uniforms`
            token_ids, replaced = fill(batch["token_ids"], masked.slots, masked.weights, predictions.samples)
            inputs = batch | {"token_ids": token_ids}
            hidden = encode(discriminator, both["discriminator"]["encoder"], inputs, dropout_keys[1], train)
            scores = apply(rtd_head, params["rtd_head"], hidden)[..., 0]  # [B, T]
            metrics = {f"mlm_{name}": x for name, x in mlm_metrics.items()}
            metrics |= _detection_metrics(scores, replaced, batch["segment_ids"] > 0)
            value = mean(metrics, "mlm_loss") + self.weight * mean(metrics, "rtd_loss")
            return value, {"loss": terms(metrics, {"mlm_loss": 1.0, "rtd_loss": self.weight})} | metrics

        def loss_weights(batch: Batch, key: jax.Array) -> jax.Array:
            masked = mask_tokens(batch, jax.random.split(key, 4)[0], self.masking, vocabulary)
            return jnp.stack([masked.weights.sum(), (batch["segment_ids"] > 0).sum().astype(jnp.float32)])

        return Objective(init, loss, models=models, loss_weights=loss_weights)

    @property
    def masked_loss(self) -> str:
        return "mlm_loss"

    def heads(self, encoder: EncoderConfig) -> Mapping[str, HeadConfig]:
        return {"rtd_head": HeadConfig("tokens", 1, encoder.activation)}

    def flops(self, encoder: EncoderConfig, row_length: int) -> float:
        head = 6.0 * encoder.hidden_size * (encoder.hidden_size + 1)
        generator = training_flops(self.generator(encoder), row_length, self.masking.mean_rate)
        return training_flops(encoder, row_length) + head + generator


def _share_embeddings(params: Params, sharing: Sharing) -> Params:
    """Initial parameters of both models without the generator's copy of shared ones."""
    encoder, generator = params["encoder"], params["generator"]["encoder"]
    if sharing == "shared":
        generator["embeddings"] = {name: x for name, x in generator["embeddings"].items() if name == "projection"}
    elif sharing == "gdes":
        table = encoder["embeddings"]["token_embedding"]
        encoder["embeddings"]["token_embedding"] = jnp.zeros_like(table)  # the difference from the generator's
    return params


def _separate_models(params: Params, sharing: Sharing) -> dict[str, Params]:
    """Complete parameters of the discriminator and the generator."""
    encoder, generator = params["encoder"], params["generator"]
    if sharing == "shared":
        shared = {name: x for name, x in encoder["embeddings"].items() if name != "projection"}
        small = generator["encoder"]
        generator = generator | {"encoder": small | {"embeddings": shared | small["embeddings"]}}
    elif sharing == "gdes":
        table = generator["encoder"]["embeddings"]["token_embedding"]
        table = jax.lax.stop_gradient(table) + encoder["embeddings"]["token_embedding"]
        encoder = encoder | {"embeddings": encoder["embeddings"] | {"token_embedding": table}}
    return {"discriminator": {"encoder": encoder, "rtd_head": params["rtd_head"]}, "generator": generator}


def _detection_metrics(scores: jax.Array, replaced: jax.Array, is_token: jax.Array) -> Metrics:
    """Loss, accuracy and recall of the discriminator, from [B, T] scores (logits of being replaced)."""
    losses = jax.nn.softplus(jnp.where(replaced, -scores, scores))
    weight = is_token.sum().astype(jnp.float32)
    is_correct = is_token & ((scores > 0) == replaced)
    correct, detected, to_detect = (
        x.sum().astype(jnp.float32) for x in (is_correct, is_correct & replaced, is_token & replaced)
    )
    loss = jnp.where(is_token, losses, 0).sum()
    return {"rtd_loss": (loss, weight), "rtd_accuracy": (correct, weight), "rtd_recall": (detected, to_detect)}


def fill(token_ids: jax.Array, slots: jax.Array, weights: jax.Array, samples: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Replace the true tokens [B, T] at slots [B, K] of weight 1 by samples: token ids, and where they differ, bool."""
    true = jnp.take_along_axis(token_ids, slots, axis=1)
    new = jnp.where(weights > 0, samples, true)
    filled = jnp.put_along_axis(token_ids, slots, new, axis=1, inplace=False)
    return filled, filled != token_ids
