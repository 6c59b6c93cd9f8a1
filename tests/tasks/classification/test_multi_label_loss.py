"""Several classes for a document: equal to torch's loss, to sums in numpy, and to the same documents unpacked."""

import jax
import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from jaxencoder.tasks.classification.objective import Classification, multi_label_metrics
from tests.model import examples
from tests.model.examples import FLOAT32, SMALL, Vocabulary, rows
from tests.objectives.comparisons import KEY, assert_close, loss_and_gradients

T, C = 33, 5
LENGTHS = [[9, 12, 7], [28, 2], [5, 5, 5]]


def build(**settings):
    return Classification(**{"dropout": 0.0, "labels": C, "multi_label": True} | settings).build(
        SMALL["bert"], FLOAT32, Vocabulary()
    )


def random_labels(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Scores and labels of 3 rows of up to 4 documents; one row has no more than 2, and one document no class."""
    random = np.random.default_rng(seed)
    scores = random.normal(0, 2, (3, 4, C)).astype(np.float32)
    labels = random.integers(0, 2, (3, 4, C)).astype(np.int8)
    labels[0, 0], labels[1, 2:] = 0, -1
    return scores, labels


def value(metrics, name):
    return float(metrics[name][0]) / float(metrics[name][1])


def test_metrics_equal_torch_and_sklearn():
    torch = pytest.importorskip("torch")
    scores, labels = random_labels()
    weights = np.array([0.5, 1, 2, 1, 0.5], np.float32)
    found = multi_label_metrics(scores, labels, weights)
    there = labels[..., 0] >= 0
    z, y = torch.tensor(scores[there]), torch.tensor(labels[there]).float()
    theirs = torch.nn.BCEWithLogitsLoss(weight=torch.tensor(weights))(z, y)
    assert value(found, "loss") == pytest.approx(theirs.item(), rel=1e-6) and float(found["loss"][1]) == 10
    said = scores[there] > 0
    assert value(found, "micro_f1") == pytest.approx(sklearn_metrics.f1_score(labels[there], said, average="micro"))
    assert value(found, "accuracy") == pytest.approx(sklearn_metrics.accuracy_score(labels[there], said))


def test_focal_loss_by_hand():
    scores, labels = random_labels()
    found = multi_label_metrics(scores, labels, np.ones(C, np.float32), focal_gamma=2.0)
    there = labels[..., 0] >= 0
    p = 1 / (1 + np.exp(-scores[there].astype(np.float64)))
    p = np.where(labels[there] > 0, p, 1 - p)
    assert value(found, "loss") == pytest.approx((-np.log(p) * (1 - p) ** 2).mean(), rel=1e-5)
    sure = np.full((1, 1, C), 1e4, np.float32)
    gradient = jax.grad(lambda z: multi_label_metrics(z, np.ones((1, 1, C), np.int8), np.ones(C), 0.5)["loss"][0])(sure)
    assert not np.any(gradient)


def test_settings_reach_the_loss():
    settings = {"loss": "focal", "focal_gamma": 1.5, "class_weights": "balanced", "class_counts": (1, 2, 4, 8, 16)}
    objective = build(**settings)
    params = examples.randomized_params(objective.init)
    batch = rows([[9, 12]], T) | {"labels": np.array([[[1, 0, 1, 0, 0], [0, 0, 0, 1, 1]]], np.int8)}
    scores = np.asarray(jax.jit(objective.scores, static_argnums=3)(params, batch, KEY, False))
    weights = 1 / np.array(settings["class_counts"])
    found = jax.jit(objective.loss, static_argnums=3)(params, batch, KEY, False)[0]
    wanted = multi_label_metrics(scores, batch["labels"], (weights / weights.mean()).astype(np.float32), 1.5)
    assert float(found) == pytest.approx(value(wanted, "loss"), rel=1e-5)


def test_packing_changes_neither_loss_nor_gradients():
    objective = build()
    params = examples.randomized_params(objective.init)
    labels = np.random.default_rng(1).integers(0, 2, (3, 3, C)).astype(np.int8)
    labels[1, 2] = -1
    packed = rows(LENGTHS, T) | {"labels": labels}
    single, origins = examples.one_per_row(packed, T)
    single["labels"] = np.array([[labels[b, s - 1]] for b, s in origins])
    together, alone = (loss_and_gradients(objective, params, batch) for batch in (packed, single))
    assert_close(together, alone)
    assert float(together[1]["loss"][1]) == 8
    for name in ("micro_f1", "accuracy"):
        np.testing.assert_allclose(together[1][name], alone[1][name])


def test_weights_of_classes():
    weights = Classification(labels=3, multi_label=True, class_weights="balanced")._class_weights(np.array([1.0, 2, 4]))
    np.testing.assert_allclose(weights, np.array([4, 2, 1]) * 3 / 7)


def test_what_is_not_for_several_classes():
    with pytest.raises(ValueError, match="loss is logit_adjusted, which is not for several classes"):
        build(loss="logit_adjusted")
    with pytest.raises(ValueError, match="labels is 1, which is not for several classes"):
        build(labels=1)
