"""Classification and regression: equal to transformers, to sums in numpy, and to the same documents unpacked."""

import jax
import numpy as np
import pytest

from jaxencoder.objectives.objective import Objective
from jaxencoder.tasks.classification.objective import Classification
from tests.model import examples
from tests.model.examples import BERT, FLOAT32, LONGFORMER, SMALL, Vocabulary, rows
from tests.objectives.comparisons import KEY, assert_close, from_transformers, loss_and_gradients

T = 33
LENGTHS = [[9, 12, 7], [28, 2], [5, 5, 5]]


def build(config=SMALL["bert"], **settings) -> Objective:
    return Classification(**{"dropout": 0.0} | settings).build(config, FLOAT32, Vocabulary())


def test_equals_transformers() -> None:
    torch = pytest.importorskip("torch")
    objective = build(BERT, labels=3)
    theirs, params = from_transformers("BertForSequenceClassification", objective, num_labels=3)
    batch = rows([[T], [20], [3]], T) | {"labels": np.array([[2], [0], [1]])}
    inputs = {
        "input_ids": torch.tensor(batch["token_ids"]).long(),
        "attention_mask": torch.tensor(batch["segment_ids"]).long(),
    }
    output = theirs(**inputs, labels=torch.tensor([2, 0, 1]))
    scores = jax.jit(objective.scores, static_argnums=3)(params, batch, KEY, False)
    np.testing.assert_allclose(scores[:, 0], output.logits.detach().numpy(), atol=1e-4)
    loss, metrics = jax.jit(objective.loss, static_argnums=3)(params, batch, KEY, True)
    assert float(loss) == pytest.approx(output.loss.item(), rel=1e-5)
    correct = (output.logits.argmax(-1).numpy() == [2, 0, 1]).sum()
    assert [float(x) for x in metrics["accuracy"]] == [correct, 3]


@pytest.mark.parametrize(
    ("family", "pooling", "labels"), [("bert", "mean", 3), ("modernbert", "learned", 1), ("longformer", "cls", 3)]
)
def test_packing_changes_neither_loss_nor_gradients(family: str, pooling: str, labels: int) -> None:
    objective = build((SMALL | {"longformer": LONGFORMER})[family], labels=labels, pooling=pooling)
    params = examples.randomized_params(objective.init)
    none = -1 if labels > 1 else np.nan
    values = np.array([[2, 0, 1], [1, none, none], [0, none, 2]])  # one document of a row may have no label
    packed = rows(LENGTHS, T) | {"labels": values.astype(np.int32 if labels > 1 else np.float32)}
    single, origins = examples.one_per_row(packed, T)
    single["labels"] = np.array([[packed["labels"][b, s - 1]] for b, s in origins])
    together, alone = (loss_and_gradients(objective, params, batch) for batch in (packed, single))
    assert_close(together, alone)
    _, metrics, gradients = together
    assert float(metrics["loss"][1]) == 6 and ("accuracy" in metrics) == (labels > 1)
    if family == "longformer":  # [CLS] is global
        assert np.any(gradients["encoder/layers/block_0/attention/global_query/kernel"])


@pytest.mark.parametrize("labels", [1, 4])
def test_losses(labels: int) -> None:
    objective = build(labels=labels)
    params = examples.randomized_params(objective.init)
    batch = rows(LENGTHS, T)
    values = np.array([[3, 0, 1], [2, -1, -1], [1, -1, 0]])
    there = values >= 0
    batch["labels"] = values if labels > 1 else np.where(there, values / 2, np.nan).astype(np.float32)
    scores = np.asarray(jax.jit(objective.scores, static_argnums=3)(params, batch, KEY, False), np.float64)
    if labels == 1:
        losses = (scores[..., 0] - batch["labels"]) ** 2
    else:
        true = np.take_along_axis(scores, np.maximum(values, 0)[..., None], -1)[..., 0]
        losses = np.log(np.exp(scores).sum(-1)) - true
    loss, metrics = jax.jit(objective.loss, static_argnums=3)(params, batch, KEY, False)
    assert float(loss) == pytest.approx(losses[there].mean(), rel=1e-4)
    if labels > 1:
        assert float(metrics["accuracy"][0]) == (scores.argmax(-1) == values)[there].sum()


COUNTS = (50, 3, 0, 947)  # a class that training never saw counts as one that it saw once
SHARES = np.maximum(COUNTS, 1) / np.maximum(COUNTS, 1).sum()


def weights_of(kind: str) -> np.ndarray:
    n = np.maximum(COUNTS, 1).astype(np.float64)
    return {"none": n**0, "balanced": 1 / n, "effective": (1 - 0.99) / (1 - 0.99**n)}[kind]


@pytest.mark.parametrize(
    ("loss", "weights"),
    [("cross_entropy", "balanced"), ("cross_entropy", "effective"), ("focal", "none"), ("logit_adjusted", "balanced")],
)
def test_losses_of_rare_classes(loss: str, weights: str) -> None:
    settings = {"loss": loss, "class_weights": weights, "class_counts": COUNTS, "effective_beta": 0.99}
    objective = build(labels=4, focal_gamma=1.5, adjustment=0.7, **settings)
    params = examples.randomized_params(objective.init)
    labels = np.array([[3, 0, 1], [2, -1, -1], [1, -1, 0]])
    batch = rows(LENGTHS, T) | {"labels": labels}
    scores = np.asarray(jax.jit(objective.scores, static_argnums=3)(params, batch, KEY, False), np.float64)
    scores, true = scores[labels >= 0], labels[labels >= 0]
    adjusted = scores + 0.7 * np.log(SHARES) if loss == "logit_adjusted" else scores
    p = (np.exp(adjusted) / np.exp(adjusted).sum(-1, keepdims=True))[np.arange(6), true]
    losses = -np.log(p) * ((1 - p) ** 1.5 if loss == "focal" else 1)
    value, metrics = jax.jit(objective.loss, static_argnums=3)(params, batch, KEY, True)
    assert float(value) == pytest.approx(np.average(losses, weights=weights_of(weights)[true]), rel=1e-4)
    assert [float(x) for x in metrics["accuracy"]] == [(scores.argmax(-1) == true).sum(), 6]
    # Of all training examples the mean weight is 1, so that the learning rate keeps its meaning.
    own = Classification(labels=4, **settings)._class_weights(np.maximum(COUNTS, 1).astype(np.float64))
    assert (own * SHARES).sum() == pytest.approx(1)


def test_what_is_sure_has_no_focal_gradient() -> None:
    """Neither infinite nor NaN where p is 1 in float32."""
    objective = build(labels=2, loss="focal", focal_gamma=0.5)
    params = examples.randomized_params(objective.init)
    params["classifier"]["classifier"]["bias"] = np.array([1e4, 0], np.float32)
    batch = rows(LENGTHS, T) | {"labels": np.zeros((3, 3), np.int32)}
    loss, gradients = jax.jit(jax.value_and_grad(lambda p: objective.loss(p, batch, KEY, False)[0]))(params)
    assert loss == 0 and all(not np.any(x) for x in jax.tree.leaves(gradients))


def test_losses_of_classes_are_not_for_values() -> None:
    with pytest.raises(ValueError, match="loss focal and class_weights none are for classes, but the labels are"):
        build(labels=1, loss="focal")
    with pytest.raises(ValueError, match="class_counts counts 2 classes of 3"):
        build(labels=3, class_counts=(1, 2))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"focal_gamma": -1.0}, "focal_gamma must be 0 or a positive number, got -1.0"),
        ({"adjustment": float("nan")}, "adjustment must be 0 or a positive number, got nan"),
        ({"effective_beta": 1.0}, "effective_beta must be in .0, 1., got 1.0"),
        ({"class_counts": (3, -1)}, "class_counts must not be negative, got .3, -1."),
        ({"labels": -1}, "objective.labels must not be negative, got -1"),
        ({"labels": 3, "class_names": ("a", "b")}, "objective.class_names has 2 names of 3 classes"),
        ({"dropout": 1.0}, "must be in .0, 1., got 1.0"),
    ],
)
def test_errors(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Classification(**settings)
