"""Semantic textual similarity: the correlation of vectors' similarities with human scores of pairs of texts.

Agirre et al. 2012, SemEval-2012 task 6; Spearman's rank correlation over all pairs together, as in Reimers and Gurevych
2019 (Sentence-BERT), arXiv:1908.10084.
"""

from collections.abc import Sequence

import numpy as np

from jaxencoder.evaluation.text_pairs import Fields, labeled_pairs, source_fields
from jaxencoder.evaluation.vectors import pair_vectors
from jaxencoder.inference.model import OpenedModel
from jaxencoder.inference.options import DEFAULT_OPTIONS, EmbedOptions
from jaxencoder.model.similarity import pair_similarities
from jaxencoder.tasks.classification.metrics import correlations
from jaxencoder.text.labels import Labels
from jaxencoder.text.messages import listed

# Usual names of the score in published sets, in the order in which they are tried.
SCORE_NAMES = ("score", "similarity_score", "similarity", "relatedness_score", "label")


def read_pairs(sources: Sequence[str], fields: Fields) -> tuple[list[str], list[str], np.ndarray]:
    """The N first texts, N second texts and scores float64 [N] of the set that the sources hold together.

    Raises:
        ValueError: a record lacks a field, a text is not a string, a score is not a finite number, or all scores are
            equal, so that a correlation is undefined.
    """
    texts, second_texts, scores = [], [], []
    for where, text, second_text, score in labeled_pairs(sources, fields):
        texts.append(text)
        second_texts.append(second_text)
        scores.append(Labels("value", ()).encode(score, where))
    if len(set(scores)) < 2:
        content = "1 pair" if len(scores) == 1 else f"{len(scores)} pairs, all with the score {scores[0]:g}"
        raise ValueError(f"{listed(sources)} holds {content}; a correlation needs pairs of different scores")
    return texts, second_texts, np.array(scores, np.float64)


def evaluate_similarity(
    model: OpenedModel,
    sources: Sequence[str],
    text_field: str = "",
    pair_field: str = "",
    label_field: str = "",
    options: EmbedOptions = DEFAULT_OPTIONS,
) -> dict[str, float | str | list[str]]:
    """Correlate the similarities of a model's vectors, by its `sentence.similarity`, with the scores of a set of pairs.

    Args:
        sources: as in `jaxencoder.text.sources`; together they are one set.
        text_field, pair_field, label_field: of the texts and the score; empty: usual names.
        options: of the vectors.

    Returns:
        pairs, their number; similarity, the name of the function; spearman and pearson, the correlations; fields, the
        names of the fields of the first text, the second text and the score.
    """
    fields = source_fields(sources, text_field, pair_field, label_field, label_names=SCORE_NAMES)
    texts, second_texts, scores = read_pairs(sources, fields)
    a, b = pair_vectors(model, texts, second_texts, options)
    similarity = model.sentence.similarity
    result = correlations(pair_similarities(similarity, a, b), scores)
    metrics = {"spearman": result["spearman"], "pearson": result["pearson"]}
    return {"pairs": len(scores), "similarity": similarity, **metrics, "fields": list(fields)}
