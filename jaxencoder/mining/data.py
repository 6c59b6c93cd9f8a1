"""Queries, their positives and the texts to search, read from records and BEIR folders; equal texts are one text."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from jaxencoder.evaluation.retrieval import qrels_file, read_corpus, read_qrels, read_queries
from jaxencoder.mining.config import MiningData
from jaxencoder.tasks.embeddings.data import SCHEMA
from jaxencoder.text.config import DataConfig
from jaxencoder.text.messages import listed
from jaxencoder.text.sources import read
from jaxencoder.text.sources.fields import infer_fields

_BEIR = ("corpus.jsonl", "queries.jsonl")


class Pairs(NamedTuple):
    """What negatives are mined from."""

    queries: list[str]  # each once
    documents: list[str]  # each once
    positives: list[list[int]]  # of each query, as positions in `documents`
    fields: tuple[str, str]  # names of the query and the positive in records
    duplicates: int  # documents that were equal to an earlier one
    empty: int  # pairs and documents left out because a text is empty
    same_ids: dict[int, list[int]]  # of some queries, the documents that have their id in a BEIR folder


class _Texts:
    """Different texts by their order."""

    def __init__(self) -> None:
        self.positions: dict[str, int] = {}

    def add(self, text: str) -> int:
        """The position of a text among all."""
        return self.positions.setdefault(text, len(self.positions))


def read_pairs(data: MiningData) -> Pairs:
    """Read all texts; ValueError for a record without its fields, or if there is no pair."""
    if not data.sources:
        raise ValueError("name the data to mine from: a file of pairs or a BEIR folder")
    fields = _fields(data)
    queries, documents, positives, empty = _Texts(), _Texts(), [], 0
    for query, positive in _pairs(data, fields):
        if not (query.strip() and positive.strip()):
            empty += 1
            continue
        number, position = queries.add(query), documents.add(positive)
        if number == len(positives):
            positives.append([])
        if position not in positives[number]:
            positives[number].append(position)
    if not positives:
        raise ValueError(f"{listed(data.sources)} holds no pair of a query and a text that answers it")
    duplicates, searched = 0, set()
    for text in _corpus(data):
        if not text.strip():
            empty += 1
            continue
        duplicates += text in searched
        searched.add(text)
        documents.add(text)
    same_ids: dict[int, list[int]] = {}
    folders = map(Path, filter(is_beir, data.sources))
    for query, text in (pair for folder in folders for pair in _same_ids(folder, data.split)):
        if query in queries.positions and text in documents.positions:
            same_ids.setdefault(queries.positions[query], []).append(documents.positions[text])
    return Pairs(list(queries.positions), list(documents.positions), positives, fields, duplicates, empty, same_ids)


def is_beir(source: str) -> bool:
    """Whether a source is a folder in BEIR's form."""
    return all((Path(source) / name).is_file() for name in _BEIR)


def _fields(data: MiningData) -> tuple[str, str]:
    """The names of the query and the positive, from the first source of records."""
    default = SCHEMA.fields["text_field"], SCHEMA.fields["pair_field"]
    fields = data.text_field or default[0], data.pair_field or default[1]
    sources = [source for source in data.sources if not is_beir(source)]
    if not sources or (data.text_field and data.pair_field):
        return fields
    settings = DataConfig(train=(sources[0],), text_field=fields[0], pair_field=fields[1])
    inferred = infer_fields(settings, SCHEMA)
    return data.text_field or inferred.text_field, data.pair_field or inferred.pair_field


def _pairs(data: MiningData, fields: tuple[str, str]) -> Iterator[tuple[str, str]]:
    """The queries of all sources with their positives, from records or relevance judgments."""
    for source in data.sources:
        if is_beir(source):
            yield from _judged_pairs(Path(source), data.split)
            continue
        for number, record in enumerate(read(source, text_field=fields[0], fields=fields[1:], pair_field=fields[1]), 1):
            SCHEMA.check_texts(record[fields[0]], [record[fields[1]]], fields[1], f"{source}, record {number}")
            yield record[fields[0]], record[fields[1]]


def _judged_pairs(folder: Path, split: str) -> Iterator[tuple[str, str]]:
    """The pairs of queries and relevant documents of a BEIR folder."""
    relevances = read_qrels(qrels_file(folder, split))
    queries = read_queries(folder, relevances)
    relevant = {i for judged in relevances.values() for i, relevance in judged.items() if relevance > 0}
    texts = {record["_id"]: record["text"] for record in read_corpus(folder) if record["_id"] in relevant}
    for query, judged in relevances.items():
        for i, relevance in judged.items():
            if relevance > 0 and i in texts:
                yield queries[query], texts[i]


def _same_ids(folder: Path, split: str) -> Iterator[tuple[str, str]]:
    """The queries of a BEIR folder that are documents too, by their id, and the texts of these documents."""
    queries = read_queries(folder, read_qrels(qrels_file(folder, split)))
    return ((queries[x["_id"]], x["text"]) for x in read_corpus(folder) if x["_id"] in queries)


def _corpus(data: MiningData) -> Iterator[str]:
    """The texts to search, apart from positives of records."""
    for source in (*filter(is_beir, data.sources), *data.corpus):
        if is_beir(source):
            yield from (record["text"] for record in read_corpus(Path(source)))
        else:
            yield from (record[data.corpus_field] for record in read(source, text_field=data.corpus_field))
