"""Retrieval: are the documents that answer a query among those whose vectors are nearest to it?

Thakur et al. 2021 (BEIR), arXiv:2104.08663: its folders, and its measures as trec_eval computes them; normalised
discounted cumulative gain is Järvelin and Kekäläinen 2002.
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

DEEPEST = 100  # the furthest rank that a measure looks at
_WHOLE = re.compile(r"\s*-?\d+\s*")
Relevances = dict[str, dict[str, int]]  # query -> document -> relevance


class Judged(NamedTuple):
    """Queries that people have judged documents for: ids, texts, and for each the relevance of some documents."""

    ids: list[str]
    texts: list[str]
    relevances: list[dict[str, int]]


def ranking_metrics(found: Sequence[Sequence[str]], relevances: Sequence[Mapping[str, int]]) -> dict[str, float]:
    """Measures of rankings, each the mean over the queries.

    Args:
        found: for each query the documents, best first; at least 100 of them, or all that there are.
        relevances: for each query the relevance of the documents that were judged: 0 and less is not relevant, like
            documents that were not judged.

    Returns:
        ndcg@10 (gain is the relevance, discount log2(rank + 1), the ideal order of all judged documents is 1), map@10
        (precision at the ranks of relevant documents, summed up to rank 10, over the number of relevant documents),
        recall@10, recall@100, mrr@10 (1 / rank of the first relevant document). A query without a relevant document
        counts as 0, as in trec_eval.
    """
    gains, ideal = np.zeros((len(found), DEEPEST)), np.zeros((len(found), DEEPEST))
    relevant = np.zeros(len(found))
    for i, (documents, judged) in enumerate(zip(found, relevances, strict=True)):
        ranked = [max(0, judged.get(document, 0)) for document in documents[:DEEPEST]]
        best = sorted((x for x in judged.values() if x > 0), reverse=True)
        gains[i, : len(ranked)], ideal[i, : len(best)] = ranked, best[:DEEPEST]
        relevant[i] = len(best)
    hits, ranks = gains > 0, np.arange(1, DEEPEST + 1)
    discounts = 1 / np.log2(ranks + 1)
    whole = np.maximum(relevant, 1)

    def at_ten(values: np.ndarray) -> np.ndarray:
        return values[:, :10].sum(1)

    metrics = {
        "ndcg@10": at_ten(gains * discounts) / np.where(relevant > 0, at_ten(ideal * discounts), 1),
        "map@10": at_ten(hits * hits.cumsum(1) / ranks) / whole,
        "recall@10": at_ten(hits) / whole,
        "recall@100": hits.sum(1) / whole,
        "mrr@10": (hits / ranks)[:, :10].max(1),
    }
    return {name: float(values.mean()) for name, values in metrics.items()}


def qrels_file(folder: Path, split: str) -> Path:
    """The file of relevances of a split: qrels/SPLIT.tsv, or for test qrels.tsv; FileNotFoundError without one."""
    file = folder / "qrels" / f"{split}.tsv"
    if split == "test" and not file.exists():
        file = folder / "qrels.tsv" if (folder / "qrels.tsv").exists() else file
    if not file.exists():
        there = sorted(path.stem for path in (folder / "qrels").glob("*.tsv"))
        hint = f"the splits there are {listed(there)}" if there else "a BEIR folder has relevances there"
        raise FileNotFoundError(f"no file {file}; {hint}")
    return file


def read_qrels(file: Path) -> Relevances:
    """Relevances from lines "query, document, relevance" with tabs between; one line of headings may stand first.

    Raises:
        ValueError: a line that is not one of these, or no line at all.
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
            case [query, document, relevance] if _WHOLE.fullmatch(relevance):
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


def read_queries(folder: Path, relevances: Relevances) -> Judged:
    """The queries of a folder that were judged, in the order of queries.jsonl; ValueError if one is missing there."""
    found = {i: record["text"] for i, record in _with_ids(folder / "queries.jsonl") if i in relevances}
    missing = [query for query in relevances if query not in found]
    if missing:
        raise ValueError(
            f"{folder / 'queries.jsonl'} lacks {len(missing)} of the {len(relevances)} queries that were judged, "
            f"such as {missing[0]!r}; both files must be of the same set"
        )
    return Judged(list(found), list(found.values()), [relevances[query] for query in found])


def read_corpus(folder: Path) -> Iterator[Record]:
    """Records {"_id", "text"} of the documents; the text has the title, if there is one, and a space before it."""
    for i, record in _with_ids(folder / "corpus.jsonl"):
        title = record.get("title") or ""
        yield {"_id": i, "text": f"{title} {record['text']}".strip()}


class Searched(NamedTuple):
    """What a search has found: the queries, for each the ids of documents, best first, and how many there are."""

    queries: Judged
    ranked: list[list[str]]
    documents: int


def evaluate_retrieval(
    model: OpenedModel,
    folder: str | Path,
    split: str = "test",
    options: EmbedOptions = DEFAULT_OPTIONS,
    query_prompt: str | None = None,
) -> dict[str, float]:
    """Search the documents of a BEIR folder for each of its judged queries, exactly and in one pass.

    A document with the id of the query is left out of what is found for it, as in BEIR: in some sets the queries are
    documents themselves.

    Args:
        model: an open model.
        folder: with corpus.jsonl, queries.jsonl, and qrels/SPLIT.tsv or qrels.tsv.
        split: which judgements.
        options, query_prompt: as for `rank`.

    Returns:
        queries and documents, their numbers, and the measures of `ranking_metrics`.

    Raises:
        ValueError: a file is not as it must be, or no query has a relevant document.
        OSError: a file is missing or cannot be read.
    """
    found = search_folder(model, folder, split, DEEPEST, options, query_prompt)
    metrics = ranking_metrics(found.ranked, found.queries.relevances)
    return {"queries": len(found.queries.ids), "documents": found.documents, **metrics}


def search_folder(
    model: OpenedModel,
    folder: str | Path,
    split: str,
    k: int,
    options: EmbedOptions = DEFAULT_OPTIONS,
    query_prompt: str | None = None,
) -> Searched:
    """The k documents of a BEIR folder that are nearest to each of its judged queries; see `evaluate_retrieval`."""
    folder = Path(folder)
    relevances = read_qrels(qrels_file(folder, split))
    queries = read_queries(folder, relevances)
    if not any(relevance > 0 for judged in queries.relevances for relevance in judged.values()):
        raise ValueError(f"{qrels_file(folder, split)} calls no document relevant; a relevance must be above 0")
    ids, indices = [], np.zeros((0, 0), np.int32)
    # One more than asked for, for the document that may be left out.
    for chunk, found in rank(model, queries.texts, read_corpus(folder), k + 1, "text", options, query_prompt):
        ids += [record["_id"] for record in chunk]
        indices = found.indices
    known = set(ids)
    missing = sum(document not in known for judged in queries.relevances for document, x in judged.items() if x > 0)
    if missing:
        log.warning("%d relevant documents are not in %s, and cannot be found.", missing, folder / "corpus.jsonl")
    ranked = [[ids[i] for i in row if i >= 0] for row in indices.tolist()]
    others = [[i for i in row if i != query] for row, query in zip(ranked, queries.ids, strict=True)]
    if left_out := sum(map(len, ranked)) - sum(map(len, others)):
        log.warning("%d documents have the id of the query that found them and were left out, as in BEIR.", left_out)
    return Searched(queries, [row[:k] for row in others], len(ids))


def _with_ids(file: Path) -> Iterator[tuple[str, Record]]:
    """(id, record) of each line; ValueError where an id is missing or stands twice."""
    seen = set()
    for number, record in enumerate(read(str(file)), 1):
        found = record.get("_id")
        if not isinstance(found, str | int) or found == "":
            raise ValueError(f'{file}, record {number}: "_id" is {found!r}; BEIR gives each record one, as text')
        i = str(found)
        if i in seen:
            raise ValueError(f"{file}, record {number}: the id {i!r} stands twice; give each record its own")
        seen.add(i)
        yield i, record
