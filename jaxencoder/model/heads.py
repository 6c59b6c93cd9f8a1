"""Heads on the encoder: masked language model, pooling of documents, published heads and the classifier."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxencoder.kernels.dense import masked_softmax
from jaxencoder.model.config import Activation, EncoderConfig, Pooling
from jaxencoder.model.layers import ACTIVATIONS, Linear, Norm, apply, init_table

HeadInputs = Literal["tokens", "cls", "mean", "lasttoken", "pooled"]


class MlmHead(nn.Module):
    """The masked-language-model head up to its `output_table`, with BERT's transform or UltraBERT's two projections.

    [B, K, D] -> ([B, K, E], bias [V]), where E is the width of the embeddings.
    """

    config: EncoderConfig

    @nn.compact
    def __call__(self, hidden: jax.Array) -> tuple[jax.Array, jax.Array]:
        c, x = self.config, hidden
        activation = ACTIVATIONS[c.activation if c.head_activation == "same" else c.head_activation]
        sizes = (c.hidden_size, c.head_mlp_size, c.embedding_width)
        if c.head_transform:
            x = Linear("BKD,DE->BKE", sizes[::2], c.head_bias, c.initializer_std, name="dense")(x)
            x = Norm(c, name="norm")(activation(x))
        elif c.head_mlp_size:
            x = activation(Linear("BKD,DF->BKF", sizes[:2], False, c.initializer_std, name="up")(x))
            x = activation(Linear("BKF,FE->BKE", sizes[1:], False, c.initializer_std, name="down")(x))
        if not c.tied_output:
            self.param("table", init_table(c), (c.vocab_size, c.embedding_width))
        if not c.output_bias:
            return x, jnp.zeros(c.vocab_size)
        return x, self.param("bias", nn.initializers.zeros, (c.vocab_size,))


def output_table(params: Mapping[str, Any]) -> jax.Array:
    """The output table [V, E]: its products with the vectors of `MlmHead` are the tokens' scores."""
    head = params["mlm_head"]
    return head["table"] if "table" in head else params["encoder"]["embeddings"]["token_embedding"]


def vocabulary_scores(x: jax.Array, bias: jax.Array, table: jax.Array) -> jax.Array:
    """Scores [..., V] float32 of all tokens, from the output of `MlmHead` ([..., E], [V]) and the table [V, E]."""
    return jnp.einsum("...E,VE->...V", x, table.astype(x.dtype), preferred_element_type=jnp.float32) + bias


def pool(
    hidden: jax.Array,
    segment_ids: jax.Array,
    max_documents: int,
    method: Pooling,
    query: jax.Array | None = None,
    skip: jax.typing.ArrayLike | None = None,
) -> jax.Array:
    """One vector for each document of each row, [B, E, D] float32; zeros for documents without tokens.

    Args:
        hidden: [B, T, D].
        segment_ids: [B, T]; document e of a row has the segment id e + 1.
        max_documents: E, the maximum number of documents in a row.
        method: the vector of the first (cls) or the last token (lasttoken); the maximum (max) or the mean of each
            dimension; mean_sqrt_len: the sum / sqrt(number of tokens); weightedmean: the mean weighted by position,
            1, 2, ... in the document (Muennighoff 2022, arXiv:2202.08904); learned: the mean with weights
            softmax(hidden @ query) (Yang et al. 2016, HAN).
        query: [D], for `learned` only.
        skip: tokens to ignore at the start of each document, such as those of a prompt.
    """
    hidden = hidden.astype(jnp.float32)  # sums over hundreds of tokens lose digits in bfloat16
    member = _members(segment_ids, max_documents)  # [B, E, T]
    if skip is not None or method == "weightedmean":
        position = member.cumsum(-1)  # [B, E, T], from 1 in each document
        member &= position > (0 if skip is None else skip)
    is_document = member.any(-1, keepdims=True)
    if method == "max":
        # One document at a time: all at once would hold [B, E, T, D].
        largest = jax.lax.map(lambda m: jnp.where(m[..., None], hidden, -jnp.inf).max(1), jnp.moveaxis(member, 1, 0))
        return jnp.where(is_document, jnp.moveaxis(largest, 0, 1), 0)
    if method in ("cls", "lasttoken"):
        index = member.argmax(-1) if method == "cls" else member.shape[-1] - 1 - member[..., ::-1].argmax(-1)  # [B, E]
        return jnp.where(is_document, jnp.take_along_axis(hidden, index[..., None], axis=1), 0)
    if method == "learned":
        if query is None:
            raise ValueError("Learned pooling needs a query vector; give the one of the trained head.")
        scores = (hidden @ query)[:, None, :]  # [B, 1, T]
        weights = jnp.where(is_document, masked_softmax(scores, member), 0)  # [B, E, T]
    else:
        weights = member * position if method == "weightedmean" else member
        total = jnp.maximum(weights.sum(-1, keepdims=True), 1)  # avoids 0 / 0
        weights = weights / (jnp.sqrt(total) if method == "mean_sqrt_len" else total)
    return jnp.einsum("BET,BTD->BED", weights, hidden, precision="highest")  # no TF32 or bfloat16 in vectors to compare


def first_tokens(segment_ids: jax.Array, max_documents: int) -> jax.Array:
    """Index of each document's first token: [B, T] segment ids -> [B, E] int32, -1 for missing documents."""
    member = _members(segment_ids, max_documents)
    return jnp.where(member.any(-1), member.argmax(-1), -1)


def _members(segment_ids: jax.Array, max_documents: int) -> jax.Array:
    """bool [B, E, T], the tokens of each document."""
    return segment_ids[:, None, :] == jnp.arange(1, max_documents + 1)[:, None]


@dataclass(frozen=True)
class HeadConfig:
    """A head of published checkpoints: an optional transform and an optional projection of some vectors."""

    inputs: HeadInputs = "tokens"
    """Each token's vector, the first one, their mean, the last one, or the output of the head named pooler."""
    outputs: int = 0
    """Outputs of the projection; 0 for no projection."""
    activation: Activation | None = None
    """Activation after the transform, a projection from D to D; None for no transform."""
    transform_bias: bool = True
    norm: bool = False
    """Apply the encoder's kind of norm after the transform or, with `add_first_token`, before it."""
    add_first_token: bool = False
    """Add the first token's vector to each token's, before the rest of the head (DeBERTa-v3)."""
    pool_after_transform: bool = False
    """Take the mean after the transform of each token."""
    global_tokens: Literal["none", "first", "question", "answer"] = "none"
    """Default global tokens of a model with `global_tokens`: the first token; all before the first of three separators;
    all after it except the second separator."""
    separator: int | None = None
    """Id of the separator; published checkpoints use three: question </s></s> text </s>."""
    output_bias: bool = True
    """Bias of the projection."""
    pad_id: int | None = None
    """Token id that `lasttoken` passes over wherever it stands, as transformers' classifiers of decoders do."""


class Head(nn.Module):
    """A published head on the vectors of its `inputs`: [..., D] -> [..., outputs] float32, or D without projection."""

    encoder: EncoderConfig
    config: HeadConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        c, D = self.config, self.encoder.hidden_size
        shape, std = x.shape[:-1], self.encoder.initializer_std
        if c.add_first_token:
            x = Norm(self.encoder, name="norm")(x + x[..., :1, :])
        x = x.reshape(1, -1, D)  # Linear sums over all axes after the first two
        if c.activation is not None:
            x = ACTIVATIONS[c.activation](Linear("BTD,DE->BTE", (D, D), c.transform_bias, std, name="dense")(x))
            x = Norm(self.encoder, name="norm")(x) if c.norm and not c.add_first_token else x
        if c.outputs:
            x = Linear("BTD,DC->BTC", (D, c.outputs), c.output_bias, std, name="output")(x)
        return x.astype(jnp.float32).reshape(*shape, -1)


def apply_heads(
    encoder: EncoderConfig,
    heads: tuple[tuple[str, HeadConfig], ...],
    params: Mapping[str, Any],
    hidden: jax.Array,
    rows: Mapping[str, jax.Array],
    max_documents: int,
    drop: Callable[[jax.Array], jax.Array] = lambda x: x,
) -> dict[str, jax.Array]:
    """Outputs of published heads, float32: [B, T, outputs] of tokens, [B, E, outputs] of the documents of each row.

    Args:
        encoder: the architecture.
        heads: names among the parameters, and settings; a pooler precedes the heads that use it.
        params: of the heads.
        hidden: the encoder's output [B, T, D].
        rows: token_ids and segment_ids [B, T].
        max_documents: E, the maximum number of documents in a row.
        drop: dropout of what enters a head with outputs.
    """
    segment_ids = rows["segment_ids"]
    out: dict[str, jax.Array] = {}
    for name, head in heads:
        if head.inputs == "pooled":
            x = out["pooler"]
        elif head.inputs == "tokens" or head.pool_after_transform:
            x = hidden
        else:
            counted = segment_ids
            if head.pad_id is not None:
                counted = _without_id(rows["token_ids"], segment_ids, max_documents, head.pad_id)
            x = pool(hidden, counted, max_documents, head.inputs)
        x = drop(x) if head.outputs else x
        y = apply(Head(encoder, head), params[name], x.astype(hidden.dtype))
        out[name] = pool(y, segment_ids, max_documents, "mean") if head.pool_after_transform else y
    return out


def _without_id(token_ids: jax.Array, segment_ids: jax.Array, max_documents: int, skipped: int) -> jax.Array:
    """Segment ids with 0 at tokens of an id; a document of nothing else keeps its first token, as in transformers."""
    kept = jnp.where(token_ids == skipped, 0, segment_ids)
    is_empty = ~_members(kept, max_documents).any(-1)  # [B, E]
    first = jnp.arange(segment_ids.shape[1]) == first_tokens(segment_ids, max_documents)[..., None]  # [B, E, T]
    return jnp.where((first & is_empty[..., None]).any(1), segment_ids, kept)


class Classifier(nn.Module):
    """Scores [B, E, labels] float32 of documents: pooling, BERT's tanh transform, dropout and a projection.

    Without the transform, the projection has no bias.
    """

    config: EncoderConfig
    labels: int
    pooling: Pooling
    dropout: float
    transform: bool = True

    @nn.compact
    def __call__(self, hidden: jax.Array, segment_ids: jax.Array, max_documents: int, train: bool) -> jax.Array:
        c, D = self.config, self.config.hidden_size
        # A query of zeros weights all tokens equally: learned pooling starts as mean pooling.
        query = self.param("pooling_query", nn.initializers.zeros, (D,)) if self.pooling == "learned" else None
        x = pool(hidden, segment_ids, max_documents, self.pooling, query)
        if self.transform:
            x = jnp.tanh(Linear("BED,DF->BEF", (D, D), True, c.initializer_std, name="dense")(x))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return Linear("BED,DC->BEC", (D, self.labels), self.transform, c.initializer_std, name="classifier")(x)
