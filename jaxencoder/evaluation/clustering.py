"""Clustering of vectors: how well clusters by k-means agree with the classes of texts.

Both protocols are those of MTEB: Muennighoff et al. 2022, arXiv:2210.07316, for given sets of texts, and Enevoldsen et
al. 2025, arXiv:2502.13595, for draws from one set. The v-measure is that of Rosenberg and Hirschberg 2007.
"""

import itertools
import random
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxencoder.evaluation.labeled_texts import check_class, class_ids, find_fields, labeled_texts
from jaxencoder.evaluation.vectors import text_vectors
from jaxencoder.inference.model import OpenedModel
from jaxencoder.inference.options import DEFAULT_OPTIONS, EmbedOptions

SEED = 42  # MTEB's, of draws and of k-means
_SET_BATCH, _DRAW_BATCH = 500, 512  # vectors in a batch of k-means, in either protocol


def v_measure(vectors: np.ndarray, labels: np.ndarray, clusters: int, batch_size: int) -> float:
    """The v-measure of k-means in batches with vectors [N, D] and classes int [N]."""
    from sklearn.cluster import MiniBatchKMeans
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.metrics import v_measure_score

    kmeans = MiniBatchKMeans(clusters, batch_size=batch_size, n_init="auto", random_state=SEED)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer different vectors than clusters
        return float(v_measure_score(labels, kmeans.fit_predict(vectors)))


def v_measures_of_draws(
    vectors: np.ndarray, levels: Sequence[np.ndarray], samples: int, experiments: int, generator: random.Random
) -> list[float]:
    """The v-measures of draws with replacement, level by level.

    Args:
        vectors: [N, D].
        levels: for each level of a hierarchy the classes, int [N]; -1 for a text without a class of that level.
        samples: number of vectors in a draw.
        experiments: number of draws for each level.
    """
    values = []
    for labels in levels:
        level_vectors, level_labels = vectors[labels >= 0], labels[labels >= 0]
        clusters = len(np.unique(level_labels))
        if samples < clusters:
            raise ValueError(f"draws of {samples} texts cannot form {clusters} clusters; give more samples")
        for _ in range(experiments):
            drawn = generator.choices(range(len(level_labels)), k=samples)
            values.append(v_measure(level_vectors[drawn], level_labels[drawn], clusters, _DRAW_BATCH))
    return values


def evaluate_clustering(
    model: OpenedModel,
    sources: Sequence[str],
    text_field: str = "",
    label_field: str = "",
    samples: int = 16_384,
    experiments: int = 10,
    documents: int | None = None,
    options: EmbedOptions = DEFAULT_OPTIONS,
) -> dict[str, Any]:
    """Cluster a model's vectors by k-means, into as many clusters as there are classes.

    Records with a list of texts and a list of labels are one set each, which is clustered once. Of records with one
    text each, texts are drawn with replacement; their label may be a list, of the classes in a hierarchy.

    Args:
        sources: of labeled texts, as in `jaxencoder.text.sources`; together they are one set, or one list of sets.
        text_field, label_field: empty: usual names.
        samples, experiments: size and number of draws.
        documents: number of texts to draw from, chosen at random; None: all. Tasks of MTEB have their own number, often
            2,048 or 4% of the texts.
        options: of the vectors.

    Returns:
        texts, their number; v_measure, its mean over sets or draws, and v_measure_sd, the standard deviation.

    Raises:
        ValueError: a label is not a class, a set has as many labels as texts, or all texts are of one class.
    """
    fields = find_fields(sources, text_field, label_field)
    texts, labels, places = labeled_texts(sources, fields, allows_lists=True)
    if isinstance(texts[0], list):
        count, values = _measure_sets(model, texts, labels, places, options)
    else:
        if min(samples, experiments, 1 if documents is None else documents) < 1:
            raise ValueError(f"samples {samples}, experiments {experiments}, documents {documents}; give at least 1")
        generator = random.Random(SEED)
        if documents is not None:
            chosen = generator.sample(range(len(texts)), k=min(documents, len(texts)))
            texts, labels, places = ([column[i] for i in chosen] for column in (texts, labels, places))
        levels, count = _levels(texts, labels, places), len(texts)
        vectors = text_vectors(model, texts, options)
        values = v_measures_of_draws(vectors, levels, samples, experiments, generator)
    return {"texts": count, "v_measure": float(np.mean(values)), "v_measure_sd": float(np.std(values))}


def _measure_sets(
    model: OpenedModel, sets: Sequence[Any], labels: Sequence[Any], places: Sequence[str], options: EmbedOptions
) -> tuple[int, list[float]]:
    """The number of texts of all sets, and the v-measure of each."""
    values = []
    for texts, set_labels, where in zip(sets, labels, places, strict=True):
        if not isinstance(texts, list):
            raise ValueError(f"{where} holds one text, but others a list; give every record a list, or none")
        if not isinstance(set_labels, list) or len(set_labels) != len(texts):
            raise ValueError(f"{where}: {len(texts)} texts need a list of as many labels, not {repr(set_labels)[:60]}")
        classes, ids = class_ids([check_class(label, where) for label in set_labels])
        if len(classes) < 2:
            values.append(1.0)  # as MTEB has it
        else:
            values.append(v_measure(text_vectors(model, texts, options), ids, len(classes), _SET_BATCH))
    return sum(map(len, sets)), values


def _levels(texts: Sequence[Any], labels: Sequence[Any], places: Sequence[str]) -> list[np.ndarray]:
    """The classes of texts, int [N] for each level of their hierarchy; -1 where a text has none."""
    paths = []
    for text, label, where in zip(texts, labels, places, strict=True):
        if isinstance(text, list):
            raise ValueError(f"{where} holds a list of texts, but others one; give every record a list, or none")
        paths.append([check_class(part, where) for part in (label if isinstance(label, list) else [label])])
    levels = []
    for level in itertools.zip_longest(*paths):
        has_class = np.array([label is not None for label in level])
        ids = np.full(len(level), -1)
        ids[has_class] = class_ids([label for label in level if label is not None])[1]
        levels.append(ids)
    if all(len(np.unique(ids)) < 2 for ids in levels):
        raise ValueError(f"all {len(texts)} texts are of one class; clustering needs several")
    return levels
