"""Rerank texts for a query with a cross-encoder, which reads query and text together.

Nogueira and Cho 2019, "Passage re-ranking with BERT", arXiv:1901.04085.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxencoder.inference.model import OpenedModel
from jaxencoder.tasks.classification import classify
from jaxencoder.tasks.classification.objective import Classification
from jaxencoder.text import buckets


class Ranked(NamedTuple):
    """A text's index in the input, and its score."""

    index: int
    score: float


def check_cross_encoder(model: OpenedModel) -> Classification:
    """The objective of a run on pairs that predicts a value or one of two classes; ValueError for other models."""
    objective = model.config.objective
    scores_pairs = model.published is None and "classifier" in model.params and model.config.data.pair_field
    if not (isinstance(objective, Classification) and scores_pairs):
        raise ValueError("this model does not score pairs; use a run of finetune_classification with data.pair_field")
    if objective.labels > 2 or objective.multi_label:
        problem = f"this run has {objective.labels} classes, which give no single score"
        raise ValueError(f"{problem}; train it on classes 0 and 1, or on grades as fractional numbers")
    if objective.class_names not in ((), ("0", "1")):
        problem = f"this run's classes are {' and '.join(objective.class_names)}, which do not say which one is better"
        raise ValueError(f"{problem}; train it on 0 and 1")
    return objective


def score_pairs(
    model: OpenedModel, queries: Sequence[str], texts: Sequence[str], batch_tokens: int | None = None
) -> np.ndarray:
    """How well each text answers its query, float64 [N]: the value that the run predicts, or the log-odds of class 1.

    The query is the first text of the run's pairs; see `check_cross_encoder`. Pairs longer than a row are truncated as
    in training, with one warning.
    """
    objective = check_cross_encoder(model)
    scored = classify.score(model, queries, texts, batch_tokens=batch_tokens)
    buckets.warn_truncated(scored.truncated, len(scored.tokens), classify.row_length(model))
    return scored.scores[:, -1] - (scored.scores[:, 0] if objective.labels == 2 else 0)


def rerank(model: OpenedModel, query: str, texts: Sequence[str], k: int | None = None) -> list[Ranked]:
    """Sort texts by how well they answer a query, best first, and keep the first k (None: all); see `score_pairs`."""
    scores = score_pairs(model, [query] * len(texts), texts)
    return [Ranked(int(i), float(scores[i])) for i in np.argsort(-scores, kind="stable")[:k]]
