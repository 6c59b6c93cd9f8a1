"""Classification of vectors: logistic regressions on a few texts of each class, whatever the model was trained for.

The protocol is that of Muennighoff et al. 2022 (MTEB), arXiv:2210.07316, with the same draws of texts.
"""

import logging
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxencoder.evaluation.labeled_texts import check_class, class_ids, find_fields, labeled_texts
from jaxencoder.evaluation.vectors import pair_vectors
from jaxencoder.inference.model import OpenedModel
from jaxencoder.inference.options import DEFAULT_OPTIONS, EmbedOptions
from jaxencoder.text.messages import listed

log = logging.getLogger(__name__)

SEED = 42  # MTEB's, of every draw
_ITERATIONS = 100  # of a logistic regression at most, converged or not


def draws(labels: np.ndarray, samples_per_label: int, experiments: int) -> list[np.ndarray]:
    """Indices of at most `samples_per_label` texts of each class for each experiment, by labels int [N].

    Each experiment shuffles the order of the one before, with the same seed, as MTEB does.
    """
    order, chosen = list(range(len(labels))), []
    for _ in range(experiments):
        np.random.RandomState(SEED).shuffle(order)
        ranks = np.zeros(labels.max() + 1, int)
        indices = []
        for i in order:
            if ranks[labels[i]] < samples_per_label:
                ranks[labels[i]] += 1
                indices.append(i)
        chosen.append(np.array(indices))
    return chosen


def fit_and_measure(train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray]) -> dict[str, float]:
    """Metrics on `test` of a logistic regression fitted to `train`, vectors [N, D] and classes int [N] each.

    Returns:
        accuracy and f1, the mean over classes; of two classes in `test` also ap, the average precision of the predicted
        classes (not of probabilities), as MTEB has it.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import accuracy_score, average_precision_score, f1_score

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the protocol ends at that iteration
        predicted = LogisticRegression(max_iter=_ITERATIONS).fit(*train).predict(test[0])
    metrics = {
        "accuracy": float(accuracy_score(test[1], predicted)),
        "f1": float(f1_score(test[1], predicted, average="macro")),
    }
    if len(np.unique(test[1])) == 2:
        metrics["ap"] = float(average_precision_score(test[1] == test[1].max(), predicted == test[1].max()))
    return metrics


def evaluate_classification(
    model: OpenedModel,
    sources: Sequence[str],
    train: str = "",
    text_field: str = "",
    label_field: str = "",
    samples_per_label: int = 8,
    experiments: int = 10,
    options: EmbedOptions = DEFAULT_OPTIONS,
) -> dict[str, Any]:
    """Classify a model's vectors by logistic regressions, each fitted to a few texts of every class.

    Args:
        sources: of labeled texts to measure on, as in `jaxencoder.text.sources`; together they are one set.
        train: sources, joined by commas, of the labeled texts to draw from.
        text_field, label_field: of all sources; empty: usual names.
        samples_per_label: number of texts of each class that are drawn; most tasks of MTEB take 8 or 16.
        experiments: number of draws.
        options: of the vectors.

    Returns:
        texts and classes, their numbers; the means over experiments of `fit_and_measure`; accuracy_sd, the standard
        deviation over them.

    Raises:
        ValueError: a label is not a class, the training texts have one class, or the tested texts have none of theirs.
    """
    if min(samples_per_label, experiments) < 1:
        raise ValueError(f"{samples_per_label} texts per class in {experiments} experiments; give at least 1 of both")
    if not train:
        raise ValueError("classification needs labeled texts to learn from; name them as train")
    train_sources, texts, labels = train.split(","), [], []
    for part in (train_sources, sources):
        part_texts, part_labels, places = labeled_texts(part, find_fields(part, text_field, label_field))
        texts.append(part_texts)
        labels.append([check_class(label, where) for label, where in zip(part_labels, places, strict=True)])
    classes, ids = class_ids(labels[0] + labels[1])
    train_ids, test_ids = np.split(ids, [len(texts[0])])
    _check_classes(classes, train_ids, test_ids, train)
    chosen = draws(train_ids, samples_per_label, experiments)
    union = np.unique(np.concatenate(chosen))
    train_vectors, test_vectors = pair_vectors(model, [texts[0][i] for i in union], texts[1], options)
    results = [
        fit_and_measure((train_vectors[np.searchsorted(union, i)], train_ids[i]), (test_vectors, test_ids))
        for i in chosen
    ]
    means = {name: float(np.mean([result[name] for result in results])) for name in results[0]}
    spread = float(np.std([result["accuracy"] for result in results]))
    return {"texts": len(texts[1]), "classes": len(np.unique(train_ids))} | means | {"accuracy_sd": spread}


def _check_classes(classes: Sequence[str | int], train_ids: np.ndarray, test_ids: np.ndarray, train: str) -> None:
    if len(np.unique(train_ids)) < 2:
        raise ValueError(f"{train} holds only texts of the class {classes[train_ids[0]]!r}; give texts of several")
    unknown = np.setdiff1d(test_ids, train_ids)
    if not np.isin(test_ids, train_ids).any():
        raise ValueError(
            f"{train} holds no text of the tested classes, such as {classes[unknown[0]]!r}; spell them alike"
        )
    if len(unknown):
        names = listed(str(classes[i]) for i in unknown[:8])
        log.warning("%s holds no text of %d tested classes: %s.", train, len(unknown), names)
