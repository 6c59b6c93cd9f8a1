"""Similarities of texts by their vectors, and how well they agree with scores or find the similar text."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any, cast

import jax
import numpy as np
from scipy import sparse

from jaxencoder.model.sentence import Similarity
from jaxencoder.model.similarity import check_finite, pair_similarities, similarity_matrix, sparse_similarities, unit
from jaxencoder.tasks.classification.metrics import correlations
from jaxencoder.tasks.embeddings.accuracy import nearest_accuracy, pair_class_accuracy
from jaxencoder.tasks.embeddings.compared_texts import ComparedTexts
from jaxencoder.tasks.embeddings.data import SCHEMA
from jaxencoder.tasks.embeddings.labeled_data import PairClasses, TextClasses
from jaxencoder.tasks.embeddings.losses import LOSSES
from jaxencoder.tasks.embeddings.objective import Embeddings, pair_head
from jaxencoder.tasks.embeddings.prompted_texts import PromptedTexts
from jaxencoder.tasks.embeddings.schemas import schema_for
from jaxencoder.tasks.records import labeled_records, paired_records, with_texts
from jaxencoder.tasks.running import objective_scores, row_length, score_texts
from jaxencoder.tasks.sparse.objective import SparseEmbeddings
from jaxencoder.tasks.sparse.vectors import text_vectors as sparse_text_vectors
from jaxencoder.tasks.task import Evaluation, TaskModel
from jaxencoder.text.buckets import prompt_tokens, tokenize, warn_truncated
from jaxencoder.text.config import DataConfig
from jaxencoder.text.labels import MARKS, Labels
from jaxencoder.text.sources.fields import infer_source_fields
from jaxencoder.text.sources.files import source_names
from jaxencoder.text.sources.records import Record, pair_fields

ADDED = ("similarity",)
_BLOCK = 1024  # anchors that are compared with all other texts at once


def text_vectors(
    model: TaskModel, texts: Sequence[str], batch_tokens: int | None = None, is_query: bool = False
) -> Any:
    """The vectors of texts by a run of Embeddings, float64 [N, D], or SparseEmbeddings, a csr_array float32 [N, V].

    Args:
        is_query: whether the texts are queries, which have their own prompt, or of a sparse model a table.

    Raises:
        ValueError: another model, or vectors that are not finite.
    """
    objective, limit = model.config.objective, row_length(model)
    prompt = objective.prompts[0 if is_query else 1] if isinstance(objective, PromptedTexts) else ""
    if isinstance(objective, SparseEmbeddings):
        vectors, truncated = sparse_text_vectors(
            model, objective.sparse, texts, is_query, prompt, limit, batch_tokens=batch_tokens
        )
        warn_truncated(truncated, len(texts), limit)
        return check_finite(vectors)
    if not isinstance(objective, Embeddings):
        raise ValueError("this model was not trained for embeddings; fine-tune it with the objective Embeddings")
    model = model.queries if is_query and model.queries is not None else model
    ids, truncated = tokenize(model.tokenizer, texts, limit, prompt)
    warn_truncated(truncated, len(texts), limit)
    size = objective.sentence.size(model.config.model.hidden_size)
    skip = prompt_tokens(model.tokenizer, prompt) if prompt and not objective.include_prompt else None
    return check_finite(score_texts(model, objective_scores(model), size, ids, None, batch_tokens, limit, skip))


def predict_similarities(
    model: TaskModel,
    source: str | Iterable[Record],
    text_field: str | None = None,
    pair_field: str | None = None,
    batch_tokens: int | None = None,
) -> Iterator[list[Record]]:
    """Add to records "similarity", of the vectors of their two texts, by the function of the run's settings.

    Args:
        model, batch_tokens: as in `text_vectors`.
        source: as in `jaxencoder.text.sources`, or records.
        text_field, pair_field: of the two texts; None: those of the run.

    Raises:
        ValueError: as in `text_vectors`, or a record that lacks its texts or has one of these fields.
    """
    if not (pair_field or model.config.data.pair_field):
        raise ValueError("this run was trained on single texts; name the field of the second text by pair_field")
    for chunk, first, second in paired_records(source, model.config.data, text_field, pair_field, ADDED):
        queries = text_vectors(model, first, batch_tokens, is_query=True)
        documents = text_vectors(model, second, batch_tokens)
        values = pair_similarities(model.config.objective.sentence.similarity, queries, documents)
        yield [record | {ADDED[0]: float(x)} for record, x in zip(chunk, values, strict=True)]


def evaluate_embeddings(model: TaskModel, source: str | None = None) -> Evaluation:
    """Metrics on the records held out by the run, of single texts and pairs on the pairs, or on a source like them.

    They are those of `score_metrics` if records have a score, else those of `ranking_metrics`. A teacher's scores do
    not count. For losses of classes: accuracy as of `nearest_accuracy` or `pair_class_accuracy`, and examples.
    """
    data, rows, objective = model.config.data, {}, model.config.objective
    if isinstance(objective, ComparedTexts) and objective.losses:
        if source is None:
            return Evaluation(_source_metrics(model, objective))
        data = infer_source_fields(source, data, SCHEMA, ["label_field"])
    elif isinstance(objective, ComparedTexts) and LOSSES[objective.loss].labels in _BY_CLASS:
        return Evaluation(_BY_CLASS[LOSSES[objective.loss].labels](model, source))
    if source is None and data.pair_field and model.config.schema.optional_pair:
        data = _with_pairs(data)
    if not data.pair_field:
        advice = "measure its vectors by evaluate similarity, retrieval or another set"
        raise ValueError(f"the model was trained on single texts, which nothing is compared with; {advice}")
    has_gold = isinstance(objective, ComparedTexts) and schema_for(objective.loss).name == SCHEMA.name
    has_scores = data.label_field and has_gold
    tuples, scores = [], []
    for where, record in labeled_records(SCHEMA, data, source):
        anchor, texts = record[data.text_field], record[data.pair_field]
        SCHEMA.check_texts(anchor, texts, data.pair_field, where)
        tuples.append([rows.setdefault(text, len(rows)) for text in (anchor, *texts)])
        label = record[data.label_field] if has_scores else None
        scores.append(SCHEMA.encode_label(label, (anchor, texts), SCHEMA.find_labels(data), where)[0])
    vectors, gold = text_vectors(model, list(rows)), np.array(scores)
    sentence, has_prompts = objective.sentence, isinstance(objective, ComparedTexts) and any(objective.prompts)
    similarity, anchors = sentence.similarity, vectors
    if has_prompts or sentence.embeds_queries_apart:
        anchors = text_vectors(model, list(rows), is_query=True)
    has_score = ~np.isnan(gold)
    if not has_score.any():
        return Evaluation(ranking_metrics(vectors, tuples, similarity, anchors))
    first, second = np.array([row[:2] for row in tuples])[has_score].T
    similarities = pair_similarities(similarity, anchors[first], vectors[second])
    return Evaluation(score_metrics(similarities, gold[has_score]))


def _with_pairs(data: DataConfig) -> DataConfig:
    """The settings with the sources of pairs alone; ValueError if none of them is held out."""
    fields = pair_fields(data)
    train, validation = (tuple(filter(fields.get, sources)) for sources in (data.train, data.validation))
    if data.validation and not validation:
        problem = f"data.validation {' '.join(data.validation)} has single texts, which nothing is compared with"
        raise ValueError(f"{problem}; name a source of pairs")
    return dataclasses.replace(data, train=train, validation=validation, weights=())


def _source_metrics(model: TaskModel, objective: ComparedTexts) -> dict[str, float]:
    """The metrics on the held-out records of each source, METRIC_SOURCE, as its own loss needs them."""
    config, result = model.config, {}
    for number, name in enumerate(source_names(config.data.train)):
        _, data = config.schema.of_source(config.data, number)
        settings = {"data": data, "objective": objective.of_source(number)}
        # The protocols do not say so, but both are dataclasses.
        part = dataclasses.replace(cast(Any, model), config=dataclasses.replace(cast(Any, config), **settings))
        result |= {f"{metric}_{name}": value for metric, value in evaluate_embeddings(part).metrics.items()}
    return result


def _text_class_metrics(model: TaskModel, source: str | None) -> dict[str, float]:
    """accuracy: the texts whose most similar other text has their class; and examples, their number."""
    data, texts, classes, numbers = model.config.data, [], [], {}
    for where, record in labeled_records(TextClasses(), data, source):
        name = str(record[data.label_field]).strip()
        if name not in MARKS:
            texts.append(with_texts(record, [data.text_field], where)[data.text_field])
            classes.append(numbers.setdefault(name, float(len(numbers))))
    vectors = text_vectors(model, texts)
    vectors = vectors.toarray() if sparse.issparse(vectors) else vectors
    similarity = model.config.objective.sentence.similarity
    hits, count = nearest_accuracy(np.asarray(vectors, np.float32), np.array(classes, np.float32), similarity)
    return {"accuracy": float(hits / count), "examples": int(count)}


def _pair_class_metrics(model: TaskModel, source: str | None) -> dict[str, float]:
    """accuracy: the pairs whose class the trained classifier finds; and examples, their number."""
    data, schema, pairs, classes = model.config.data, PairClasses(), [], []
    objective = model.config.objective
    assert isinstance(objective, Embeddings)  # no other has such losses
    labels = Labels("tuple", objective.class_names)
    for where, record in labeled_records(schema, data, source):
        texts = record[data.text_field], record[data.pair_field]
        schema.check_texts(*texts, data.pair_field, where)
        if (label := schema.encode_label(record[data.label_field], texts, labels, where)) is not None:
            pairs.append((texts[0], texts[1][0]))
            classes.append(label[0])
    first, second = zip(*pairs, strict=True)
    columns = text_vectors(model, first, is_query=True), text_vectors(model, second)
    vectors = np.stack(columns, axis=1).astype(np.float32)
    mask, head = np.ones(vectors.shape[:2], bool), pair_head(model.params)
    hits, count = pair_class_accuracy(vectors, mask, np.array(classes, np.float32), head)
    return {"accuracy": float(hits / count), "examples": int(count)}


_BY_CLASS = {"text_classes": _text_class_metrics, "pair_classes": _pair_class_metrics}


def score_metrics(similarities: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    """spearman and pearson, the correlations of float [N] each, and examples, their number."""
    return {**correlations(similarities, scores), "examples": len(scores)}


def ranking_metrics(
    vectors: Any, tuples: Sequence[Sequence[int]], similarity: Similarity, anchors: Any = None
) -> dict[str, float]:
    """How well anchors find their positives among the positives and negatives of all examples, each text once.

    Args:
        vectors: float [M, D] of different texts, an array or a csr_array.
        tuples: the anchor, the positive and the negatives of each example, as rows of `vectors`.
        similarity: of two vectors.
        anchors: the vectors [M, D] of the same texts as anchors; None: `vectors`.

    Returns:
        accuracy, the fraction of anchors to which no other text is as similar as the positive; mrr, the mean of
        1 / rank of the positive, the last of equally similar ones; texts, the number of texts that are ranked; and
        examples. The anchor itself and its other positives are not ranked.
    """
    anchors = vectors if anchors is None else anchors
    if sparse.issparse(vectors):
        compare = partial(sparse_similarities, similarity)
    else:
        anchors, vectors = (unit(x) if similarity == "cosine" else x for x in (anchors, vectors))
        compare = jax.jit(partial(similarity_matrix, similarity))
    documents = np.unique([row for _, *compared in tuples for row in compared])
    positions = {row: i for i, row in enumerate(documents.tolist())}
    positives: dict[int, set[int]] = {}
    for anchor, positive, *_ in tuples:
        positives.setdefault(anchor, set()).add(positions[positive])
    ranks = []
    for start in range(0, len(tuples), _BLOCK):
        block = tuples[start : start + _BLOCK]
        scores = np.array(compare(anchors[[row[0] for row in block]], vectors[documents]))
        of_positive = scores[np.arange(len(block)), [positions[row[1]] for row in block]].copy()
        for line, (anchor, *_) in zip(scores, block, strict=True):
            line[[*positives[anchor], *([positions[anchor]] if anchor in positions else [])]] = -np.inf
        ranks.append(1 + (scores >= of_positive[:, None]).sum(1))
    rank = np.concatenate(ranks)
    result = {"accuracy": float((rank == 1).mean()), "mrr": float((1 / rank).mean())}
    return {**result, "texts": len(documents), "examples": len(tuples)}
