"""Retrieval: how well a model's vectors rank the documents that answer a query, and reranking by a cross-encoder.

Folders and metrics are those of BEIR, Thakur et al. 2021, arXiv:2104.08663 (reranking: section 4), computed as in
trec_eval; nDCG is that of Järvelin and Kekäläinen 2002. Reranking follows Nogueira and Cho 2019, arXiv:1901.04085.
"""

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxencoder.inference.model import OpenedModel
from jaxencoder.inference.options import DEFAULT_OPTIONS, EmbedOptions
from jaxencoder.inference.rerank import check_cross_encoder, score_pairs
from jaxencoder.inference.search import rank
from jaxencoder.inference.sparse import Sparsity
from jaxencoder.tasks.records import numbered
from jaxencoder.text.labels import parse_integer
from jaxencoder.text.messages import listed
from jaxencoder.text.sources.records import Record

log = logging.getLogger(__name__)

MAX_RANK = 100  # lower ranks do not affect the metrics
SPARE = 2  # documents found per result: one with the query's id is dropped, and among equals at the end ids decide


def ranking_metrics(rankings: Sequence[Sequence[str]], relevances: Sequence[Mapping[str, int]]) -> dict[str, float]:
    """Means over queries of the metrics of rankings.

    Args:
        rankings: for each query the documents, best first: at least 100, or all.
        relevances: for each query the relevances of the judged documents; 0 and less is not relevant, like documents
            without a judgment.

    Returns:
        ndcg@10 (gain: the relevance; discount: log2(rank + 1)), map@10 (precision at the ranks of relevant documents,
        summed up to rank 10, over the number of relevant documents), recall@10, recall@100, mrr@10 (1 / rank of the
        first relevant document). A query without relevant documents counts as 0, as in trec_eval.
    """
    gains, ideal = np.zeros((2, len(rankings), MAX_RANK))
    num_relevant = np.zeros(len(rankings))
    for i, (documents, judged) in enumerate(zip(rankings, relevances, strict=True)):
        ranked = [max(0, judged.get(document, 0)) for document in documents[:MAX_RANK]]
        best = sorted((x for x in judged.values() if x > 0), reverse=True)
        gains[i, : len(ranked)], ideal[i, : len(best)] = ranked, best[:MAX_RANK]
        num_relevant[i] = max(1, len(best))
    hits, ranks = gains > 0, np.arange(1, MAX_RANK + 1)
    ideal_dcg, dcg = ((x * (1 / np.log2(ranks + 1)))[:, :10].sum(1) for x in (ideal, gains))
    metrics = {
        "ndcg@10": dcg / np.where(ideal_dcg > 0, ideal_dcg, 1),
        "map@10": (hits * hits.cumsum(1) / ranks)[:, :10].sum(1) / num_relevant,
        "recall@10": hits[:, :10].sum(1) / num_relevant,
        "recall@100": hits.sum(1) / num_relevant,
        "mrr@10": (hits / ranks)[:, :10].max(1),
    }
    return {name: float(values.mean()) for name, values in metrics.items()}


def in_order(ids: Sequence[str], scores: np.ndarray) -> list[str]:
    """The ids of documents by their scores, best first; among equal ones in float32 by id, descending: trec_eval."""
    pairs = zip(scores.astype(np.float32).tolist(), ids, strict=False)
    return [i for _, i in sorted(pairs, reverse=True)]


def qrels_file(folder: Path, split: str) -> Path:
    """The relevances of a split: qrels/SPLIT.tsv, or qrels.tsv for test; FileNotFoundError if missing."""
    files = [folder / "qrels" / f"{split}.tsv", *([folder / "qrels.tsv"] if split == "test" else [])]
    if present := [file for file in files if file.exists()]:
        return present[0]
    splits = sorted(path.stem for path in (folder / "qrels").glob("*.tsv"))
    hint = f"its splits are {listed(splits)}" if splits else "a BEIR folder has relevances there"
    raise FileNotFoundError(f"no file {files[0]}; {hint}")


def read_qrels(file: Path) -> dict[str, dict[str, int]]:
    """The relevances of documents by query.

    Lines hold query, document and relevance as in BEIR, the first of which may be a header, or the four columns of
    TREC, whose second one is not used and which may have spaces between them.
    """
    relevances: dict[str, dict[str, int]] = {}
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 (byte {error.start}); convert it") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        has_tabs = "\t" in line
        columns = line.split("\t") if has_tabs else line.split(maxsplit=3)
        relevance = parse_integer(columns[-1].strip())
        match columns:
            case [query, _, document, _] if relevance is not None:
                relevances.setdefault(query, {})[document] = relevance
            case [query, document, _] if has_tabs and relevance is not None:
                relevances.setdefault(query, {})[document] = relevance
            case [first, _, _] if has_tabs and number == 1 and not re.match("corpus|doc", first, re.IGNORECASE):
                pass
            case _:
                wrong = f"{file}:{number}: {line[:80]!r}"
                raise ValueError(f"{wrong} is not query, document and a whole number, nor TREC's four columns")
    if not relevances:
        raise ValueError(f"{file} is empty: it judges no document")
    return relevances


def read_corpus(folder: Path) -> Iterator[Record]:
    """Records {"_id", "text"} of the documents; a title and a space precede the text."""
    for i, record in _read_with_ids(folder / "corpus.jsonl"):
        title = record.get("title") or ""
        yield {"_id": i, "text": f"{title} {record['text']}".strip()}


def read_queries(folder: Path, relevances: Mapping[str, Any]) -> dict[str, str]:
    """The texts of the judged queries by id; ValueError if one is missing."""
    queries = {i: record["text"] for i, record in _read_with_ids(folder / "queries.jsonl") if i in relevances}
    if missing := [query for query in relevances if query not in queries]:
        lacks = f"{folder / 'queries.jsonl'} lacks {len(missing)} of the {len(relevances)} queries that were judged"
        raise ValueError(f"{lacks}, such as {missing[0]!r}; both files must be of the same set")
    return queries


def _read_with_ids(file: Path) -> Iterator[tuple[str, Record]]:
    """(id, record) of each line; ValueError if an id is missing or not unique."""
    seen = set()
    for where, record in numbered(str(file), "text"):
        value = record.get("_id")
        if not isinstance(value, str | int) or value == "":
            raise ValueError(f'{where}: "_id" is {value!r}; BEIR gives each record one, as text')
        i = str(value)
        if i in seen:
            raise ValueError(f"{where}: the id {i!r} is not unique; give each record another")
        seen.add(i)
        yield i, record


class SearchResult(NamedTuple):
    """The documents that a model ranks for the queries of a set."""

    queries: dict[str, str]  # texts by id
    relevances: list[dict[str, int]]  # for each query, of judged documents
    rankings: list[list[str]]  # for each query the ids of documents, best first
    documents: int  # in the corpus
    sparsity: dict[str, float]  # of sparse vectors, see `Sparsity`


def search_folder(
    model: OpenedModel, folder: Path, split: str, k: int, options: EmbedOptions, query_prompt: str | None
) -> SearchResult:
    """The k documents of a BEIR folder nearest to each of its judged queries, exactly and in one pass.

    Arguments and errors are those of `evaluate_retrieval`.
    """
    queries, relevances = judged_queries(folder, split)
    ids, indices = [], np.zeros((0, 0), np.int32)
    documents, texts, scores = read_corpus(folder), list(queries.values()), np.zeros((0, 0), np.float32)
    sparsity = Sparsity()
    watch = None if model.sentence.sparse is None else sparsity.add
    for chunk, nearest in rank(model, texts, documents, SPARE * k, "text", options, query_prompt, watch):
        ids += [record["_id"] for record in chunk]
        scores, indices = nearest.scores, nearest.indices
    warn_of_absent(ids, relevances, folder)
    rankings = ranked_ids(list(queries), ids, scores, indices, k)
    return SearchResult(queries, relevances, rankings, len(ids), sparsity.metrics())


def judged_queries(folder: Path, split: str) -> tuple[dict[str, str], list[dict[str, int]]]:
    """The texts of judged queries by id, and for each the relevances of documents; ValueError without relevant ones."""
    file = qrels_file(folder, split)
    relevances = read_qrels(file)
    queries = read_queries(folder, relevances)
    relevant = [document for judged in relevances.values() for document, relevance in judged.items() if relevance > 0]
    if not relevant:
        raise ValueError(f"{file} calls no document relevant; a relevance must be above 0")
    return queries, [relevances[query] for query in queries]


def warn_of_absent(ids: Sequence[str], relevances: Sequence[Mapping[str, int]], folder: Path) -> None:
    """Warn of relevant documents that the corpus with these ids lacks."""
    corpus_ids = set(ids)
    relevant = [document for judged in relevances for document, relevance in judged.items() if relevance > 0]
    if absent := sum(document not in corpus_ids for document in relevant):
        log.warning("%d relevant documents are missing from %s.", absent, folder / "corpus.jsonl")


def ranked_ids(
    queries: Sequence[str], ids: Sequence[str], scores: np.ndarray, indices: np.ndarray, k: int
) -> list[list[str]]:
    """For each query the ids of its k best documents, best first.

    A document with the id of its query does not count as a result, as in BEIR: in some sets queries are documents.

    Args:
        queries: the Q ids of queries.
        ids: of the documents.
        scores, indices: of the documents that were found, [Q, n], index -1 for none.
    """
    rows: list[list[int]] = indices.tolist()
    ranked = [
        in_order([ids[i] for i in row if i >= 0], row_scores) for row, row_scores in zip(rows, scores, strict=True)
    ]
    rankings = [[i for i in row if i != query] for row, query in zip(ranked, queries, strict=True)]
    if left_out := sum(map(len, ranked)) - sum(map(len, rankings)):
        log.warning("%d documents have the id of the query that found them and were left out, as in BEIR.", left_out)
    return [row[:k] for row in rankings]


def evaluate_retrieval(
    model: OpenedModel,
    folder: str | Path,
    split: str = "test",
    options: EmbedOptions = DEFAULT_OPTIONS,
    query_prompt: str | None = None,
) -> dict[str, float]:
    """Evaluate a model's vectors on a BEIR folder by `search_folder`.

    Args:
        folder: with corpus.jsonl, queries.jsonl, and qrels/SPLIT.tsv or qrels.tsv.
        split: of the relevance judgments.
        options, query_prompt: as for `rank`.

    Returns:
        queries and documents, their numbers, and `ranking_metrics`; of sparse vectors also those of `Sparsity`.

    Raises:
        ValueError: a file is invalid, or no query has a relevant document.
    """
    result = search_folder(model, Path(folder), split, MAX_RANK, options, query_prompt)
    metrics = ranking_metrics(result.rankings, result.relevances)
    return {"queries": len(result.queries), "documents": result.documents, **metrics, **result.sparsity}


def evaluate_reranking(
    model: OpenedModel,
    folder: str | Path,
    first: OpenedModel,
    k: int = 100,
    split: str = "test",
    options: EmbedOptions = DEFAULT_OPTIONS,
    query_prompt: str | None = None,
) -> dict[str, Any]:
    """Search a BEIR folder with one model, and reorder its first results by another's scores.

    Args:
        model: a cross-encoder, see `score_pairs`; ValueError for others.
        folder, split: as in `evaluate_retrieval`.
        first: the model that searches.
        k: number of documents to score per query, at least 1; the others keep their order.
        options, query_prompt: of the first model, as for `rank`. `options.batch_tokens` is for both models.

    Returns:
        queries, documents and candidates (the number of scored pairs), `ranking_metrics`, and the metrics of the search
        alone with the prefix "first_".
    """
    check_cross_encoder(model)
    if k < 1:
        raise ValueError(f"k is {k}; give at least 1")
    folder = Path(folder)
    result = search_folder(first, folder, split, max(k, MAX_RANK), options, query_prompt)
    pairs = [(text, i) for text, ids in zip(result.queries.values(), result.rankings, strict=True) for i in ids[:k]]
    candidates = {i for _, i in pairs}
    texts = {record["_id"]: record["text"] for record in read_corpus(folder) if record["_id"] in candidates}
    scores = score_pairs(model, [text for text, _ in pairs], [texts[i] for _, i in pairs], options.batch_tokens)
    if not np.isfinite(scores).all():
        raise ValueError("some scores are not finite: the run is damaged, or its training diverged")
    reranked, start = [], 0
    for ids in result.rankings:
        scored = ids[:k]
        reranked.append(in_order(scored, scores[start : start + len(scored)]) + ids[k:])
        start += len(scored)
    before, after = (ranking_metrics(rankings, result.relevances) for rankings in (result.rankings, reranked))
    counts = {"queries": len(result.queries), "documents": result.documents, "candidates": len(scores)}
    return counts | after | {f"first_{name}": value for name, value in before.items()}
