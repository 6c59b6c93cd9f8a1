"""Replaced-token detection: a small generator fills masks, the encoder tells which tokens it replaced.

Clark et al. 2020 (ELECTRA, arXiv:2003.10555); embeddings shared without the tug-of-war: He et al. 2021 (DeBERTa-v3,
arXiv:2111.09543). Both models train in one step; the encoder is the discriminator.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import jax
import jax.numpy as jnp

from jaxencoder.model.config import ComputeConfig, EncoderConfig
from jaxencoder.model.encoder import Encoder
from jaxencoder.model.flops import training_flops
from jaxencoder.model.heads import Head, HeadConfig, MlmHead
from jaxencoder.objectives.masking import Masking, mask_tokens
from jaxencoder.objectives.mlm import masked_metrics, predict
from jaxencoder.objectives.objective import Batch, Metrics, Objective, ObjectiveConfig, Params, Vocabulary, encode, mean

Sharing = Literal["shared", "none", "gdes"]


@dataclass(frozen=True)
class ReplacedToken(ObjectiveConfig):
    """Settings of replaced-token detection; the defaults are ELECTRA's.

    Raises:
        ValueError: a setting lies outside its range.
    """

    masking: Masking = field(default_factory=lambda: Masking(mask_probability=1.0, random_probability=0.0))
    generator_width: float = 0.25
    """Heads, and with them hidden and MLP size, of the generator, as a share of the encoder's."""
    generator_depth: float = 1.0
    """Layers of the generator, likewise (DeBERTa-v3: 0.5 at full width)."""
    weight: float = 50.0
    """Of the discriminator's loss beside the generator's."""
    sharing: Sharing = "shared"
    """The embeddings are shared, or each model has its own, or (gdes) the discriminator's token table is the
    generator's, through which no gradient flows, plus a difference that it learns."""
    chunk: int = 4096
    """Predicted tokens (on one device) whose logits are in memory at once."""

    def __post_init__(self) -> None:
        for name in ("generator_width", "generator_depth"):
            if not 0 < getattr(self, name) <= 4:
                raise ValueError(f"objective.{name} is {getattr(self, name)}; give a share above 0 and at most 4.")
        if not 0 <= self.weight < float("inf"):
            raise ValueError(f"objective.weight is {self.weight}; give 0 or a positive number.")
        if self.chunk < 1:
            raise ValueError(f"objective.chunk must be at least 1, got {self.chunk}.")

    def generator(self, encoder: EncoderConfig) -> EncoderConfig:
        """The generator's architecture: the encoder's, with fewer or narrower layers."""
        heads = max(1, round(encoder.num_heads * self.generator_width))
        hidden_size = heads * encoder.head_size
        return dataclasses.replace(
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

        Parameters: "encoder" and "rtd_head" are the discriminator, "generator" holds the other one's "encoder" and
        "mlm_head"; what is shared stands in the discriminator alone. `Objective.models` takes them apart.

        Metrics: loss, the sum of mlm_loss and weight * rtd_loss; mlm_accuracy; rtd_accuracy over all tokens, and
        rtd_recall over the replaced ones.
        """
        small = self.generator(encoder)
        discriminator, generator = Encoder(encoder, compute), Encoder(small, compute)
        mlm_head = MlmHead(small)
        rtd_head = Head(encoder, self.heads(encoder)["rtd_head"])

        def init(key: jax.Array) -> Params:
            keys = jax.random.split(key, 4)
            one = jnp.ones((1, 1), jnp.int32)
            wide, narrow = (jnp.zeros((1, 1, c.hidden_size)) for c in (encoder, small))
            params = {
                "encoder": discriminator.init(keys[0], one, one, one * 0)["params"],
                "rtd_head": rtd_head.init(keys[1], wide)["params"],
                "generator": {
                    "encoder": generator.init(keys[2], one, one, one * 0)["params"],
                    "mlm_head": mlm_head.init(keys[3], narrow).get("params", {}),
                },
            }
            own = params["generator"]["encoder"]
            if self.sharing == "shared":
                own["embeddings"] = {name: x for name, x in own["embeddings"].items() if name == "projection"}
            elif self.sharing == "gdes":
                table = params["encoder"]["embeddings"]["token_embedding"]
                params["encoder"]["embeddings"]["token_embedding"] = jnp.zeros_like(table)
            return params

        def models(params: Params) -> dict[str, Params]:
            body, filler = params["encoder"], params["generator"]
            if self.sharing == "shared":
                shared = {name: x for name, x in body["embeddings"].items() if name != "projection"}
                own = filler["encoder"]
                filler = filler | {"encoder": own | {"embeddings": shared | own["embeddings"]}}
            elif self.sharing == "gdes":
                table = filler["encoder"]["embeddings"]["token_embedding"]
                table = jax.lax.stop_gradient(table) + body["embeddings"]["token_embedding"]
                body = body | {"embeddings": body["embeddings"] | {"token_embedding": table}}
            return {"discriminator": {"encoder": body, "rtd_head": params["rtd_head"]}, "generator": filler}

        def loss(params: Params, batch: Batch, key: jax.Array, train: bool) -> tuple[jax.Array, Metrics]:
            mask_key, sample_key, *dropout_keys = jax.random.split(key, 4)
            both = models(params)
            masked = mask_tokens(batch, mask_key, self.masking, vocabulary)
            uniforms = jax.random.uniform(sample_key, masked.slots.shape)
            inputs = batch | {"token_ids": masked.token_ids}
            hidden = encode(generator, both["generator"]["encoder"], inputs, dropout_keys[0], train)
            total, found = predict(mlm_head, both["generator"], hidden, masked, self.chunk, uniforms)
            metrics = {f"mlm_{name}": x for name, x in masked_metrics(masked, total, found, vocabulary.mask_id).items()}

            token_ids, replaced = fill(batch["token_ids"], masked.slots, masked.weights, found.samples)
            inputs = batch | {"token_ids": token_ids}
            hidden = encode(discriminator, both["discriminator"]["encoder"], inputs, dropout_keys[1], train)
            scores = rtd_head.apply({"params": params["rtd_head"]}, hidden)[..., 0]
            there = batch["segment_ids"] > 0
            losses = jax.nn.softplus(jnp.where(replaced, -scores, scores))
            weight = there.sum().astype(jnp.float32)
            right = there & ((scores > 0) == replaced)
            metrics |= {
                "rtd_loss": (jnp.where(there, losses, 0).sum(), weight),
                "rtd_accuracy": (right.sum().astype(jnp.float32), weight),
                "rtd_recall": tuple(x.sum().astype(jnp.float32) for x in (right & replaced, there & replaced)),
            }
            value = mean(metrics, "mlm_loss") + self.weight * mean(metrics, "rtd_loss")
            tokens = metrics["mlm_loss"][1]
            return value, {"loss": (value * tokens, tokens)} | metrics

        return Objective(init, loss, models=models)

    @property
    def masked_loss(self) -> str:
        """The metric that is the cross-entropy of the generator's masked tokens."""
        return "mlm_loss"

    def heads(self, encoder: EncoderConfig) -> Mapping[str, HeadConfig]:
        """ELECTRA's head of the discriminator."""
        return {"rtd_head": HeadConfig("tokens", 1, encoder.activation)}

    def flops(self, encoder: EncoderConfig, row_length: int) -> float:
        """FLOPs of both models' forward and backward passes per token."""
        head = 6.0 * encoder.hidden_size * (encoder.hidden_size + 1)
        generator = training_flops(self.generator(encoder), row_length, self.masking.mean_rate)
        return training_flops(encoder, row_length) + head + generator


def fill(token_ids: jax.Array, slots: jax.Array, weights: jax.Array, samples: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Put samples where tokens were masked.

    Args:
        token_ids: [B, T], the true tokens.
        slots, weights, samples: [B, K]; slots of weight 0 change nothing.

    Returns:
        ([B, T] token ids, [B, T] bool: another token than the true one stands there).
    """
    true = jnp.take_along_axis(token_ids, slots, axis=1)
    new = jnp.where(weights > 0, samples, true)
    filled = jnp.put_along_axis(token_ids, slots, new, axis=1, inplace=False)
    return filled, filled != token_ids
