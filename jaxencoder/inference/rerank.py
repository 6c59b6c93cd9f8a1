"""A run that has learned to score pairs, as a cross-encoder: which texts answer a query best?

Nogueira and Cho 2019, "Passage re-ranking with BERT", arXiv:1901.04085: query and text are read together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxencoder.inference.model import OpenedModel
from jaxencoder.tasks.classification import classify
from jaxencoder.text import buckets


class Ranked(NamedTuple):
    """One text: its place among those that were given, from 0, and its score."""

    index: int
    score: float


def check_scores_pairs(model: OpenedModel) -> None:
    """ValueError unless the model is a run on pairs that predicts a value or one of two classes."""
    objective = model.config.objective
    if model.published is not None or not classify.is_classifier(model) or not model.config.data.pair_field:
        raise ValueError("this model scores no pairs; use a run of finetune_classification with data.pair_field")
    if objective.labels > 2 or objective.multi_label:
        raise ValueError(
            f"this run tells {objective.labels} classes apart, which is no score; train it on classes 0 and 1, or on "
            "grades as fractional numbers"
        )
    if objective.class_names not in ((), ("0", "1")):
        raise ValueError(
            f"this run's classes are {' and '.join(objective.class_names)}, and which one is better is not said; "
            "train it on 0 and 1"
        )


def score_pairs(
    model: OpenedModel, queries: Sequence[str], texts: Sequence[str], batch_tokens: int | None = None
) -> np.ndarray:
    """How well each text answers its query: the value that a run predicts, or the log-odds of class 1.

    Args:
        model: see `check_scores_pairs`; the query is the first text of its pairs.
        queries, texts: as many of both; what is longer than a row is cut as in training, with one warning.
        batch_tokens: as in `Model.embed`.

    Returns:
        float64 [N]; larger is better.

    Raises:
        ValueError: a model without such scores, or no lists of strings.
    """
    check_scores_pairs(model)
    found = classify.score(model, queries, texts, batch_tokens=batch_tokens)
    buckets.warn_of_cuts(found.truncated, len(found.tokens), classify.row_length(model))
    return found.scores[:, -1] - (found.scores[:, 0] if model.config.objective.labels == 2 else 0)


def rerank(
    model: OpenedModel, query: str, texts: Sequence[str], k: int | None = None, batch_tokens: int | None = None
) -> list[Ranked]:
    """The texts by how well they answer a query.

    Args:
        model, batch_tokens: as in `score_pairs`.
        query: the first text of each pair.
        texts: any number.
        k: only the best ones, so many; None: all.

    Returns:
        (place in `texts`, score), best first.

    Raises:
        ValueError: as `score_pairs` does.
    """
    scores = score_pairs(model, [query] * len(texts), texts, batch_tokens)
    return [Ranked(int(i), float(scores[i])) for i in np.argsort(-scores, kind="stable")[:k]]
