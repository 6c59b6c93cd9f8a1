"""Similarities of queries and documents by the vectors of their tokens, and how well they find the right document."""

from collections.abc import Iterable, Iterator

import numpy as np

from jaxencoder.model.multi_vector import MultiVectorConfig
from jaxencoder.tasks.embeddings.data import SCHEMA
from jaxencoder.tasks.multi_vector.token_vectors import checked_matrices, matrix_similarities, pair_scores
from jaxencoder.tasks.records import labeled_records, paired_records
from jaxencoder.tasks.task import Evaluation, TaskModel
from jaxencoder.text.sources.records import Record

ADDED = ("similarity",)
_QUERIES = 256  # that are compared with all documents at once


def predict_token_similarities(
    model: TaskModel,
    source: str | Iterable[Record],
    text_field: str | None = None,
    pair_field: str | None = None,
    batch_tokens: int | None = None,
) -> Iterator[list[Record]]:
    """Add to records "similarity", of their two texts, a query and a document, by the vectors of their tokens.

    Args:
        model: with `multi_vector` settings.
        source: as in `jaxencoder.text.sources`, or records.
        text_field, pair_field: of the two texts; None: those of the run.
        batch_tokens: see `EmbedOptions`.

    Raises:
        ValueError: a record that lacks its texts or has one of these fields.
    """
    for chunk, queries, documents in paired_records(source, model.config.data, text_field, pair_field, ADDED):
        values = pair_scores(model, queries, documents, batch_tokens)
        yield [record | {ADDED[0]: float(x)} for record, x in zip(chunk, values, strict=True)]


def evaluate_token_vectors(model: TaskModel, source: str | None = None) -> Evaluation:
    """How well queries find their positives among the documents of the records held out by the run, or of a source.

    The metrics are those of `jaxencoder.tasks.embeddings.predict.ranking_metrics`. Scores in records do not count.
    """
    config, data = model.multi_vector, model.config.data
    assert config is not None  # the objective is MultiVectors
    positives: dict[str, list[str]] = {}
    documents: dict[str, int] = {}
    for where, record in labeled_records(SCHEMA, data, source):
        query, texts = record[data.text_field], record[data.pair_field]
        SCHEMA.check_texts(query, texts, data.pair_field, where)
        positives.setdefault(query, []).append(texts[0])
        for text in texts:
            documents.setdefault(text, len(documents))
    queries = checked_matrices(model, config, list(positives), "query")
    matrices = checked_matrices(model, config, list(documents), "document")
    of_queries = [[documents[text] for text in texts] for texts in positives.values()]
    same_texts = [documents.get(query) for query in positives]
    ranks = _ranks(config, queries, matrices, of_queries, same_texts)
    metrics = {"accuracy": float((ranks == 1).mean()), "mrr": float((1 / ranks).mean())}
    return Evaluation({**metrics, "texts": len(documents), "examples": len(ranks)})


def _ranks(
    config: MultiVectorConfig,
    queries: list[np.ndarray],
    documents: list[np.ndarray],
    positives: list[list[int]],
    same_texts: list[int | None],
) -> np.ndarray:
    """The rank of each positive of each query among the documents that are not its positives, last of equal ones.

    `positives` are positions of documents, as `same_texts`: for each query that of the same text, which is not ranked.
    """
    ranks = []
    for start in range(0, len(queries), _QUERIES):
        block = slice(start, start + _QUERIES)
        scores = matrix_similarities(config, queries[block], documents)
        for line, indices, same in zip(scores, positives[block], same_texts[block], strict=True):
            values = line[indices].copy()
            line[indices if same is None else [*indices, same]] = -np.inf
            ranks += [1 + int((line >= value).sum()) for value in values]
    return np.array(ranks)
