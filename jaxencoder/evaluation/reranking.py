"""Reranking: score the first results of a search with a cross-encoder, and evaluate the new order.

Nogueira and Cho 2019, arXiv:1901.04085; on the sets of BEIR, Thakur et al. 2021, arXiv:2104.08663, section 4.
"""

from pathlib import Path
from typing import Any

import numpy as np

from jaxencoder.evaluation.retrieval import MAX_RANK, ranking_metrics, read_corpus, search_folder
from jaxencoder.inference.load import opened
from jaxencoder.inference.model import OpenedModel
from jaxencoder.inference.options import DEFAULT_OPTIONS, EmbedOptions
from jaxencoder.inference.rerank import check_cross_encoder, score_pairs


def evaluate_reranking(
    model: OpenedModel,
    folder: str | Path,
    first: str | Path | OpenedModel,
    k: int = 100,
    split: str = "test",
    options: EmbedOptions = DEFAULT_OPTIONS,
    query_prompt: str | None = None,
) -> dict[str, Any]:
    """Search a BEIR folder with one model, and reorder its first results by another's scores.

    Args:
        model: a cross-encoder, see `score_pairs`.
        folder, split: as in `evaluate_retrieval`.
        first: the model that searches, or its folder or name.
        k: number of documents to score per query; the others keep their order.
        options, query_prompt: of the first model, as for `rank`. `options.batch_tokens` is for both models.

    Returns:
        queries, documents and candidates (the number of scored pairs), `ranking_metrics`, and the metrics of the search
        alone with the prefix "first_".

    Raises:
        ValueError: the model is no cross-encoder, k is below 1, or as `evaluate_retrieval`.
        OSError: a file is missing or cannot be read.
    """
    check_cross_encoder(model)
    if k < 1:
        raise ValueError(f"k is {k}; give at least 1")
    result = search_folder(opened(first), folder, split, max(k, MAX_RANK), options, query_prompt)
    pairs = [(query, i) for query, ids in zip(result.queries.texts, result.rankings, strict=True) for i in ids[:k]]
    candidates = {i for _, i in pairs}
    texts = {record["_id"]: record["text"] for record in read_corpus(Path(folder)) if record["_id"] in candidates}
    scores = score_pairs(model, [query for query, _ in pairs], [texts[i] for _, i in pairs], options.batch_tokens)
    if not np.isfinite(scores).all():
        raise ValueError("some scores are not finite: the run is damaged, or its training diverged")
    reranked, start = [], 0
    for ids in result.rankings:
        order = np.argsort(-scores[start : start + len(ids[:k])], kind="stable")
        reranked.append([ids[i] for i in order] + ids[k:])
        start += len(order)
    before, after = (ranking_metrics(x, result.queries.relevances) for x in (result.rankings, reranked))
    counts = {"queries": len(result.queries.ids), "documents": result.documents, "candidates": len(scores)}
    return counts | after | {f"first_{name}": value for name, value in before.items()}
