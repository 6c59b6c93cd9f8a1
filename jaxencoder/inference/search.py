"""Exact nearest-neighbor search over a stream by the model's similarity, keeping only the best results so far."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import sparse

from jaxencoder.inference import embed
from jaxencoder.inference.load import opened
from jaxencoder.inference.model import OpenedModel
from jaxencoder.inference.options import DEFAULT_OPTIONS, EmbedOptions
from jaxencoder.inference.token_vectors import embed_tokens, gives_token_vectors, similarities
from jaxencoder.model.sentence import Similarity
from jaxencoder.model.similarity import check_finite, similarity_matrix, sparse_similarities, unit
from jaxencoder.model.sparse import SparseVectors
from jaxencoder.text.buckets import padded_size
from jaxencoder.text.sources import Record, read

log = logging.getLogger(__name__)

# Names of prompts for documents beside "document", which sentence-transformers does not use by itself.
_OTHER_DOCUMENT_PROMPTS = ("passage", "corpus")
_SCORES = 1 << 24  # scores in memory at once, 64 MiB


class Nearest(NamedTuple):
    """The k nearest to each query among the first `seen` vectors of a stream, best first."""

    scores: np.ndarray  # similarities, float32 [Q, k], -inf where fewer than k vectors have been seen
    indices: np.ndarray  # positions in the stream, int32 [Q, k], -1 there
    seen: int

    @classmethod
    def empty(cls, queries: int, k: int) -> "Nearest":
        """The state before the first vector."""
        if k < 1:
            raise ValueError(f"k is {k}; give at least 1")
        return cls(np.full((queries, k), -np.inf, np.float32), np.full((queries, k), -1, np.int32), 0)

    def updated(self, query_vectors: Any, vectors: Any, similarity: Similarity = "cosine") -> "Nearest":
        """The state after the next vectors [n, D] of the stream; on equal scores the earlier vector wins.

        Queries and vectors are arrays, or both are csr_arrays.
        """
        check_finite(query_vectors)
        check_finite(vectors)
        if isinstance(vectors, sparse.csr_array):
            return self._updated_sparse(query_vectors, vectors, similarity)
        scores, indices, seen = self
        queries, vectors = np.asarray(query_vectors, np.float32), np.asarray(vectors, np.float32)
        if similarity == "cosine":
            queries, vectors = unit(queries), unit(vectors)
        block = min(padded_size(len(vectors)), max(1, _SCORES // padded_size(len(queries))))
        for start in range(0, len(vectors), block):
            part = vectors[start : start + block]
            padded = np.pad(part, ((0, block - len(part)), (0, 0)))
            scores, indices = _merge(similarity, scores, indices, queries, padded, seen, len(part))
            seen += len(part)
        return Nearest(np.asarray(scores), np.asarray(indices), seen)

    def _updated_sparse(self, queries: SparseVectors, vectors: SparseVectors, similarity: Similarity) -> "Nearest":
        nearest, block = self, max(1, _SCORES // max(1, queries.shape[0]))
        for start in range(0, vectors.shape[0], block):
            nearest = nearest.with_scores(sparse_similarities(similarity, queries, vectors[start : start + block]))
        return nearest

    def with_scores(self, scores: np.ndarray) -> "Nearest":
        """The state after more of the stream, of scores [Q, n]; on equal scores the earlier one wins."""
        k, numbers = self.scores.shape[1], np.arange(self.seen, self.seen + scores.shape[1], dtype=np.int32)
        values = np.concatenate([self.scores, scores.astype(np.float32)], axis=1)
        indices = np.concatenate([self.indices, np.broadcast_to(numbers, scores.shape)], axis=1)
        best = np.argsort(-values, axis=1, kind="stable")[:, :k]
        values, indices = (np.take_along_axis(x, best, axis=1) for x in (values, indices))
        return Nearest(values, indices, self.seen + scores.shape[1])


def rank(
    model: OpenedModel,
    queries: Sequence[str],
    records: Iterable[Record],
    k: int,
    text_field: str = "text",
    options: EmbedOptions = DEFAULT_OPTIONS,
    query_prompt: str | None = None,
    watch: Callable[[Any, Any], object] | None = None,
) -> Iterator[tuple[list[Record], Nearest]]:
    """Search a stream of records for several queries at once, in bounded memory, and find k for each.

    Vectors are compared by the model's `sentence.similarity`. A distance is a negative score.

    Args:
        options: for documents, and for queries apart from `prompt` and `windows`: queries are truncated.
        query_prompt: prompt of queries. None, here and for the documents' `options.prompt`: the model's stored prompt
            "query" or "document", otherwise none, as in sentence-transformers.
        watch: called with the vectors of the queries and of each chunk, unless tokens have vectors of their own.

    Yields:
        (chunk of records, the nearest among all records so far); the last one is the result.
    """
    if gives_token_vectors(model, options):
        if query_prompt is not None or options.prompt is not None:
            raise ValueError("this model has prompts of its own for queries and documents; leave the prompts out")
        yield from _rank_by_tokens(model, queries, records, k, text_field, options)
        return
    query_options, options = search_options(model, options, query_prompt)
    nearest = Nearest.empty(len(queries), k)
    query_vectors = embed.embed(model, queries, query_options)
    for chunk, vectors in embed.embed_source(model, records, text_field, options):
        nearest = nearest.updated(query_vectors, vectors, model.sentence.similarity)
        if watch:
            watch(query_vectors, vectors)
        yield chunk, nearest


def search_options(
    model: OpenedModel, options: EmbedOptions, query_prompt: str | None
) -> tuple[EmbedOptions, EmbedOptions]:
    """The options of queries and of documents, with the prompts that `rank` describes."""
    stored = dict(model.sentence.prompts)
    query_prompt = _stored_name("query", stored) if query_prompt is None else query_prompt
    query_options = replace(options, prompt=query_prompt, windows=None)
    if options.prompt is None:
        if unused := [name for name in _OTHER_DOCUMENT_PROMPTS if stored.get(name) and not stored.get("document")]:
            advice = "as in sentence-transformers; name the prompt if they should have it"
            log.warning("The model's prompt %r is not put before documents, %s.", unused[0], advice)
        options = replace(options, prompt=_stored_name("document", stored))
    return replace(query_options, role="query"), replace(options, role="document")


def _rank_by_tokens(
    model: OpenedModel,
    queries: Sequence[str],
    records: Iterable[Record],
    k: int,
    text_field: str,
    options: EmbedOptions,
) -> Iterator[tuple[list[Record], Nearest]]:
    """`rank` by the vectors of tokens."""
    nearest = Nearest.empty(len(queries), k)
    matrices = embed_tokens(model, queries, replace(options, prompt="query", max_length=None, pool_factor=None))
    for chunk, documents in embed.embed_source(model, records, text_field, replace(options, prompt="document")):
        nearest = nearest.with_scores(similarities(model, matrices, documents))
        yield chunk, nearest


def _stored_name(name: str, stored: Mapping[str, str]) -> str:
    """The name of a stored prompt; "" for no prompt, if there is none of the name."""
    return name if name in stored else ""


def search(
    run: str | Path | OpenedModel,
    source: str,
    query: str,
    k: int = 5,
    text_field: str = "text",
    options: EmbedOptions = DEFAULT_OPTIONS,
    query_prompt: str | None = None,
) -> list[tuple[float, Record]]:
    """Find the k records of a source whose texts are most similar to a query: (similarity, record), best first.

    `run` is anything that `load` takes, or an open model. `source`, as in `jaxencoder.text.sources`, is read once, in
    bounded memory. `options` and `query_prompt` are as for `rank`.
    """
    if k < 1:  # before the model is loaded
        raise ValueError(f"k is {k}; give at least 1")
    records = read(source, text_field=text_field)
    best: dict[int, Record] = {}  # by position in the source, best first
    seen, scores = 0, ()
    for chunk, nearest in rank(opened(run), [query], records, k, text_field, options, query_prompt):
        indices = [i for i in nearest.indices[0].tolist() if i >= 0]
        best = {i: best[i] if i in best else chunk[i - seen] for i in indices}
        seen, scores = nearest.seen, nearest.scores[0]
    return [(float(score), record) for score, record in zip(scores, best.values(), strict=False)]


@partial(jax.jit, static_argnums=0)
def _merge(
    similarity: Similarity,
    scores: jax.Array,
    indices: jax.Array,
    queries: jax.Array,
    vectors: jax.Array,
    first: int,
    count: int,
) -> tuple[jax.Array, jax.Array]:
    """The best of the earlier results [Q, k] and of `count` new vectors [N, D], padded to N."""
    new = similarity_matrix(similarity, queries, vectors)
    numbers = jnp.arange(len(vectors), dtype=jnp.int32)
    new = jnp.where(numbers < count, new, -jnp.inf)
    # top_k prefers the first of equal scores: earlier results, then the earlier vector.
    best, at = jax.lax.top_k(jnp.concatenate([scores, new], axis=1), scores.shape[1])
    numbers = jnp.broadcast_to(numbers + first, new.shape)
    return best, jnp.take_along_axis(jnp.concatenate([indices, numbers], axis=1), at, axis=1)
