"""Rerank texts for a query with a cross-encoder, which reads both together, or by the vectors of their tokens.

Nogueira and Cho 2019, "Passage re-ranking with BERT", arXiv:1901.04085.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxencoder.inference.m3 import hybrid_scores
from jaxencoder.inference.model import OpenedModel
from jaxencoder.model.cross_encoder import CrossEncoderConfig
from jaxencoder.tasks.classification import classify
from jaxencoder.tasks.classification.objective import Classification
from jaxencoder.tasks.multi_vector.token_vectors import pair_scores
from jaxencoder.text import buckets
from jaxencoder.text.tokenizers.encoding import as_list


class Ranked(NamedTuple):
    """A text's index in the input, and its score."""

    index: int
    score: float


def check_cross_encoder(model: OpenedModel) -> None:
    """Raise ValueError for a model that gives pairs no single score.

    A run of Reranking does, a published classifier with one label, a run on pairs with a value or one of two classes,
    and a multi-vector model.
    """
    if model.multi_vector is not None:
        return
    objective = model.config.objective
    scores_pairs = isinstance(objective, Classification) and "classifier" in model.params
    if classify.PUBLISHED_HEAD in model.heads:
        if (labels := model.heads[classify.PUBLISHED_HEAD].outputs) > 1:
            raise ValueError(f"this model has {labels} labels, which give no single score; use a model with one label")
        return
    if not (isinstance(objective, Classification) and scores_pairs and model.config.data.pair_field):
        advice = "use a run of the recipe reranker, or a published cross-encoder"
        raise ValueError(f"this model does not score pairs; {advice}")
    if objective.labels > 2 or objective.multi_label:
        problem = f"this run has {objective.labels} classes, which give no single score"
        raise ValueError(f"{problem}; train it on classes 0 and 1, or on grades as fractional numbers")
    if objective.class_names not in ((), ("0", "1")):
        problem = f"this run's classes are {' and '.join(objective.class_names)}, which do not say which one is better"
        raise ValueError(f"{problem}; train it on 0 and 1")


def score_pairs(
    model: OpenedModel,
    queries: Sequence[str],
    texts: Sequence[str],
    batch_tokens: int | None = None,
    prompt: str | None = None,
) -> np.ndarray:
    """How well each text answers its query, float64 [N].

    A cross-encoder gives the activation of its logit, by default a sigmoid, as in sentence-transformers. A run of
    Classification gives the value that it predicts, or the log-odds of class 1. A multi-vector model gives
    `max_similarities`, bge-m3 the mean of its three similarities. The query is the first text of a pair; see
    `check_cross_encoder`. Pairs longer than a row are truncated as in training, with one warning.

    Args:
        prompt: put before each query, a text or the name of a stored one; None: the model's default prompt.
    """
    check_cross_encoder(model)
    if model.multi_vector is not None:
        if prompt is not None:
            raise ValueError("this model has prompts of its own for queries and documents; leave the prompt out")
        if not model.multi_vector.is_only:
            return hybrid_scores(model, queries, texts, batch_tokens=batch_tokens)["hybrid"]
        return pair_scores(model, queries, texts, batch_tokens)
    scored = classify.score(model, queries, texts, batch_tokens=batch_tokens, prompt=prompt)
    buckets.warn_truncated(scored.truncated, len(scored.tokens), classify.row_length(model))
    scores = scored.scores
    if model.published is None:
        return scores[:, -1] - scores[:, 0] if scores.shape[1] == 2 else scores[:, 0]
    return scores[:, 0] if model.cross_encoder is not None else CrossEncoderConfig().scores(scores[:, 0])


def rerank(
    model: OpenedModel, query: str, texts: Sequence[str], k: int | None = None, prompt: str | None = None
) -> list[Ranked]:
    """Sort texts by how well they answer a query, best first, and keep the first k (None: all); see `score_pairs`."""
    if not isinstance(query, str):
        raise ValueError(f"query is {query!r:.60}, not a string; rank texts for one query at a time")
    texts = as_list(texts)
    scores = score_pairs(model, [query] * len(texts), texts, prompt=prompt)
    return [Ranked(int(i), float(scores[i])) for i in np.argsort(-scores, kind="stable")[:k]]
