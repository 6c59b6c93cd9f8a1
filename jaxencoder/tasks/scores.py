"""Scores that objectives give to the texts and tokens of packed rows, and a softmax within segments."""

import jax
import jax.numpy as jnp

from jaxencoder.kernels.dropout import dropout
from jaxencoder.model.config import ComputeConfig, EncoderConfig, Pooling
from jaxencoder.model.encoder import Encoder, init_params
from jaxencoder.model.heads import Classifier, Head, HeadConfig, first_tokens
from jaxencoder.model.layers import apply
from jaxencoder.objectives.objective import Batch, Params, encode
from jaxencoder.tasks.task import Network


def text_scores(
    encoder: EncoderConfig, compute: ComputeConfig, labels: int, pooling: Pooling, rate: float, transform: bool = True
) -> Network:
    """The network of an objective that pools each text and projects its vector: parameters "encoder" and "classifier".

    `scores` gives [B, E, labels] float32, where E is the number of columns of batch["labels"]. `rate` is that of
    dropout before the projection, and `transform` whether BERT's transform precedes it.
    """
    module, head = Encoder(encoder, compute), Classifier(encoder, labels, pooling, rate, transform)

    def init(key: jax.Array) -> Params:
        one_token = jnp.ones((1, 1), jnp.int32)
        return init_params(jax.random.split(key), module, {"classifier": head}, one_token, 1, False)

    def scores(params: Params, batch: Batch, key: jax.Array, train: bool) -> jax.Array:
        encoder_key, head_key = jax.random.split(key)
        texts = batch["labels"].shape[1]
        if "global_slots" not in batch and encoder.global_tokens and pooling == "cls":
            batch = batch | {"global_slots": first_tokens(batch["segment_ids"], texts)}
        hidden = encode(module, params["encoder"], batch, encoder_key, train)
        inputs = (hidden, batch["segment_ids"], texts, train)
        return apply(head, params["classifier"], *inputs, rngs={"dropout": head_key})

    return init, scores


def token_scores(encoder: EncoderConfig, compute: ComputeConfig, name: str, config: HeadConfig, rate: float) -> Network:
    """The network of an objective that projects each token's vector: parameters "encoder" and `name`.

    `scores` gives [B, T, config.outputs] float32. `rate` is that of dropout before the head.
    """
    module, head = Encoder(encoder, compute), Head(encoder, config)

    def init(key: jax.Array) -> Params:
        return init_params(jax.random.split(key), module, {name: head})

    def scores(params: Params, batch: Batch, key: jax.Array, train: bool) -> jax.Array:
        encoder_key, dropout_key = jax.random.split(key)
        hidden = encode(module, params["encoder"], batch, encoder_key, train)
        return apply(head, params[name], dropout(hidden, rate if train else 0, dropout_key))

    return init, scores


def segment_log_softmax(scores: jax.Array, segment_ids: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A log-softmax of scores [B, T, C] over the entries of each segment, whose ids [B, T] are from 0 to T, and whether
    an entry is the first with the largest score of its segment, bool [B, T, C].
    """
    segments = segment_ids.shape[1] + 1

    def row(z: jax.Array, ids: jax.Array) -> tuple[jax.Array, jax.Array]:
        largest = jax.lax.stop_gradient(jax.ops.segment_max(z, ids, segments))[ids]
        total = jax.ops.segment_sum(jnp.exp(z - largest), ids, segments)[ids]
        position = jnp.where(z >= largest, jnp.arange(len(z))[:, None], segments)
        first = jax.ops.segment_min(position, ids, segments)[ids]
        return z - largest - jnp.log(total), position == first

    return jax.vmap(row)(scores, segment_ids)


def check_dropout(rate: float) -> None:
    """Raise ValueError for a rate outside [0, 1)."""
    if not 0 <= rate < 1:
        raise ValueError(f"objective.dropout must be in [0, 1), got {rate}.")
