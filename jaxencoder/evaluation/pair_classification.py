"""Pair classification: how well the similarity of two vectors tells similar pairs of texts from others.

Average precision, and the thresholds of the best F1 and of the best accuracy, as in Reimers and Gurevych 2019
(Sentence-BERT), arXiv:1908.10084, and Muennighoff et al. 2022 (MTEB), arXiv:2210.07316.
"""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np

from jaxencoder.evaluation.text_pairs import Fields, labeled_pairs, source_fields
from jaxencoder.evaluation.vectors import pair_vectors
from jaxencoder.inference.model import OpenedModel
from jaxencoder.inference.options import DEFAULT_OPTIONS, EmbedOptions
from jaxencoder.model.config import Similarity
from jaxencoder.model.similarity import pair_similarities
from jaxencoder.text.messages import listed

# Usual names of the label in published sets, in the order in which they are tried.
LABEL_NAMES = ("label", "labels", "is_duplicate", "score")
_IS_SIMILAR = {"0": False, "1": True, "0.0": False, "1.0": True, "false": False, "true": True}


def pair_classification_metrics(scores: np.ndarray, is_similar: np.ndarray) -> dict[str, float]:
    """Metrics of scores float [N], greater for similar pairs, and labels bool [N], of which some are True and some not.

    A threshold never divides equal scores. Among equally good thresholds the highest counts, which is the middle of two
    scores, or the lower end of all scores, or for accuracy their upper end.

    Returns:
        ap (average precision, scikit-learn's), f1 with f1_threshold, precision, recall and matthews at that threshold,
        and accuracy with accuracy_threshold: those of sentence-transformers' BinaryClassificationEvaluator. MTEB's
        differ only where the best threshold would call no pair similar, or all.
    """
    from sklearn.metrics import average_precision_score, matthews_corrcoef

    order = np.argsort(-scores, kind="stable")
    ranked, hits = scores[order], np.cumsum(is_similar[order])
    ends = np.append(np.flatnonzero(ranked[:-1] != ranked[1:]), len(ranked) - 1)  # the last of equal scores each
    middles = (ranked[ends] + ranked[np.minimum(ends + 1, len(ranked) - 1)]) / 2
    # Between neighboring floats the middle may be rounded to the lower one, which it must leave out.
    thresholds = np.where(middles > np.append(ranked[ends[:-1] + 1], -np.inf), middles, ranked[ends])
    hits, count, positives = hits[ends], ends + 1, is_similar.sum()
    precision, recall = hits / count, hits / positives
    f1 = 2 * precision * recall / np.where(hits > 0, precision + recall, 1)
    best = int(f1.argmax())
    right = np.append(0, 2 * hits - count) + len(scores) - positives  # the first calls no pair similar
    most = int(right.argmax())
    above_all = np.nextafter(ranked[0], np.inf, dtype=ranked.dtype)
    return {
        "ap": float(average_precision_score(is_similar, scores)),
        "f1": float(f1[best]),
        "f1_threshold": float(thresholds[best]),
        "precision": float(precision[best]),
        "recall": float(recall[best]),
        "matthews": float(matthews_corrcoef(is_similar, scores >= thresholds[best])),
        "accuracy": float(right[most] / len(scores)),
        "accuracy_threshold": float(thresholds[most - 1] if most else above_all),
    }


def read_labeled_pairs(sources: Sequence[str], fields: Fields) -> tuple[list[str], list[str], np.ndarray]:
    """The N first texts, N second texts and labels bool [N] of the set that the sources hold together.

    Raises:
        ValueError: a record lacks a field, a text is not a string, a label is not 0 or 1 (or false or true), or all
            labels are equal.
    """
    texts, second_texts, is_similar = [], [], []
    for where, text, second_text, label in labeled_pairs(sources, fields):
        value = _IS_SIMILAR.get(str(label).strip().lower())
        if value is None:
            raise ValueError(f"{where}: {fields.label} {repr(label)[:60]} is not 0 or 1; give 1 to similar pairs")
        texts.append(text)
        second_texts.append(second_text)
        is_similar.append(value)
    if len(set(is_similar)) < 2:
        content = f"only pairs with the label {int(is_similar[0])}"
        raise ValueError(f"{listed(sources)} holds {content}; pair classification needs pairs of both labels")
    return texts, second_texts, np.array(is_similar)


def evaluate_pair_classification(
    model: OpenedModel,
    sources: Sequence[str],
    text_field: str = "",
    pair_field: str = "",
    label_field: str = "",
    similarity: Similarity | Literal["all"] | None = None,
    options: EmbedOptions = DEFAULT_OPTIONS,
) -> dict[str, Any]:
    """Classify pairs of texts as similar or not by the similarity of a model's vectors.

    Args:
        sources: as in `jaxencoder.text.sources`; together they are one set.
        text_field, pair_field, label_field: of the texts and the label, 1 for similar pairs and else 0; empty: usual
            names.
        similarity: function of two vectors; None: the model's `sentence.similarity`; "all": all four.
        options: of the vectors.

    Returns:
        pairs and similar, their numbers; similarity, the name of the function; `pair_classification_metrics`. The
        thresholds of "euclidean" and "manhattan" are the largest distances of pairs that are called similar. For "all"
        such a dict for each function, by its name.
    """
    fields = source_fields(sources, text_field, pair_field, label_field, label_names=LABEL_NAMES)
    texts, second_texts, is_similar = read_labeled_pairs(sources, fields)
    a, b = pair_vectors(model, texts, second_texts, options)

    def result(name: Similarity) -> dict[str, Any]:
        metrics = pair_classification_metrics(pair_similarities(name, a, b), is_similar)
        if name in ("euclidean", "manhattan"):
            metrics |= {key: -value for key, value in metrics.items() if key.endswith("threshold")}
        return {"pairs": len(texts), "similar": int(is_similar.sum()), "similarity": name} | metrics

    if similarity == "all":
        return {name: result(name) for name in get_args(Similarity)}
    return result(similarity or model.sentence.similarity)
