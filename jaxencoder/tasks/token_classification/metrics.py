"""Metrics of tagged words: entities are correct if their words and their type are, as in conlleval.

Tjong Kim Sang and De Meulder 2003, arXiv:cs/0306050.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from jaxencoder.tasks.token_classification.entities import entities
from jaxencoder.tasks.token_classification.scheme import STRAY, Scheme, read_tags


def tag_metrics(
    true: Iterable[Sequence[str]], predicted: Iterable[Sequence[str]], names: Sequence[str] = ()
) -> dict[str, Any]:
    """Accuracy of words, and precision, recall and F1 of entities or of tags.

    Args:
        true, predicted: tags of the words of each text.
        names: of all tags that can be predicted, which decide whether tags mark entities; empty: those that occur. A
            true tag that is not among them is read by the scheme of the true tags; tags of no scheme are outside.

    Returns:
        accuracy of words; words and examples, their numbers; "classes" with precision, recall, f1 (0 if undefined) and
        examples of each type of entities, or of each tag if tags mark none; macro_f1, the mean over those that are true
        or predicted somewhere. If the tags mark entities, also precision, recall and f1 of all, and entities, their
        number.
    """
    true, predicted = [list(tags) for tags in true], [list(tags) for tags in predicted]
    names = names or sorted({tag for tags in (*true, *predicted) for tag in tags})
    readings = read_tags(names, sorted({tag for tags in true for tag in tags}))
    if readings is not None:
        spelling = {reading: name for name, reading in reversed(readings.items()) if name in names and reading != STRAY}
        true = [[tag if tag in names else spelling.get(readings[tag], tag) for tag in tags] for tags in true]
    right = sum(a == b for x, y in zip(true, predicted, strict=True) for a, b in zip(x, y, strict=True))
    words = sum(map(len, true))
    result: dict[str, Any] = {"accuracy": right / max(words, 1)}
    if readings is None:
        hits, positives, actual = _count_tags(true, predicted)
    else:
        hits, positives, actual = _count_entities(true, predicted, Scheme.of_readings(readings))
        result |= _f1_scores(hits.total(), positives.total(), actual.total()) | {"entities": actual.total()}
    classes = {
        kind: _f1_scores(hits[kind], positives[kind], actual[kind]) | {"examples": actual[kind]}
        for kind in sorted(positives.keys() | actual.keys())
    }
    result["macro_f1"] = float(np.mean([scores["f1"] for scores in classes.values()])) if classes else 0.0
    return result | {"words": words, "examples": len(true), "classes": classes}


def _count_entities(true: list[list[str]], predicted: list[list[str]], scheme: Scheme) -> tuple[Counter, ...]:
    """Numbers of correct, predicted and true entities of each type."""
    counts = Counter(), Counter(), Counter()
    for x, y in zip(true, predicted, strict=True):
        a, b = (set(entities(tags, scheme)) for tags in (x, y))
        for counter, part in zip(counts, (a & b, b, a), strict=True):
            counter.update(entity.kind for entity in part)
    return counts


def _count_tags(true: list[list[str]], predicted: list[list[str]]) -> tuple[Counter, ...]:
    """Numbers of words with each tag: correct, predicted and true."""
    hits, positives, actual = Counter(), Counter(), Counter()
    for x, y in zip(true, predicted, strict=True):
        hits.update(a for a, b in zip(x, y, strict=True) if a == b)
        positives.update(y)
        actual.update(x)
    return hits, positives, actual


def _f1_scores(hits: int, positives: int, actual: int) -> dict[str, float]:
    return {
        "precision": hits / positives if positives else 0.0,
        "recall": hits / actual if actual else 0.0,
        "f1": 2 * hits / (positives + actual) if positives + actual else 0.0,
    }
