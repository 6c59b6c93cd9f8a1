"""Masked language modelling: hide some tokens, predict them from both sides.

Devlin et al. 2019, arXiv:1810.04805; dynamic masking as in Liu et al. 2019 (RoBERTa, arXiv:1907.11692); whole-word
masking as in BERT's later release. The corruption is part of the compiled step, a pure function of key and tokens.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxencoder.kernels.cross_entropy import cross_entropy
from jaxencoder.model.config import ComputeConfig, EncoderConfig
from jaxencoder.model.encoder import Encoder
from jaxencoder.model.heads import MlmHead, output_table
from jaxencoder.objectives.objective import Batch, Metrics, Objective, Params, Vocabulary, mean
from jaxencoder.sharding import row_shards


@dataclass(frozen=True)
class MaskedLM:
    """Settings of masked language modelling; the defaults are BERT's.

    Raises:
        ValueError: a share lies outside [0, 1], or mask_share + random_share is above 1.
    """

    rate: float = 0.15
    """Share of the tokens that are predicted; special tokens never are."""
    mask_share: float = 0.8
    """Of those, the share shown as [MASK] ..."""
    random_share: float = 0.1
    """... and the share shown as a random token; the rest is shown as it is."""
    whole_word: bool = False
    """Mask all pieces of a word or none."""
    chunk: int = 4096
    """Predicted tokens (on one device) whose logits are in memory at once."""

    def __post_init__(self) -> None:
        if not 0 < self.rate < 1:
            raise ValueError(f"objective.rate must lie between 0 and 1, got {self.rate}.")
        if min(self.mask_share, self.random_share) < 0 or self.mask_share + self.random_share > 1 + 1e-9:
            raise ValueError(
                "objective.mask_share and objective.random_share must not be negative nor add up to more than 1, "
                f"got {self.mask_share} and {self.random_share}."
            )
        if self.chunk < 1:
            raise ValueError(f"objective.chunk must be at least 1, got {self.chunk}.")

    def build(self, encoder: EncoderConfig, compute: ComputeConfig, vocabulary: Vocabulary) -> Objective:
        """The pure functions; see `Objective`. Metrics: loss (nats) and accuracy, over the predicted tokens."""
        module, head = Encoder(encoder, compute), MlmHead(encoder)

        def init(key: jax.Array) -> Params:
            body, top = jax.random.split(key)
            one = jnp.ones((1, 1), jnp.int32)
            return {
                "encoder": module.init(body, one, one, one * 0)["params"],
                "mlm_head": head.init(top, jnp.zeros((1, 1, encoder.hidden_size)))["params"],
            }

        def loss(params: Params, batch: Batch, key: jax.Array, train: bool) -> tuple[jax.Array, Metrics]:
            mask_key, dropout_key = jax.random.split(key)
            masked = mask_tokens(batch["token_ids"], batch["segment_ids"], mask_key, self, vocabulary)
            return masked_loss(params, batch, masked, dropout_key, train)

        def masked_loss(
            params: Params, batch: Batch, masked: Masked, key: jax.Array, train: bool
        ) -> tuple[jax.Array, Metrics]:
            hidden = module.apply(
                {"params": params["encoder"]},
                masked.token_ids,
                batch["segment_ids"],
                batch["positions"],
                batch.get("token_type_ids"),
                train,
                batch.get("global_slots"),
                rngs={"dropout": key},
            )
            hidden = jnp.take_along_axis(hidden, masked.slots[..., None], axis=1)  # [B, K, D]
            hidden, bias = head.apply({"params": params["mlm_head"]}, hidden)
            B, K = masked.slots.shape
            chunk = min(K, max(1, self.chunk * row_shards() // B))
            total, correct = cross_entropy(hidden, output_table(params), bias, masked.targets, masked.weights, chunk)
            weight = masked.weights.sum()
            metrics = {"loss": (total, weight), "accuracy": (correct, weight)}
            return mean(metrics), metrics

        return Objective(init, loss)


class Masked(NamedTuple):
    """A corrupted batch: [B, T] token ids as the encoder sees them, and K slots a row for what it must predict."""

    token_ids: jax.Array
    slots: jax.Array  # [B, K] positions in the row
    targets: jax.Array  # [B, K] the tokens that stood there
    weights: jax.Array  # [B, K] float32: 1, or 0 where a slot is not used


def mask_tokens(
    token_ids: jax.Array, segment_ids: jax.Array, key: jax.Array, config: MaskedLM, vocabulary: Vocabulary
) -> Masked:
    """Choose the tokens to predict and corrupt them.

    In each row words are drawn in random order until rate * (ordinary tokens) tokens are chosen; the word that crosses
    the limit is taken with the probability that makes the expected share exactly `rate`. A word is a single token, or
    with `whole_word` the pieces from a word start to the next one, within a document.

    Args:
        token_ids, segment_ids: [B, T] int32.
        key: the only source of randomness; equal keys give equal masks on any number of devices.
    """
    B, T = token_ids.shape
    order_key, limit_key, split_key, random_key = jax.random.split(key, 4)
    is_special = np.zeros(vocabulary.vocab_size, bool)
    is_special[list(vocabulary.special_ids)] = True
    ordinary = (segment_ids > 0) & ~jnp.asarray(is_special)[token_ids]
    start, length = _words(token_ids, segment_ids, ordinary, vocabulary) if config.whole_word else (jnp.arange(T), 1)

    noise = jnp.where(ordinary, jax.random.uniform(order_key, (B, T)), 2.0)
    noise = noise if not config.whole_word else jnp.take_along_axis(noise, start, axis=1)
    order = jnp.argsort(noise, axis=1)  # stable: the pieces of a word stay together
    rank = jnp.argsort(order, axis=1)
    before = (
        rank if not config.whole_word else jnp.take_along_axis(rank, start, axis=1)
    )  # tokens drawn before this word
    limit = config.rate * ordinary.sum(-1, keepdims=True)
    K = min(T, math.ceil(config.rate * T) + (_LONGEST_WORD if config.whole_word else 0))
    crosses = jax.random.uniform(limit_key, (B, 1)) * length < limit - before
    chosen = ordinary & crosses & (before + length <= K)

    slots = order[:, :K]
    weights = jnp.take_along_axis(chosen, slots, axis=1).astype(jnp.float32)
    targets = jnp.take_along_axis(token_ids, slots, axis=1)

    candidates = jnp.asarray(np.flatnonzero(~is_special), jnp.int32)
    random_ids = candidates[jax.random.randint(random_key, (B, T), 0, len(candidates))]
    split = jax.random.uniform(split_key, (B, T))
    shown = jnp.where(split < config.mask_share + config.random_share, random_ids, token_ids)
    shown = jnp.where(split < config.mask_share, vocabulary.mask_id, shown)
    return Masked(jnp.where(chosen, shown, token_ids), slots, targets, weights)


_LONGEST_WORD = 24  # slots beyond the limit for the word that crosses it; one that needs more stays unmasked


def _words(
    token_ids: jax.Array, segment_ids: jax.Array, ordinary: jax.Array, vocabulary: Vocabulary
) -> tuple[jax.Array, jax.Array]:
    """For each token, where its word starts and how many tokens it has: two [B, T] arrays."""
    T = token_ids.shape[1]
    at = jnp.arange(T)
    previous = jnp.pad(segment_ids, [(0, 0), (1, 0)])[:, :-1]
    after_special = ~jnp.pad(ordinary, [(0, 0), (1, 0)])[:, :-1]
    starts = jnp.asarray(vocabulary.word_starts())[token_ids] | ~ordinary | after_special | (segment_ids != previous)
    start = jax.lax.cummax(jnp.where(starts, at, 0), axis=1)
    next_start = jnp.pad(jnp.where(starts, at, T), [(0, 0), (0, 1)], constant_values=T)[:, 1:]
    end = jax.lax.cummin(next_start, axis=1, reverse=True)
    return start, end - start
