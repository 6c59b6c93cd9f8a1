"""The vectors of texts' tokens by an opened model, and the similarities of texts by them."""

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxencoder.model.config import ComputeConfig, EncoderConfig, Role
from jaxencoder.model.multi_vector import (
    MultiVectorConfig,
    QueryExpansion,
    expansion_tokens,
    max_similarities,
    token_vectors,
)
from jaxencoder.model.similarity import check_finite
from jaxencoder.objectives.objective import Batch, Params
from jaxencoder.tasks.multi_vector.token_pooling import pooled
from jaxencoder.tasks.running import encoder_output
from jaxencoder.tasks.task import TaskModel
from jaxencoder.text.buckets import padded_size, require_tokenizer, tokenize, warn_truncated
from jaxencoder.text.tokenizers.tokenizer import Tokenizer

_BLOCK_TOKENS = 1 << 16  # of documents that are compared at once
_QUERIES = 256  # that are compared at once


def text_limit(model: TaskModel, config: MultiVectorConfig, role: Role) -> int:
    """The most tokens of a query or document, with special tokens and expansion."""
    expansion = config.expansion if role == "query" else None
    if expansion is not None and expansion.truncates:
        return model.limit(expansion.length)
    length = (config.query_length if role == "query" else config.document_length) or model.max_length
    positions = model.config.model.max_length
    length = min(length, positions) if model.config.model.positions == "learned" else length
    return model.limit(length if expansion is None else max(length, expansion.length))


def expanded(ids: Sequence[np.ndarray], expansion: QueryExpansion | None, tokenizer: Tokenizer) -> list[np.ndarray]:
    """The ids of queries, filled up by `expansion`; as they are for None."""
    if expansion is None:
        return list(ids)
    fill = np.full(expansion.length, expansion_id(expansion, tokenizer), np.int32)
    return [np.concatenate([x, fill[len(x) :]]) for x in ids]


def expansion_id(expansion: QueryExpansion, tokenizer: Tokenizer) -> int:
    """The id of the token that fills queries up; ValueError if the tokenizer lacks it."""
    if not expansion.token:
        return tokenizer.mask_id
    if (token_id := tokenizer.token_id(expansion.token)) is None:
        raise ValueError(f"queries are expanded by {expansion.token!r}, a token that the tokenizer lacks; name another")
    return token_id


def skipped_ids(config: MultiVectorConfig, role: Role, tokenizer: Tokenizer) -> tuple[int, ...]:
    """The ids of tokens that give no vector in a query or document; words that are no token do not count."""
    words = config.skipped_words if role in config.skipped_roles else ()
    return tuple(sorted({i for word in words if (i := tokenizer.token_id(word)) is not None}))


def text_matrices(
    model: TaskModel,
    config: MultiVectorConfig,
    texts: Sequence[str],
    role: Role,
    batch_tokens: int | None = None,
    progress: Callable[[int], object] = lambda number: None,
) -> tuple[list[np.ndarray], int]:
    """The vectors float32 [n, size] of each text's tokens, and the number of texts that were truncated."""
    tokenizer, limit = require_tokenizer(model.tokenizer), text_limit(model, config, role)
    ids, truncated = tokenize(tokenizer, texts, limit, config.prompt(role))
    expansion = config.expansion if role == "query" else None
    ids = expanded(ids, expansion, tokenizer)
    fill = None if expansion is None or expansion.is_attended else expansion_id(expansion, tokenizer)
    steps = MultiVectorConfig(config.modules, config.normalize)  # the other settings need no other program
    function = partial(row_vectors, model.config.model, model.compute, steps, fill)
    skipped, first = skipped_ids(config, role, tokenizer), int(config.skips_first)
    matrices: list[np.ndarray] = [np.empty(0)] * len(ids)
    for plan, values in model.run(function, ids, batch_tokens, limit):
        for i, row, start in zip(plan.texts.tolist(), plan.row, plan.start, strict=True):
            vectors = values[row, start + first : start + len(ids[i])]
            vectors = vectors[~np.isin(ids[i][first:], skipped)]
            if config.pooling is not None and role in config.pooling.roles:
                vectors = pooled(config.pooling, vectors)
            matrices[i] = vectors
        progress(len(plan.texts))
    return matrices, truncated


def checked_matrices(
    model: TaskModel, config: MultiVectorConfig, texts: Sequence[str], role: Role, batch_tokens: int | None = None
) -> list[np.ndarray]:
    """The vectors of `text_matrices`, with one warning if texts were truncated."""
    matrices, truncated = text_matrices(model, config, texts, role, batch_tokens)
    kind = "queries" if role == "query" else "texts"
    warn_truncated(truncated, len(matrices), text_limit(model, config, role), kind)
    return matrices


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def row_vectors(
    encoder: EncoderConfig,
    compute: ComputeConfig,
    config: MultiVectorConfig,
    expansion_id: int | None,
    params: Params,
    rows: Batch,
) -> jax.Array:
    """The vectors [B, T, size] float32 of packed rows; no token attends to those that fill up queries by this id."""
    rows = rows if expansion_id is None else with_hidden_tokens(rows, expansion_id)
    hidden = encoder_output(encoder, compute, params, rows)
    return token_vectors(config, params.get("multi_vector", {}), hidden)


def with_hidden_tokens(rows: Batch, expansion_id: int) -> Batch:
    """Packed rows in which no token attends to those that fill up queries."""
    is_hidden = expansion_tokens(rows["token_ids"], rows["segment_ids"], expansion_id)
    return {**rows, "key_segment_ids": jnp.where(is_hidden, -1, rows["segment_ids"])}


def matrix_similarities(
    config: MultiVectorConfig, queries: Sequence[np.ndarray], documents: Sequence[np.ndarray]
) -> np.ndarray:
    """The similarities float32 [Q, N] of queries and documents by their vectors [n, D], in bounded memory.

    ValueError for vectors that are not finite.
    """
    scores = np.zeros((len(queries), len(documents)), np.float32)
    by_length = np.argsort([len(x) for x in documents], kind="stable")
    for q in range(0, len(queries), _QUERIES):
        query_block = _padded(queries[q : q + _QUERIES])
        start = 0
        while start < len(by_length):
            length = padded_size(max(len(documents[by_length[start]]), 16))
            block = by_length[start : start + max(1, _BLOCK_TOKENS // length)]
            block = block[[len(documents[i]) <= length for i in block]]
            rows = min(padded_size(len(block)), max(1, _BLOCK_TOKENS // length))
            values = _similarities(*query_block, *_padded([documents[i] for i in block], rows, length), config.mean)
            scores[q : q + _QUERIES, block] = np.asarray(values)[: len(queries) - q, : len(block)]
            start += len(block)
    return check_finite(scores)


_similarities = jax.jit(max_similarities, static_argnums=4)


def _padded(matrices: Sequence[np.ndarray], rows: int = 0, length: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The matrices [n, D] as float32 [rows, length, D], by default powers of two, and where they are, bool."""
    rows, length = rows or padded_size(len(matrices)), length or padded_size(max(map(len, matrices)))
    array = np.zeros((rows, length, matrices[0].shape[1]), np.float32)
    mask = np.zeros((rows, length), bool)
    for i, matrix in enumerate(matrices):
        array[i, : len(matrix)], mask[i, : len(matrix)] = matrix, True
    return array, mask


def pair_scores(
    model: TaskModel, queries: Sequence[str], texts: Sequence[str], batch_tokens: int | None = None
) -> np.ndarray:
    """The similarity of each query and its text, float64 [N], by a model with `multi_vector` settings."""
    config = model.multi_vector
    assert config is not None
    rows: dict[str, list[int]] = {}
    for i, query in enumerate(queries):
        rows.setdefault(query, []).append(i)
    numbers = {text: i for i, text in enumerate(dict.fromkeys(texts))}
    query_matrices = checked_matrices(model, config, list(rows), "query", batch_tokens)
    matrices = checked_matrices(model, config, list(numbers), "document", batch_tokens)
    scores = np.zeros(len(texts))
    for query, members in zip(query_matrices, rows.values(), strict=True):
        scores[members] = matrix_similarities(config, [query], [matrices[numbers[texts[i]]] for i in members])[0]
    return scores
