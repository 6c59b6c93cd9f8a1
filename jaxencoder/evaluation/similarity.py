"""Semantic textual similarity: the correlation of vectors' similarities with human scores of pairs of texts.

Agirre et al. 2012, SemEval-2012 task 6; Spearman's rank correlation over all pairs together, as in Reimers and Gurevych
2019 (Sentence-BERT), arXiv:1908.10084.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxencoder.inference.embed import embed
from jaxencoder.inference.model import OpenedModel
from jaxencoder.inference.options import DEFAULT_OPTIONS, EmbedOptions
from jaxencoder.model.similarity import pair_similarities
from jaxencoder.tasks.classification.metrics import correlations
from jaxencoder.tasks.records import numbered, with_texts
from jaxencoder.text.labels import Labels
from jaxencoder.text.schema import TEXTS
from jaxencoder.text.sources import field_names, listed

# Usual names of the score in published sets, in the order in which they are tried.
_SCORES = ("score", "similarity_score", "similarity", "relatedness_score", "label")


class Fields(NamedTuple):
    """Names of the fields of a record: two texts, and the score of their similarity."""

    text: str
    second_text: str
    score: str


def find_fields(names: Sequence[str], text: str = "", pair: str = "", score: str = "", source: str = "data") -> Fields:
    """The fields of a set whose records have these names; empty text, pair or score: a usual name, or ValueError."""
    a, b = next(((a, b) for a, b in TEXTS.pair_names if a in names and b in names), ("", ""))
    fields = Fields(text or a, pair or b, score or next((name for name in _SCORES if name in names), ""))
    has = f"{source} has the fields {listed(names)}, and"
    if not fields.text or not fields.second_text:
        raise ValueError(f"{has} no usual pair of texts; name them with --text-field and --pair-field")
    if not fields.score:
        raise ValueError(f"{has} none of {listed(_SCORES)}; name the score with --label-field")
    if len(set(fields)) < 3:
        raise ValueError(f"the two texts and the score are three fields, not {listed(fields)}; name others")
    return fields


def read_pairs(sources: Sequence[str], fields: Fields) -> tuple[list[str], list[str], np.ndarray]:
    """The N first texts, N second texts and scores float64 [N] of the set that the sources hold together.

    Raises:
        ValueError: a record lacks a field, a text is not a string, a score is not a finite number, or all scores are
            equal, so that a correlation is undefined.
    """
    texts, second_texts, scores = [], [], []
    for source in sources:
        for where, record in numbered(source, fields.text, fields[1:]):
            texts.append(record[fields.text])
            second_texts.append(with_texts(record, [fields.second_text], where)[fields.second_text])
            scores.append(Labels("value", ()).encode(record[fields.score], where))
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
    fields = find_fields(field_names(sources[0]), text_field, pair_field, label_field, sources[0])
    texts, second_texts, scores = read_pairs(sources, fields)
    rows = {text: row for row, text in enumerate(dict.fromkeys(texts + second_texts))}  # each text is embedded once
    vectors = embed(model, list(rows), options)
    if not np.isfinite(vectors).all():
        raise ValueError("the vectors hold numbers that are not finite: the model is damaged, or training diverged")
    a, b = (vectors[[rows[text] for text in side]] for side in (texts, second_texts))
    similarity = model.sentence.similarity
    result = correlations(pair_similarities(similarity, a, b), scores)
    metrics = {"spearman": result["spearman"], "pearson": result["pearson"]}
    return {"pairs": len(scores), "similarity": similarity, **metrics, "fields": list(fields)}
