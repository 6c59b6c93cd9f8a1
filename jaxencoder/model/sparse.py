"""Sparse vectors of texts over the vocabulary: scores of the masked-language-model head, pooled and saturated.

Formal et al. 2021 (SPLADE v2), arXiv:2109.10086. Queries may instead have a learned weight for each of their tokens,
so that they need no encoder: Geng et al. 2024, arXiv:2411.04403.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxencoder.kernels.pooled_scores import largest_scores, summed_scores
from jaxencoder.model.config import EncoderConfig, Role
from jaxencoder.model.heads import MlmHead, output_table
from jaxencoder.model.layers import apply

SparsePooling = Literal["max", "sum"]
Saturation = Literal["log1p", "log1p_log1p"]
QueryVectors = Literal["encoder", "table"]
SparseVectors = Any  # a csr_array [N, V] of scipy, which declares no types
QUERY_TABLE = "query_table"  # the name of the queries' weights among the parameters, {"weight": [V]}


@dataclass(frozen=True)
class SparseConfig:
    """How the scores of a text's tokens become its vector."""

    pooling: SparsePooling = "max"  # over the text's tokens, special tokens included
    saturation: Saturation = "log1p"  # log(1 + max(0, score)), once or twice
    queries: QueryVectors = "encoder"  # table: a query has the weight of each of its tokens, and no special tokens
    default_role: Role = "document"  # of texts of which it is not said
    query_length: int | None = None  # most tokens of a query by the table; None for no limit
    max_active: int | None = None  # number of the largest entries of a vector to keep; None for all


def sparse_vectors(
    config: SparseConfig,
    encoder: EncoderConfig,
    params: Mapping[str, Any],
    hidden: jax.Array,
    segment_ids: jax.Array,
    documents: int,
) -> jax.Array:
    """The vector of each text of each row, [B, documents, V] float32; zeros for texts without tokens.

    Args:
        params: with "mlm_head", and "encoder" for a shared output table.
        hidden: the encoder's output [B, T, D].
        segment_ids: int32 [B, T]; text e of a row has the segment id e + 1.
    """
    x, bias = apply(MlmHead(encoder), params["mlm_head"], hidden)
    inputs = x, output_table(params), bias, segment_ids, documents
    if config.pooling == "sum":
        vectors = summed_scores(*inputs, lambda scores: _saturated(config.saturation, scores))
    else:
        vectors = _saturated(config.saturation, largest_scores(*inputs))  # it is monotonic
    return vectors if config.max_active is None else keep_largest(vectors, config.max_active)


def query_vectors(
    weight: jax.Array, token_ids: jax.Array, segment_ids: jax.Array, documents: int, skipped: tuple[int, ...] = ()
) -> jax.Array:
    """The weight [V] of each token that a text has, [B, documents, V] float32, however often; 0 for `skipped` ids."""

    def present(ids: jax.Array, segments: jax.Array) -> jax.Array:
        return jnp.zeros((documents + 1, len(weight))).at[segments, ids].set(1)[1:]

    counted = jnp.ones(len(weight)).at[jnp.array(skipped, jnp.int32)].set(0)
    return jax.vmap(present)(token_ids, segment_ids) * counted * weight


def keep_largest(vectors: jax.Array, number: int) -> jax.Array:
    """Vectors [..., V] with their `number` largest entries, and zeros in place of the others."""
    flat = vectors.reshape(-1, vectors.shape[-1])
    values, indices = jax.lax.top_k(flat, min(number, flat.shape[-1]))
    return jnp.put_along_axis(jnp.zeros_like(flat), indices, values, axis=1, inplace=False).reshape(vectors.shape)


def _saturated(saturation: Saturation, scores: jax.Array) -> jax.Array:
    x = jnp.log1p(jax.nn.relu(scores))
    return jnp.log1p(x) if saturation == "log1p_log1p" else x
