"""Exact nearest-neighbor search by cosine similarity over a stream, keeping only the best results so far."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxencoder.inference import embed
from jaxencoder.inference.load import opened
from jaxencoder.inference.model import OpenedModel
from jaxencoder.inference.options import DEFAULT_OPTIONS, EmbedOptions
from jaxencoder.text.buckets import padded_size
from jaxencoder.text.sources import Record, read

# Names of the prompts that sentence-transformers uses for queries and for documents.
_QUERY_PROMPTS, _DOCUMENT_PROMPTS = ("query",), ("document", "passage", "corpus")
_SCORES = 1 << 24  # scores in memory at once, 64 MiB


class Nearest(NamedTuple):
    """The k nearest to each query among the first `seen` vectors of a stream, best first."""

    scores: np.ndarray  # cosine similarities, float32 [Q, k], -inf where fewer than k vectors have been seen
    indices: np.ndarray  # positions in the stream, int32 [Q, k], -1 there
    seen: int

    @classmethod
    def empty(cls, queries: int, k: int) -> "Nearest":
        """The state before the first vector."""
        if k < 1:
            raise ValueError(f"k is {k}; give at least 1")
        return cls(np.full((queries, k), -np.inf, np.float32), np.full((queries, k), -1, np.int32), 0)

    def updated(self, query_vectors: np.ndarray, vectors: np.ndarray) -> "Nearest":
        """The state after the next vectors [n, D] of the stream; on equal scores the earlier vector wins."""
        if not (np.isfinite(query_vectors).all() and np.isfinite(vectors).all()):
            raise ValueError("the vectors hold numbers that are not finite: the model is damaged, or training diverged")
        scores, indices, seen = self
        queries = _unit(np.asarray(query_vectors, np.float32))
        block = min(padded_size(len(vectors)), max(1, _SCORES // padded_size(len(queries))))
        for start in range(0, len(vectors), block):
            part = _unit(np.asarray(vectors[start : start + block], np.float32))
            padded = np.pad(part, ((0, block - len(part)), (0, 0)))
            scores, indices = _merge(scores, indices, queries, padded, seen, len(part))
            seen += len(part)
        return Nearest(np.asarray(scores), np.asarray(indices), seen)


def rank(
    model: OpenedModel,
    queries: Sequence[str],
    records: Iterable[Record],
    k: int,
    text_field: str = "text",
    options: EmbedOptions = DEFAULT_OPTIONS,
    query_prompt: str | None = None,
) -> Iterator[tuple[list[Record], Nearest]]:
    """Search a stream of records for several queries at once, in bounded memory, and find k for each.

    Args:
        options: for documents, and for queries apart from `prompt` and `windows`: queries are truncated.
        query_prompt: prompt of queries. None, here and for the documents' `options.prompt`: the model's stored prompt
            of that kind (query; document, passage or corpus), otherwise its default prompt.

    Yields:
        (chunk of records, the nearest among all records so far); the last one is the result.
    """
    stored = {name for name, _ in model.sentence.prompts}

    def prompt(given: str | None, names: Sequence[str]) -> str | None:
        return next((name for name in names if name in stored), None) if given is None else given

    query_options = replace(options, prompt=prompt(query_prompt, _QUERY_PROMPTS), windows=None)
    options = replace(options, prompt=prompt(options.prompt, _DOCUMENT_PROMPTS))
    nearest = Nearest.empty(len(queries), k)
    query_vectors = embed.embed(model, queries, query_options)
    for chunk, vectors in embed.embed_source(model, records, text_field, options):
        nearest = nearest.updated(query_vectors, vectors)
        yield chunk, nearest


def search(
    run: str | Path | OpenedModel,
    source: str,
    query: str,
    k: int = 5,
    text_field: str = "text",
    options: EmbedOptions = DEFAULT_OPTIONS,
    query_prompt: str | None = None,
) -> list[tuple[float, Record]]:
    """Find the k records of a source whose texts are most similar to a query: (cosine similarity, record), best first.

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


@jax.jit
def _merge(
    scores: jax.Array, indices: jax.Array, queries: jax.Array, vectors: jax.Array, first: int, count: int
) -> tuple[jax.Array, jax.Array]:
    """The best of the earlier results [Q, k] and of `count` new vectors [N, D], padded to N."""
    new = jnp.clip(jnp.einsum("QD,ND->QN", queries, vectors, precision=jax.lax.Precision.HIGHEST), -1, 1)
    numbers = jnp.arange(len(vectors), dtype=jnp.int32)
    new = jnp.where(numbers < count, new, -jnp.inf)
    # top_k prefers the first of equal scores: earlier results, then the earlier vector.
    best, at = jax.lax.top_k(jnp.concatenate([scores, new], axis=1), scores.shape[1])
    numbers = jnp.broadcast_to(numbers + first, new.shape)
    return best, jnp.take_along_axis(jnp.concatenate([indices, numbers], axis=1), at, axis=1)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
