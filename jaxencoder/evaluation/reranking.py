"""Reranking: do the first documents of a search come in a better order where a run scores each with its query?

Nogueira and Cho 2019, arXiv:1901.04085; on the sets of BEIR, Thakur et al. 2021, arXiv:2104.08663, section 4.
"""

from pathlib import Path
from typing import Any

import numpy as np

from jaxencoder.evaluation.retrieval import DEEPEST, ranking_metrics, read_corpus, search_folder
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
    """Search a BEIR folder with one model, and put what it finds first into the order of another's scores.

    Args:
        model: a run that scores pairs of a query and a text, see `score_pairs`.
        folder, split: as in `evaluate_retrieval`.
        first: the model whose vectors find the documents, or its name or folder.
        k: how many of them are scored for each query; those behind keep their order.
        options, query_prompt: of the first model, as for `rank`. `options.batch_tokens` is for both models.

    Returns:
        queries, documents and candidates, the number of scored pairs, the measures of `ranking_metrics`, and with
        "first_" before their names those of the search alone.

    Raises:
        ValueError: a model that scores no pairs, k below 1, or what `evaluate_retrieval` raises.
        OSError: a file is missing or cannot be read.
    """
    check_cross_encoder(model)
    if k < 1:
        raise ValueError(f"k is {k}; give at least 1")
    found = search_folder(opened(first), folder, split, max(k, DEEPEST), options, query_prompt)
    candidates = [ranked[:k] for ranked in found.ranked]
    wanted = {document for documents in candidates for document in documents}
    texts = {record["_id"]: record["text"] for record in read_corpus(Path(folder)) if record["_id"] in wanted}
    queries = [query for query, own in zip(found.queries.texts, candidates, strict=True) for _ in own]
    scores = score_pairs(model, queries, [texts[i] for own in candidates for i in own], options.batch_tokens)
    if not np.isfinite(scores).all():
        raise ValueError("some scores are not finite: the run is damaged, or its training diverged")
    parts = np.split(scores, np.cumsum([len(own) for own in candidates])[:-1])
    reranked = [
        [own[i] for i in np.argsort(-part, kind="stable")] + ranked[k:]
        for own, part, ranked in zip(candidates, parts, found.ranked, strict=True)
    ]
    before, after = (ranking_metrics(x, found.queries.relevances) for x in (found.ranked, reranked))
    counts = {"queries": len(found.queries.ids), "documents": found.documents, "candidates": len(scores)}
    return counts | after | {f"first_{name}": value for name, value in before.items()}
