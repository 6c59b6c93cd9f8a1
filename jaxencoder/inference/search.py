"""The nearest texts by cosine similarity: exact, in one pass, with nothing kept but the best so far."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxencoder.inference import embed
from jaxencoder.inference.load import opened
from jaxencoder.inference.model import OpenedModel
from jaxencoder.model.heads import Pooling
from jaxencoder.text.sources import Record, read

# Names of the prompts that sentence-transformers takes for a query and for what is searched.
_QUERIES, _DOCUMENTS = ("query",), ("document", "passage", "corpus")
_SCORES = 1 << 24  # scores in memory at once, 64 MiB


class Nearest(NamedTuple):
    """The nearest to each query among the `seen` first vectors of a stream, best first."""

    scores: np.ndarray  # float32 [Q, k] in [-1, 1], -inf where fewer than k vectors were seen
    indices: np.ndarray  # int32 [Q, k], -1 there
    seen: int

    @classmethod
    def of_none(cls, queries: int, k: int) -> Nearest:
        """Before the first vector."""
        if k < 1:
            raise ValueError(f"k is {k}; give at least 1")
        return cls(np.full((queries, k), -np.inf, np.float32), np.full((queries, k), -1, np.int32), 0)

    def with_more(self, query_vectors: np.ndarray, vectors: np.ndarray) -> Nearest:
        """After the next vectors [n, D] of the stream; of equals the first in the order stay.

        Raises:
            ValueError: a number that is not finite, which is near to nothing.
        """
        if not (np.isfinite(query_vectors).all() and np.isfinite(vectors).all()):
            raise ValueError("the vectors hold numbers that are not finite: the model is damaged, or training diverged")
        scores, indices, seen = self
        queries = _unit(np.asarray(query_vectors, np.float32))
        # Powers of two: few shapes to compile, whatever the number of vectors.
        block = min(_power_of_two(len(vectors)), max(1, _SCORES // _power_of_two(len(queries))))
        for start in range(0, len(vectors), block):
            part = _unit(np.asarray(vectors[start : start + block], np.float32))
            padded = np.pad(part, ((0, block - len(part)), (0, 0)))
            scores, indices = _merged(scores, indices, queries, padded, seen, len(part))
            seen += len(part)
        return Nearest(np.asarray(scores), np.asarray(indices), seen)


def rank(
    model: OpenedModel,
    queries: Sequence[str],
    records: Iterable[Record],
    k: int,
    text_field: str = "text",
    pooling: Pooling | tuple[Pooling, ...] | None = None,
    batch_tokens: int | None = None,
    query_prompt: str | None = None,
    document_prompt: str | None = None,
    **windows: Any,
) -> Iterator[tuple[list[Record], Nearest]]:
    """Search a stream of records for several queries at once, in bounded memory.

    Args:
        model: an open model.
        queries: texts.
        records: what is searched.
        k: how many records to find for each query.
        text_field: the field of a record that holds its text.
        pooling, batch_tokens: as in `Model.embed`.
        query_prompt, document_prompt: of queries and of what is searched, as the prompt of `Model.embed`; None: the
            model's own for them (called query; document, passage or corpus), if any, else its default one.
        windows: long, stride and window_pooling, likewise, of what is searched; a query is cut.

    Returns:
        After each part of the stream (its records, the nearest among all until then): the last one is the result.
    """
    names = dict(model.sentence.prompts)
    own = (next((name for name in group if name in names), None) for group in (_QUERIES, _DOCUMENTS))
    given = (query_prompt, document_prompt)
    asked, stored = (of_model if prompt is None else prompt for prompt, of_model in zip(given, own, strict=True))
    found = Nearest.of_none(len(queries), k)
    vectors = embed.embed(model, queries, pooling, prompt=asked, batch_tokens=batch_tokens)
    options = {"prompt": stored, "batch_tokens": batch_tokens, **windows}
    for chunk, others in embed.embed_source(model, records, text_field, pooling, **options):
        found = found.with_more(vectors, others)
        yield chunk, found


def search(
    run: str | Path | OpenedModel,
    source: str,
    query: str,
    k: int = 5,
    pooling: Pooling | None = None,
    text_field: str = "text",
    batch_tokens: int | None = None,
    query_prompt: str | None = None,
    document_prompt: str | None = None,
    **windows: Any,
) -> list[tuple[float, Record]]:
    """The k records of a source whose texts are most like a query.

    Args:
        run: folder of a run, or an open model.
        source: as in `jaxencoder.text.sources`; read once, in bounded memory.
        query: a text.
        pooling, batch_tokens: as in `Model.embed`. query_prompt, document_prompt, windows: as in `rank`.

    Returns:
        (cosine similarity, record), best first.
    """
    if k < 1:
        raise ValueError(f"k is {k}; give at least 1")
    records = read(source, text_field=text_field)
    kept: dict[int, Record] = {}
    seen, scores = 0, ()
    options = (pooling, batch_tokens, query_prompt, document_prompt)
    for chunk, found in rank(opened(run), [query], records, k, text_field, *options, **windows):
        best = [i for i in found.indices[0].tolist() if i >= 0]
        kept = {i: kept[i] if i in kept else chunk[i - seen] for i in best}
        seen, scores = found.seen, found.scores[0]
    return [(float(score), record) for score, record in zip(scores, kept.values(), strict=False)]


@jax.jit
def _merged(
    scores: jax.Array, indices: jax.Array, queries: jax.Array, vectors: jax.Array, first: int, count: int
) -> tuple[jax.Array, jax.Array]:
    """The best of those found before and of the next vectors, `count` of them and then padding."""
    new = jnp.clip(jnp.einsum("QD,ND->QN", queries, vectors, precision=jax.lax.Precision.HIGHEST), -1, 1)
    numbers = jnp.arange(len(vectors), dtype=jnp.int32)
    new = jnp.where(numbers < count, new, -jnp.inf)
    # Of equal scores top_k takes the first: those found before, then the earlier vector.
    best, at = jax.lax.top_k(jnp.concatenate([scores, new], axis=1), scores.shape[1])
    numbers = jnp.broadcast_to(numbers + first, new.shape)
    return best, jnp.take_along_axis(jnp.concatenate([indices, numbers], axis=1), at, axis=1)


def _power_of_two(number: int) -> int:
    return 1 << max(0, number - 1).bit_length()


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
