"""Bitext mining: whether the nearest vector of a text in one language is that of its translation in another.

Metrics as in Muennighoff et al. 2022 (MTEB), arXiv:2210.07316, and the accuracy in both directions of Reimers and
Gurevych 2020, arXiv:2004.09813.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxencoder.evaluation.text_pairs import labeled_pairs, source_fields
from jaxencoder.evaluation.vectors import pair_vectors
from jaxencoder.inference.model import OpenedModel
from jaxencoder.inference.options import DEFAULT_OPTIONS, EmbedOptions
from jaxencoder.inference.search import Nearest
from jaxencoder.model.config import Similarity
from jaxencoder.text.messages import listed


def nearest_rows(a: np.ndarray, b: np.ndarray, similarity: Similarity = "cosine") -> np.ndarray:
    """For each vector of a [N, D] the row of the most similar one of b [M, D], int [N]; the first of equal ones."""
    return Nearest.empty(len(a), 1).updated(a, b, similarity).indices[:, 0]


def matching_metrics(rows: np.ndarray) -> dict[str, float]:
    """Metrics of rows int [N] that were found for texts whose translations are the rows 0 to N - 1.

    Each row is a class with one text: precision, recall and f1 are means over them, 0 where undefined, as MTEB has them
    from scikit-learn with weights; accuracy equals recall.
    """
    is_right = rows == np.arange(len(rows))
    times_found = np.bincount(rows, minlength=len(rows))
    return {
        "f1": float((2 * is_right / (1 + times_found)).mean()),
        "precision": float((is_right / np.maximum(times_found, 1)).mean()),
        "recall": float(is_right.mean()),
        "accuracy": float(is_right.mean()),
    }


def read_translations(
    sources: Sequence[str], text_field: str = "", pair_field: str = ""
) -> tuple[list[str], list[str]]:
    """The first and the second texts of the set that the sources hold together; ValueError for a single pair."""
    texts, second_texts = [], []
    for _, text, second_text, _ in labeled_pairs(sources, source_fields(sources, text_field, pair_field)):
        texts.append(text)
        second_texts.append(second_text)
    if len(texts) < 2:
        raise ValueError(f"{listed(sources)} holds 1 pair; bitext mining needs several")
    return texts, second_texts


def evaluate_bitext(
    model: OpenedModel,
    sources: Sequence[str],
    text_field: str = "",
    pair_field: str = "",
    options: EmbedOptions = DEFAULT_OPTIONS,
) -> dict[str, Any]:
    """Find for each first text of a set of translations its second text, by the model's `sentence.similarity`.

    Args:
        sources: of pairs, as in `jaxencoder.text.sources`, such as aligned:de.txt|en.txt; together they are one set.
        text_field, pair_field: of the two texts; empty: usual names.
        options: of the vectors.

    Returns:
        pairs, their number; `matching_metrics`, from the first to the second texts, by rows as MTEB counts; and
        forward, backward and both: the accuracy in both directions and its mean, where a text that is equal to the
        right one is also right, as sentence-transformers' TranslationEvaluator counts.
    """
    texts, second_texts = read_translations(sources, text_field, pair_field)
    a, b = pair_vectors(model, texts, second_texts, options)
    similarity = model.sentence.similarity
    rows = nearest_rows(a, b, similarity)
    forward, backward = _text_accuracy(rows, second_texts), _text_accuracy(nearest_rows(b, a, similarity), texts)
    directions = {"forward": forward, "backward": backward, "both": (forward + backward) / 2}
    return {"pairs": len(texts)} | matching_metrics(rows) | directions


def _text_accuracy(rows: np.ndarray, texts: Sequence[str]) -> float:
    """The fraction of rows that hold the text of their own number."""
    return float(np.mean([texts[row] == text for row, text in zip(rows, texts, strict=True)]))
