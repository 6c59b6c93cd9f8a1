"""What retrieval loses with shorter vectors (Kusupati et al. 2022, Matryoshka, arXiv:2205.13147) and with fewer bits.

Quantized vectors are searched as in sentence-transformers, with quantized queries: bytes by their dot product, bits by
the Hamming distance; and with rescoring, in which the query in float32 orders the best candidates anew.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxencoder.evaluation.retrieval import (
    MAX_RANK,
    SPARE,
    judged_queries,
    ranked_ids,
    ranking_metrics,
    read_corpus,
    warn_of_absent,
)
from jaxencoder.evaluation.vectors import text_vectors
from jaxencoder.inference.model import OpenedModel
from jaxencoder.inference.options import DEFAULT_OPTIONS, EmbedOptions, Precision
from jaxencoder.inference.quantize import compared_values, dequantize, quantize, value_ranges
from jaxencoder.inference.search import Nearest, search_options
from jaxencoder.model.config import Similarity
from jaxencoder.model.similarity import pair_similarities, unit
from jaxencoder.text.messages import listed

PRECISIONS: tuple[Precision, ...] = ("float32", "int8", "binary")


class Result(NamedTuple):
    """The documents found for each query."""

    scores: np.ndarray  # float [Q, k], -inf for none
    indices: np.ndarray  # int [Q, k], -1 for none


def search_compressed(
    queries: np.ndarray, documents: np.ndarray, similarity: Similarity, precision: Precision, k: int, rescore: int
) -> tuple[Result, Result | None, int]:
    """Search documents [N, D] for queries [Q, D], both float32, with quantized vectors.

    Bytes divide the ranges of the documents' numbers. With cosines vectors are scaled to length 1 first.

    Args:
        k: number of documents to find.
        rescore: candidates for each of these k in rescoring; 0: no rescoring.

    Returns:
        What is found without rescoring, what with it (None without, and for float32), and the bytes of one vector.
    """
    if similarity == "cosine":
        queries, documents = unit(queries), unit(documents)
    if precision == "float32":
        nearest = Nearest.empty(len(queries), k).updated(queries, documents, similarity)
        return Result(nearest.scores, nearest.indices), None, documents[0].nbytes
    ranges, size = value_ranges(documents), documents.shape[1]
    codes = quantize(documents, precision, ranges)
    query_values, values = (compared_values(x, precision, size) for x in (quantize(queries, precision, ranges), codes))
    is_angle = similarity in ("cosine", "dot") or precision in ("binary", "ubinary")
    quantized_similarity: Similarity = "dot" if is_angle else similarity
    nearest = Nearest.empty(len(queries), k * max(rescore, 1)).updated(query_values, values, quantized_similarity)
    first = Result(nearest.scores[:, :k], nearest.indices[:, :k])
    if not rescore:
        return first, None, codes[0].nbytes
    scores = np.full(nearest.indices.shape, -np.inf)
    for row, (query, indices) in enumerate(zip(queries, nearest.indices, strict=True)):
        candidates = dequantize(codes[indices[indices >= 0]], precision, size, ranges)
        scores[row, : len(candidates)] = pair_similarities(
            "dot" if similarity == "cosine" else similarity, np.broadcast_to(query, candidates.shape), candidates
        )
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    rescored = Result(*(np.take_along_axis(x, best, 1) for x in (scores, nearest.indices)))
    return first, rescored, codes[0].nbytes


def evaluate_compression(
    model: OpenedModel,
    folder: str | Path,
    split: str = "test",
    dimensions: Sequence[int] = (),
    precision: Sequence[Precision] = PRECISIONS,
    rescore: int = 4,
    options: EmbedOptions = DEFAULT_OPTIONS,
    query_prompt: str | None = None,
) -> dict[str, dict[str, Any]]:
    """Evaluate a model's vectors on a BEIR folder, truncated and quantized; all vectors are in memory at once.

    Args:
        folder, split, query_prompt: as in `evaluate_retrieval`.
        dimensions: numbers of leading dimensions; none: all.
        precision: of vectors, see `quantize`.
        rescore: candidates for each result that the query scores anew, in float32; 0: no rescoring.
        options: of the vectors, without dimensions.

    Returns:
        By names such as "64 int8" and "64 int8 rescored" for each pair of dimensions and precision: bytes of a vector;
        relative, ndcg@10 over that of the first; and `ranking_metrics`.

    Raises:
        ValueError: as in `evaluate_retrieval`, or more dimensions than the vectors have.
    """
    if rescore < 0:
        raise ValueError(f"rescore is {rescore}; give 0 for no rescoring, or a number of candidates for each result")
    if model.sentence.sparse is not None:
        problem = "the model gives sparse vectors, which are not quantized"
        raise ValueError(f"{problem}; measure them with evaluate retrieval, where max_active_dims shortens them")
    folder = Path(folder)
    queries, relevances = judged_queries(folder, split)
    corpus = {record["_id"]: record["text"] for record in read_corpus(folder)}
    warn_of_absent(list(corpus), relevances, folder)
    query_options, document_options = search_options(model, options, query_prompt)
    query_vectors = text_vectors(model, list(queries.values()), query_options)
    vectors = text_vectors(model, list(corpus.values()), document_options)
    sizes = dimensions or (vectors.shape[1],)
    if wrong := [size for size in sizes if not 1 <= size <= vectors.shape[1]]:
        raise ValueError(
            f"dimensions {listed(map(str, wrong))} are not in 1 to {vectors.shape[1]}, those of the vectors"
        )
    rows: dict[str, dict[str, Any]] = {}
    for size in sizes:
        for kind in precision:
            sides = query_vectors[:, :size], vectors[:, :size]
            *results, count = search_compressed(*sides, model.sentence.similarity, kind, SPARE * MAX_RANK, rescore)
            for name, result in zip((f"{size} {kind}", f"{size} {kind} rescored"), results, strict=True):
                if result is not None:
                    rankings = ranked_ids(list(queries), list(corpus), *result, MAX_RANK)
                    rows[name] = {"bytes": count} | ranking_metrics(rankings, relevances)
    full = next(iter(rows.values()))["ndcg@10"]
    return {
        name: {"bytes": row["bytes"], "relative": row["ndcg@10"] / full if full else 0.0} | row
        for name, row in rows.items()
    }
