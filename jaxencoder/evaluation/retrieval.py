"""Retrieval: how well a model's vectors rank the documents that answer a query.

Folders and metrics are those of BEIR, Thakur et al. 2021, arXiv:2104.08663, computed as in trec_eval; nDCG is that of
Järvelin and Kekäläinen 2002.
"""

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxencoder.inference.model import OpenedModel
from jaxencoder.inference.options import DEFAULT_OPTIONS, EmbedOptions
from jaxencoder.inference.search import rank
from jaxencoder.text.sources.records import Record, listed, read

log = logging.getLogger(__name__)

MAX_RANK = 100  # lower ranks do not affect the metrics
_INTEGER = re.compile(r"\s*-?\d+\s*")
Relevances = dict[str, dict[str, int]]  # query -> document -> relevance


class JudgedQueries(NamedTuple):
    """Queries with relevance judgments: ids, texts, and the relevances of the judged documents by id."""

    ids: list[str]
    texts: list[str]
    relevances: list[dict[str, int]]


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
    gains, ideal = np.zeros((len(rankings), MAX_RANK)), np.zeros((len(rankings), MAX_RANK))
    relevant = np.zeros(len(rankings))
    for i, (documents, judged) in enumerate(zip(rankings, relevances, strict=True)):
        ranked = [max(0, judged.get(document, 0)) for document in documents[:MAX_RANK]]
        best = sorted((x for x in judged.values() if x > 0), reverse=True)
        gains[i, : len(ranked)], ideal[i, : len(best)] = ranked, best[:MAX_RANK]
        relevant[i] = len(best)
    hits, ranks = gains > 0, np.arange(1, MAX_RANK + 1)
    discounts = 1 / np.log2(ranks + 1)
    num_relevant = np.maximum(relevant, 1)

    def at_ten(values: np.ndarray) -> np.ndarray:
        return values[:, :10].sum(1)

    metrics = {
        "ndcg@10": at_ten(gains * discounts) / np.where(relevant > 0, at_ten(ideal * discounts), 1),
        "map@10": at_ten(hits * hits.cumsum(1) / ranks) / num_relevant,
        "recall@10": at_ten(hits) / num_relevant,
        "recall@100": hits.sum(1) / num_relevant,
        "mrr@10": (hits / ranks)[:, :10].max(1),
    }
    return {name: float(values.mean()) for name, values in metrics.items()}


def qrels_file(folder: Path, split: str) -> Path:
    """The relevances of a split: qrels/SPLIT.tsv, or qrels.tsv for test; FileNotFoundError if missing."""
    file = folder / "qrels" / f"{split}.tsv"
    if file.exists():
        return file
    if split == "test" and (folder / "qrels.tsv").exists():
        return folder / "qrels.tsv"
    splits = sorted(path.stem for path in (folder / "qrels").glob("*.tsv"))
    hint = f"its splits are {listed(splits)}" if splits else "a BEIR folder has relevances there"
    raise FileNotFoundError(f"no file {file}; {hint}")


def read_qrels(file: Path) -> Relevances:
    """Relevances from lines "query, document, relevance" with tabs between; the first line may be a header.

    Raises:
        ValueError: an invalid line, or no lines.
    """
    relevances: Relevances = {}
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 (byte {error.start}); convert it") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        match line.split("\t"):
            case [query, document, relevance] if _INTEGER.fullmatch(relevance):
                relevances.setdefault(query, {})[document] = int(relevance)
            case [_, _, _] if number == 1:
                pass
            case _:
                raise ValueError(
                    f"{file}:{number}: {line[:80]!r} is not query, document and a whole number with tabs between"
                )
    if not relevances:
        raise ValueError(f"{file} is empty: it judges no document")
    return relevances


def read_queries(folder: Path, relevances: Relevances) -> JudgedQueries:
    """The judged queries, in the order of queries.jsonl; ValueError if the file lacks one."""
    texts = {i: record["text"] for i, record in _read_with_ids(folder / "queries.jsonl") if i in relevances}
    missing = [query for query in relevances if query not in texts]
    if missing:
        raise ValueError(
            f"{folder / 'queries.jsonl'} lacks {len(missing)} of the {len(relevances)} queries that were judged, "
            f"such as {missing[0]!r}; both files must be of the same set"
        )
    return JudgedQueries(list(texts), list(texts.values()), [relevances[query] for query in texts])


def read_corpus(folder: Path) -> Iterator[Record]:
    """Records {"_id", "text"} of the documents; a title and a space precede the text."""
    for i, record in _read_with_ids(folder / "corpus.jsonl"):
        title = record.get("title") or ""
        yield {"_id": i, "text": f"{title} {record['text']}".strip()}


class SearchResult(NamedTuple):
    """The queries, for each the ids of its documents, best first, and the number of documents in the corpus."""

    queries: JudgedQueries
    rankings: list[list[str]]
    documents: int


def evaluate_retrieval(
    model: OpenedModel,
    folder: str | Path,
    split: str = "test",
    options: EmbedOptions = DEFAULT_OPTIONS,
    query_prompt: str | None = None,
) -> dict[str, float]:
    """Search the documents of a BEIR folder for each of its judged queries, exactly and in one pass.

    A document with the id of its query does not count as a result, as in BEIR: in some sets queries are documents.

    Args:
        model: an opened model.
        folder: with corpus.jsonl, queries.jsonl, and qrels/SPLIT.tsv or qrels.tsv.
        split: of the relevance judgments.
        options, query_prompt: as for `rank`.

    Returns:
        queries and documents, their numbers, and `ranking_metrics`.

    Raises:
        ValueError: a file is invalid, or no query has a relevant document.
        OSError: a file is missing or cannot be read.
    """
    result = search_folder(model, folder, split, MAX_RANK, options, query_prompt)
    metrics = ranking_metrics(result.rankings, result.queries.relevances)
    return {"queries": len(result.queries.ids), "documents": result.documents, **metrics}


def search_folder(
    model: OpenedModel,
    folder: str | Path,
    split: str,
    k: int,
    options: EmbedOptions = DEFAULT_OPTIONS,
    query_prompt: str | None = None,
) -> SearchResult:
    """The k documents of a BEIR folder nearest to each of its judged queries; see `evaluate_retrieval`."""
    folder = Path(folder)
    relevances = read_qrels(qrels_file(folder, split))
    queries = read_queries(folder, relevances)
    if not any(relevance > 0 for judged in queries.relevances for relevance in judged.values()):
        raise ValueError(f"{qrels_file(folder, split)} calls no document relevant; a relevance must be above 0")
    ids, indices = [], np.zeros((0, 0), np.int32)
    # k + 1, because the document with the query's id is dropped.
    for chunk, nearest in rank(model, queries.texts, read_corpus(folder), k + 1, "text", options, query_prompt):
        ids += [record["_id"] for record in chunk]
        indices = nearest.indices
    corpus_ids = set(ids)
    missing = sum(i not in corpus_ids for judged in queries.relevances for i, x in judged.items() if x > 0)
    if missing:
        log.warning("%d relevant documents are missing from %s.", missing, folder / "corpus.jsonl")
    ranked = [[ids[i] for i in row if i >= 0] for row in indices.tolist()]
    rankings = [[i for i in row if i != query] for row, query in zip(ranked, queries.ids, strict=True)]
    if left_out := sum(map(len, ranked)) - sum(map(len, rankings)):
        log.warning("%d documents have the id of the query that found them and were left out, as in BEIR.", left_out)
    return SearchResult(queries, [row[:k] for row in rankings], len(ids))


def _read_with_ids(file: Path) -> Iterator[tuple[str, Record]]:
    """(id, record) of each line; ValueError if an id is missing or not unique."""
    seen = set()
    for number, record in enumerate(read(str(file)), 1):
        value = record.get("_id")
        if not isinstance(value, str | int) or value == "":
            raise ValueError(f'{file}, record {number}: "_id" is {value!r}; BEIR gives each record one, as text')
        i = str(value)
        if i in seen:
            raise ValueError(f"{file}, record {number}: the id {i!r} is not unique; give each record another")
        seen.add(i)
        yield i, record
