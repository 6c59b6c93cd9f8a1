"""Multi-vector embeddings (late interaction): a vector for each token, and the similarity of two texts by them.

Khattab and Zaharia 2020 (ColBERT), arXiv:2004.12832; Santhanam et al. 2022 (ColBERTv2), arXiv:2112.01488.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxencoder.model.config import Role
from jaxencoder.model.sentence import Module, Normalize

LEXICAL = "lexical"  # the name of bge-m3's weights of tokens among the parameters, {"kernel": [D, 1], "bias": [1]}

_EMPTY = -1e9  # similarity of a document without vectors, as in sentence-transformers: below all others
_FLOOR = -3e38
_SIMILARITIES = 1 << 24  # of tokens in memory at once, 64 MiB


@dataclass(frozen=True)
class QueryExpansion:
    """Tokens that fill a query up, whose vectors count like those of its words."""

    length: int  # tokens of a query with them
    truncates: bool = True  # whether longer queries are truncated to `length`
    is_attended: bool = False  # whether other tokens attend to them
    token: str = ""  # empty: the tokenizer's mask


@dataclass(frozen=True)
class TokenPooling:
    """Clusters of a text's similar vectors, each replaced by its mean: Clavié et al. 2024, arXiv:2409.14683."""

    factor: float  # vectors for each one that is kept
    protected: int = 1  # vectors at the beginning that are kept as they are
    normalize: bool = True  # scale all vectors to length 1 afterwards
    roles: tuple[Role, ...] = ("document",)


@dataclass(frozen=True)
class MultiVectorConfig:
    """Steps from a text to its vectors, and from two texts' vectors to their similarity."""

    modules: tuple[Module, ...] = ()  # for each token, in order; their parameters are params["multi_vector"], by number
    normalize: bool = True  # scale each vector to length 1
    prompts: tuple[tuple[str, str], ...] = ()  # (name, text); those of "query" and "document" precede such texts
    query_length: int = 0  # most tokens of a query without expansion; 0: the model's limit
    document_length: int = 0  # most tokens of a document; 0: the model's limit
    expansion: QueryExpansion | None = None  # of queries
    skipped_words: tuple[str, ...] = ()  # tokens of the vocabulary that give no vector
    skipped_roles: tuple[Role, ...] = ("document",)  # texts in which they give none
    skips_first: bool = False  # whether the first token, [CLS], gives no vector
    mean: bool = False  # divide a similarity by the number of the query's vectors (MeanMaxSim)
    pooling: TokenPooling | None = None
    is_only: bool = True  # whether the model embeds texts in no other way

    def prompt(self, role: Role) -> str:
        """The text to put before every query or document."""
        return dict(self.prompts).get(role, "")

    def size(self, hidden_size: int) -> int:
        """Length of a vector; ValueError if a module takes another length."""
        size = hidden_size
        for module in self.modules:
            inputs = getattr(module, "inputs", size)
            if inputs != size:
                raise ValueError(f"{type(module).__name__} takes vectors of size {inputs}, but gets size {size}.")
            size = getattr(module, "outputs", size)
        return size


def token_vectors(config: MultiVectorConfig, params: dict[str, Any], hidden: jax.Array) -> jax.Array:
    """The vectors [B, T, size] float32 of all tokens, from the encoder's output [B, T, D]."""
    x = hidden.astype(jnp.float32)
    for number, module in enumerate(config.modules):  # Normalize has no parameters
        x = module(params.get(str(number), {}), x)
    return Normalize()({}, x) if config.normalize else x


def expansion_tokens(token_ids: jax.Array, segment_ids: jax.Array, expansion_id: int) -> jax.Array:
    """Where a row's texts are filled up, bool [B, T]: the last tokens of a text that are all `expansion_id`.

    The text itself ends with another token, such as [SEP].
    """
    T = token_ids.shape[1]
    positions = jnp.where(token_ids != expansion_id, jnp.arange(T), T)
    following = jax.lax.cummin(positions, axis=1, reverse=True)  # of the next other token
    following_segments = jnp.take_along_axis(segment_ids, jnp.minimum(following, T - 1), axis=1)
    is_last = (following == T) | (following_segments != segment_ids)
    return is_last & (token_ids == expansion_id) & (segment_ids > 0)


def max_similarities(
    queries: jax.Array, query_mask: jax.Array, documents: jax.Array, document_mask: jax.Array, mean: bool = False
) -> jax.Array:
    """For each query and document, the sum over the query's vectors of the greatest dot product with the document's.

    Memory is bounded: queries are compared in blocks, also for the gradient, which has the same value as without.

    Args:
        queries: float32 [Q, S, D].
        query_mask: bool [Q, S], False where a query has no vector; content there does not count.
        documents: float32 [N, T, D].
        document_mask: bool [N, T].
        mean: divide by the number of the query's vectors.

    Returns:
        [Q, N] float32; -1e9 for a document without vectors.
    """
    documents = jnp.where(document_mask[..., None], documents, 0)

    @jax.checkpoint
    def of_query(query: jax.Array, is_vector: jax.Array) -> jax.Array:
        query = jnp.where(is_vector[:, None], query, 0)
        products = jnp.einsum("SD,NTD->NST", query, documents, precision=jax.lax.Precision.HIGHEST)
        best = jnp.where(document_mask[:, None], products, _FLOOR).max(-1)
        total = jnp.where(is_vector, best, 0).sum(-1)
        return total / jnp.maximum(is_vector.sum(), 1) if mean else total

    block = max(1, _SIMILARITIES // max(1, queries.shape[1] * document_mask.size))
    scores = jax.lax.map(lambda x: of_query(*x), (queries, query_mask), batch_size=min(block, max(1, len(queries))))
    return jnp.where(document_mask.any(-1), scores, _EMPTY)


def pair_max_similarities(
    queries: jax.Array, query_mask: jax.Array, documents: jax.Array, document_mask: jax.Array, mean: bool = False
) -> jax.Array:
    """`max_similarities` [N, C] of each query [N, S, D] with its own documents [N, C, T, D], and their masks."""
    each = jax.vmap(lambda q, m, d, n: max_similarities(q[None], m[None], d, n, mean)[0])
    return each(queries, query_mask, documents, document_mask)
