"""The nearest texts by cosine similarity: exact, in one pass, with nothing kept but the best so far."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jaxencoder.inference import embed
from jaxencoder.model.heads import Pooling
from jaxencoder.text.sources import Record, read

if TYPE_CHECKING:
    from jaxencoder.inference.model import Model

# Names of the prompts that sentence-transformers takes for a query and for what is searched.
_QUERIES, _DOCUMENTS = ("query",), ("document", "passage", "corpus")


def most_similar(query_vectors: np.ndarray, vectors: np.ndarray, k: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """The k vectors nearest to each query by cosine similarity.

    Args:
        query_vectors: [Q, D].
        vectors: [N, D].
        k: how many; N at most.

    Returns:
        (scores float32 [Q, k] in [-1, 1], best first; indices int64 [Q, k]); of equals the first in the order, and a
        vector of zeros scores 0.

    Raises:
        ValueError: k is not positive, or the sizes of the vectors differ.
    """
    if k < 1:
        raise ValueError(f"k is {k}; give at least 1")
    queries, vectors = np.asarray(query_vectors, np.float32), np.asarray(vectors, np.float32)
    if queries.ndim != 2 or vectors.ndim != 2 or queries.shape[1] != vectors.shape[1]:
        raise ValueError(f"shapes {queries.shape} and {vectors.shape} are not [Q, D] and [N, D]")
    scores = np.clip(_unit(queries) @ _unit(vectors).T, -1, 1)
    indices = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, indices, axis=1), indices


def search(
    run: str | Path | Model,
    source: str,
    query: str,
    k: int = 5,
    pooling: Pooling | None = None,
    text_field: str = "text",
    batch_tokens: int = 8192,
) -> list[tuple[float, Record]]:
    """The k records of a source whose texts are most like a query.

    A model that has prompts for queries and documents gets them.

    Args:
        run: folder of a run, or an open model.
        source: as in `jaxencoder.text.sources`; read once, in bounded memory.
        query: a text.
        pooling, batch_tokens: as in `Model.embed`.

    Returns:
        (cosine similarity, record), best first.
    """
    from jaxencoder.inference.load import opened

    if k < 1:
        raise ValueError(f"k is {k}; give at least 1")
    records = read(source, text_field=text_field)
    model = opened(run)
    names = dict(model.sentence.prompts)
    asked, stored = (next((name for name in group if name in names), None) for group in (_QUERIES, _DOCUMENTS))
    queries = embed.embed(model, [query], pooling, prompt=asked)
    best: list[tuple[float, Record]] = []
    options = {"prompt": stored, "batch_tokens": batch_tokens}
    for chunk, vectors in embed.embed_source(model, records, text_field, pooling, **options):
        scores, indices = most_similar(queries, vectors, k)
        best += [(float(score), chunk[i]) for score, i in zip(scores[0], indices[0], strict=True)]
        best = sorted(best, key=lambda item: -item[0])[:k]
    return best


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
