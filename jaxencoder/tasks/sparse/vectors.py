"""Sparse vectors of texts by an opened model, as matrices of scipy."""

from collections.abc import Callable, Sequence
from functools import partial

import jax
import numpy as np
from scipy import sparse

from jaxencoder.model.config import ComputeConfig, EncoderConfig
from jaxencoder.model.sparse import QUERY_TABLE, SparseConfig, SparseVectors, sparse_vectors
from jaxencoder.objectives.objective import Batch, Params
from jaxencoder.tasks.running import encoder_output
from jaxencoder.tasks.task import TaskModel
from jaxencoder.text.buckets import max_texts_per_row, require_tokenizer, tokenize


def text_vectors(
    model: TaskModel,
    config: SparseConfig,
    texts: Sequence[str],
    is_query: bool = False,
    prompt: str = "",
    limit: int = 0,
    batch_tokens: int | None = None,
    progress: Callable[[int], object] = lambda number: None,
) -> tuple[SparseVectors, int]:
    """The vectors float32 [N, V] of texts, and how many texts were truncated.

    Args:
        model: with a masked-language-model head.
        config: how its scores become vectors.
        is_query: whether the texts are queries, which may have a table.
        prompt: put before each text.
        limit: most tokens of a text for the encoder; 0: the model's.
        batch_tokens: see `EmbedOptions`.
        progress: called with the number of texts that are done.
    """
    if is_query and config.queries == "table":
        result = _by_table(model, config, texts, prompt)
        progress(len(texts))
        return result
    limit = limit or model.max_length
    ids, truncated = tokenize(model.tokenizer, texts, limit, prompt)
    scores = partial(_row_vectors, model.config.model, model.compute, config)
    parts, order = [sparse.csr_array((0, model.config.model.vocab_size), dtype=np.float32)], []
    for plan, values in model.run(scores, ids, batch_tokens, limit):
        parts.append(sparse.csr_array(values[plan.row, plan.segment]))
        order.append(plan.texts)
        progress(len(plan.texts))
    vectors: SparseVectors = sparse.vstack(parts, format="csr")
    return vectors[np.argsort(np.concatenate(order))] if order else vectors, truncated


def _by_table(model: TaskModel, config: SparseConfig, texts: Sequence[str], prompt: str) -> tuple[SparseVectors, int]:
    """The weight of each token of a query, special tokens excluded."""
    weight = np.asarray(model.params[QUERY_TABLE]["weight"], np.float32)
    tokenizer = require_tokenizer(model.tokenizer)
    encoded = tokenizer.encode_batch([prompt + x for x in texts], special=False, max_length=config.query_length)
    tokens = [np.unique(encoding.ids) for encoding in encoded]
    if config.max_active is not None:
        # The first of equal weights stay.
        tokens = [ids[np.argsort(-np.abs(weight[ids]), kind="stable")[: config.max_active]] for ids in tokens]
        tokens = [np.sort(ids) for ids in tokens]
    indices = np.concatenate([np.zeros(0, np.int32), *tokens])
    ends = np.cumsum([0, *map(len, tokens)])
    vectors = sparse.csr_array((weight[indices], indices, ends), shape=(len(tokens), len(weight)))
    vectors.eliminate_zeros()
    return vectors, sum(encoding.is_truncated for encoding in encoded)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _row_vectors(
    encoder: EncoderConfig, compute: ComputeConfig, config: SparseConfig, params: Params, rows: Batch
) -> jax.Array:
    """The vector of each text of each packed row, float32 [B, E, V]."""
    hidden, segment_ids = encoder_output(encoder, compute, params, rows), rows["segment_ids"]
    return sparse_vectors(config, encoder, params, hidden, segment_ids, max_texts_per_row(segment_ids.shape[1]))
