"""Scores of documents with their queries, and how well they order the documents of each query."""

import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from jaxencoder.model.similarity import check_finite
from jaxencoder.tasks.classification import classify
from jaxencoder.tasks.embeddings.data import negatives
from jaxencoder.tasks.records import check_new_fields, chunks, labeled_records, numbered, with_texts
from jaxencoder.tasks.reranking.data import SCHEMA, schema_for
from jaxencoder.tasks.reranking.metrics import list_metrics
from jaxencoder.tasks.reranking.objective import Reranking
from jaxencoder.tasks.task import Evaluation, TaskConfig, TaskModel
from jaxencoder.text import buckets
from jaxencoder.text.sources.records import Record

ADDED = ("score", "scores")


def list_scores(
    model: TaskModel, queries: Sequence[str], documents: Sequence[Sequence[str]], batch_tokens: int | None = None
) -> list[np.ndarray]:
    """The scores of the documents of each query, float64 [documents], by a run of Reranking.

    Pairs longer than a row are truncated as in training, with one warning; `batch_tokens` is as in `Model.embed`.
    ValueError for another model, or scores that are not finite.
    """
    if not isinstance(model.config.objective, Reranking):
        raise ValueError("this model was not trained for reranking; fine-tune it with the objective Reranking")
    firsts = [query for query, texts in zip(queries, documents, strict=True) for _ in texts]
    result = classify.score(model, firsts, [text for texts in documents for text in texts], None, batch_tokens)
    buckets.warn_truncated(result.truncated, len(firsts), classify.row_length(model), "pairs")
    ends = np.cumsum([len(texts) for texts in documents], dtype=np.int64)
    return np.split(check_finite(result.scores[:, 0], "scores"), ends[:-1]) if documents else []


def predict_scores(
    model: TaskModel,
    source: str | Iterable[Record],
    text_field: str | None = None,
    pair_field: str | None = None,
    batch_tokens: int | None = None,
) -> Iterator[list[Record]]:
    """Add to records the "score" of their document with their query, or the "scores" of several, in a list.

    The documents are those of the field of the second text, and after them the negatives.

    Args:
        model, batch_tokens: as in `list_scores`.
        source: as in `jaxencoder.text.sources`, or records; labels are not needed.
        text_field, pair_field: of the query and of the document or the list of documents; None: those of the run.

    Raises:
        ValueError: as in `list_scores`, or a record that lacks its texts or has one of these fields.
    """
    data = model.config.data
    query_field, pair_field = text_field or data.text_field, pair_field or data.pair_field
    examples = (
        (with_texts(record, (query_field,), where), _documents(record, pair_field, where))
        for where, record in numbered(source, query_field, (pair_field,), data.text_unit)
    )
    for chunk in chunks(examples, lambda example: len(example[0][query_field]) + sum(map(len, example[1]))):
        records, documents = zip(*chunk, strict=True)
        check_new_fields(records, ADDED)
        scores = list_scores(model, [record[query_field] for record in records], documents, batch_tokens)
        yield [
            record | ({"scores": x.tolist()} if _has_list(record, pair_field) else {"score": float(x[0])})
            for record, x in zip(records, scores, strict=True)
        ]


def _documents(record: Record, pair_field: str, where: str) -> list[str]:
    """The documents of a record; ValueError for one that is no text."""
    value = record.get(pair_field)
    if not isinstance(value, list):
        with_texts(record, (pair_field,), where)
        value = [value]
    texts = [*value, *negatives(record)]
    for text in texts:
        with_texts({pair_field: text}, (pair_field,), where)
    return texts


def _has_list(record: Record, pair_field: str) -> bool:
    return isinstance(record[pair_field], list) or bool(negatives(record))


def read_lists(config: TaskConfig, source: str | None = None) -> dict[str, dict[str, float]]:
    """The greatest label of each document of each query that has any; the records are those of `evaluate_lists`."""
    data, objective = config.data, config.objective
    has_margins = isinstance(objective, Reranking) and objective.loss == "margin_mse"
    schema = schema_for("margin_mse") if has_margins else SCHEMA  # labels may be graded, whatever bce needs
    lists: dict[str, dict[str, float]] = {}
    for where, record in labeled_records(schema, data, source):
        with_texts(record, (data.text_field,), where)
        labels = lists.setdefault(record[data.text_field], {})
        for text, label in record[data.pair_field]:
            if not math.isnan(label):
                labels[text] = max(label, labels.get(text, -math.inf))
    return {query: documents for query, documents in lists.items() if documents}


def evaluate_lists(model: TaskModel, source: str | None = None) -> Evaluation:
    """`list_metrics` on the records held out by the run, or on a source with the same fields.

    The documents of all records with the same query are ranked together, each once, with its greatest label.
    """
    lists = read_lists(model.config, source)
    queries = list(lists)
    scores: list[np.ndarray] = []
    for chunk in chunks(queries, lambda query: len(query) + sum(map(len, lists[query]))):
        scores += list_scores(model, chunk, [list(lists[query]) for query in chunk])
    return Evaluation(list_metrics(scores, [np.array(list(lists[query].values())) for query in queries]))
