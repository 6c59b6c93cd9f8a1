"""What stands on the encoder: the masked-language-model head, pooling of documents, and the classifier."""

from dataclasses import dataclass
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxencoder.model.config import Activation, EncoderConfig
from jaxencoder.model.layers import ACTIVATIONS, Linear, Norm

Pooling = Literal["cls", "mean", "max", "learned", "mean_sqrt_len", "weightedmean", "lasttoken"]


class MlmHead(nn.Module):
    """What stands before the output table, BERT's transform where there is one: [B, K, D] -> ([B, K, E], bias [V]).

    E is the width of the embeddings; the table itself is `output_table`.
    """

    config: EncoderConfig

    @nn.compact
    def __call__(self, hidden: jax.Array) -> tuple[jax.Array, jax.Array]:
        c = self.config
        x = hidden
        if c.head_transform:
            shape = (c.hidden_size, c.embedding_width)
            x = Linear("BKD,DE->BKE", shape, c.head_bias, c.initializer_std, name="dense")(x)
            activation = c.activation if c.head_activation == "same" else c.head_activation
            x = Norm(c, name="norm")(ACTIVATIONS[activation](x))
        if not c.tied_output:
            self.param("table", nn.initializers.truncated_normal(c.initializer_std), (c.vocab_size, c.embedding_width))
        if not c.output_bias:
            return x, jnp.zeros(c.vocab_size)
        return x, self.param("bias", nn.initializers.zeros, (c.vocab_size,))


def output_table(params: dict[str, Any]) -> jax.Array:
    """The [V, E] table whose products with the masked-language-model head's vectors are the scores of the tokens."""
    head = params["mlm_head"]
    return head["table"] if "table" in head else params["encoder"]["embeddings"]["token_embedding"]


def vocabulary_scores(x: jax.Array, bias: jax.Array, table: jax.Array) -> jax.Array:
    """Scores [..., V] float32 of every token, from the MLM head's output ([..., E], [V]) and the table [V, E]."""
    return jnp.einsum("...E,VE->...V", x, table.astype(x.dtype), preferred_element_type=jnp.float32) + bias


def pool(
    hidden: jax.Array,
    segment_ids: jax.Array,
    documents: int,
    method: Pooling,
    query: jax.Array | None = None,
    skip: jax.typing.ArrayLike | None = None,
) -> jax.Array:
    """One vector for each document of each row.

    Args:
        hidden: [B, T, D].
        segment_ids: [B, T]; document e of a row has the segment id e + 1.
        documents: E, the most documents in a row.
        method: the first or the last token's vector, the mean, the sum divided by the square root of the number of
            tokens, the mean weighted by the place in the document (1, 2, ...; Muennighoff 2022, arXiv:2202.08904), the
            largest value of each dimension, or the mean under softmax weights hidden @ query (a learned pooling, as
            Yang et al. 2016, HAN).
        query: [D], for `learned` alone.
        skip: how many tokens at the start of each document are left out, such as those of a prompt.

    Returns:
        [B, E, D] float32; zeros for documents of which nothing is there.
    """
    hidden = hidden.astype(jnp.float32)
    member = segment_ids[:, None, :] == jnp.arange(1, documents + 1)[:, None]  # [B, E, T]
    if skip is not None or method == "weightedmean":
        place = member.cumsum(-1)
        member &= place > (0 if skip is None else skip)
    there = member.any(-1, keepdims=True)
    if method == "max":
        largest = jax.lax.map(lambda m: jnp.where(m[..., None], hidden, -jnp.inf).max(1), jnp.moveaxis(member, 1, 0))
        return jnp.where(there, jnp.moveaxis(largest, 0, 1), 0)
    if method in ("cls", "lasttoken"):
        at = member.argmax(-1) if method == "cls" else member.shape[-1] - 1 - member[..., ::-1].argmax(-1)
        return jnp.where(there, jnp.take_along_axis(hidden, at[..., None], axis=1), 0)
    if method == "learned":
        scores = (hidden @ query)[:, None, :]
        weights = jnp.where(there, jax.nn.softmax(jnp.where(member, scores, -1e30), axis=-1), 0)
    else:
        weights = member * place if method == "weightedmean" else member
        total = jnp.maximum(weights.sum(-1, keepdims=True), 1)
        weights = weights / (jnp.sqrt(total) if method == "mean_sqrt_len" else total)
    return jnp.einsum("BET,BTD->BED", weights, hidden, precision="highest")


def first_tokens(segment_ids: jax.Array, documents: int) -> jax.Array:
    """Where each of a row's documents begins: [B, T] segment ids to [B, E] int32, -1 for one that is not there."""
    member = segment_ids[:, None, :] == jnp.arange(1, documents + 1)[:, None]  # [B, E, T]
    return jnp.where(member.any(-1), member.argmax(-1), -1)


@dataclass(frozen=True)
class HeadConfig:
    """A head as published checkpoints have it: a transform and a projection of some vectors, each where asked for."""

    inputs: Literal["tokens", "cls", "mean", "pooled"] = "tokens"
    """Each token's vector, the first one, the mean over the tokens, or what the head called pooler gives."""
    outputs: int = 0
    """Numbers that the projection gives; 0 for no projection."""
    activation: Activation | None = None
    """Of the transform, a projection from D to D; None for no transform."""
    transform_bias: bool = True
    norm: bool = False
    """Normalise after the transform, as the encoder does; with `add_first_token`, before it."""
    add_first_token: bool = False
    """Add the first token's vector to each token's before anything else (DeBERTa-v3)."""
    late: bool = False
    """Transform each token, and only then take the mean."""
    global_tokens: Literal["none", "first", "question", "answer"] = "none"
    """The global tokens of a model that has such, where the caller names none: the first token; all before the first
    of three separators; all behind it, without the second one."""
    separator: int | None = None
    """Id of the separator; published checkpoints have three: question </s></s> text </s>."""


class Head(nn.Module):
    """A published head on the vectors that its `inputs` name: [..., D] -> [..., outputs] float32 (or D of them)."""

    encoder: EncoderConfig
    config: HeadConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        c, D = self.config, self.encoder.hidden_size
        shape, scale = x.shape[:-1], self.encoder.initializer_std
        if c.add_first_token:
            x = Norm(self.encoder, name="norm")(x + x[..., :1, :])
        x = x.reshape(1, -1, D)
        if c.activation is not None:
            x = ACTIVATIONS[c.activation](Linear("BTD,DE->BTE", (D, D), c.transform_bias, scale, name="dense")(x))
            x = Norm(self.encoder, name="norm")(x) if c.norm and not c.add_first_token else x
        if c.outputs:
            x = Linear("BTD,DC->BTC", (D, c.outputs), True, scale, name="output")(x)
        return x.astype(jnp.float32).reshape(*shape, -1)


def apply_heads(
    encoder: EncoderConfig,
    heads: tuple[tuple[str, HeadConfig], ...],
    params: dict[str, Any],
    hidden: jax.Array,
    segment_ids: jax.Array,
    documents: int,
) -> dict[str, jax.Array]:
    """Outputs of published heads, float32: [B, T, outputs] of tokens, [B, E, outputs] of the documents of each row.

    Args:
        encoder: its architecture.
        heads: names among the parameters, and settings; a pooler precedes the heads that use it.
        params: of the heads.
        hidden: [B, T, D].
        segment_ids: [B, T].
        documents: E, the most documents in a row.
    """
    out: dict[str, jax.Array] = {}
    for name, head in heads:
        if head.inputs == "pooled":
            x = out["pooler"]
        elif head.inputs == "tokens" or head.late:
            x = hidden
        else:
            x = pool(hidden, segment_ids, documents, head.inputs)
        y = Head(encoder, head).apply({"params": params[name]}, x.astype(hidden.dtype))
        out[name] = pool(y, segment_ids, documents, "mean") if head.late else y
    return out


class Classifier(nn.Module):
    """Scores [B, E, labels] float32 of documents: pooling, BERT's tanh transform, dropout and a projection."""

    config: EncoderConfig
    labels: int
    pooling: Pooling
    dropout: float

    @nn.compact
    def __call__(self, hidden: jax.Array, segment_ids: jax.Array, documents: int, train: bool) -> jax.Array:
        c = self.config
        D = c.hidden_size
        query = self.param("pooling_query", nn.initializers.zeros, (D,)) if self.pooling == "learned" else None
        x = pool(hidden, segment_ids, documents, self.pooling, query)
        x = jnp.tanh(Linear("BED,DF->BEF", (D, D), True, c.initializer_std, name="dense")(x))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return Linear("BED,DC->BEC", (D, self.labels), True, c.initializer_std, name="classifier")(x)
