"""Accumulation over parts of a batch, and over held-out batches: each term of a loss is a mean of all of it."""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxencoder.objectives.masking import Masking
from jaxencoder.objectives.mlm import MaskedLM
from jaxencoder.objectives.objective import Batch, Metrics, Objective, ObjectiveConfig, Params, mean, terms
from jaxencoder.objectives.replaced_token import ReplacedToken
from jaxencoder.tasks.classification.objective import Classification
from jaxencoder.tasks.multiple_choice.objective import MultipleChoice
from jaxencoder.tasks.question_answering.objective import QuestionAnswering
from jaxencoder.tasks.token_classification.objective import TokenClassification
from jaxencoder.training.step import eval_step, init_state, means, train_step
from tests.model.examples import BERT, FLOAT32, Vocabulary, assert_trees_close, randomized_params, rows

KEY = jax.random.key(0)
SGD = optax.sgd(1.0)
B, T = 8, 33
LENGTHS = [[9, 12, 7], [28], [5], [5, 5, 5], [3, 30], [2], [31], [10, 9, 2]]
# Of 4 parts, that of rows 2 and 6 has one pair, that of rows 0 and 4 three.
CLASSES = np.array(
    [[0, 1, 1], [1, -1, -1], [-1, -1, -1], [1, 0, 0], [-1, -1, -1], [-1, -1, -1], [1, -1, -1], [0, 1, -1]]
)
MASKING = Masking(rate=0.3)
SETTINGS: dict[str, tuple[ObjectiveConfig, dict[str, Any]]] = {
    "masked words": (MaskedLM(MASKING), {}),
    "masked words and pairs": (MaskedLM(MASKING, pairs=True), {"labels": CLASSES}),
    "replaced tokens": (ReplacedToken(MASKING, generator_width=1 / 3), {}),
    "weighted classes": (
        Classification(labels=2, dropout=0.0, class_weights="balanced", class_counts=(1, 9)),
        {"labels": CLASSES},
    ),
    "values": (Classification(labels=1, dropout=0.0), {"labels": np.where(CLASSES < 0, np.nan, CLASSES)}),
    "several classes": (
        Classification(labels=2, dropout=0.0, multi_label=True),
        {"labels": np.stack([CLASSES, np.minimum(CLASSES, 0)], -1).astype(np.int8)},
    ),
    "tags": (TokenClassification(tags=("O", "B-X", "I-X"), dropout=0.0), {"token_labels": "tags"}),
    "spans": (QuestionAnswering(), {"token_labels": "spans"}),
    "choices": (
        MultipleChoice(dropout=0.0),
        {"labels": np.tile([[0, 1, -1], [0, 0, 1]], (4, 1)), "groups": np.tile([[0, 0, -1], [0, 0, 0]], (4, 1))},
    ),
}


def batch_of(**arrays: Any) -> dict[str, np.ndarray]:
    batch = rows(LENGTHS, T) | {"row_ids": np.arange(B, dtype=np.uint32)}
    is_first = batch["segment_ids"] * (batch["positions"] == 0) > 0
    is_word = (batch["segment_ids"] > 0) & (batch["token_ids"] > 3)
    label = {"spans": np.where(is_first, 2, -1), "tags": np.where(is_word, batch["token_ids"] % 3, -1)}
    return batch | {name: label[x] if isinstance(x, str) else x for name, x in arrays.items()}


@pytest.mark.parametrize("name", SETTINGS)
def test_gradients_of_parts_are_those_of_their_sums(name: str) -> None:
    settings, arrays = SETTINGS[name]
    objective = settings.build(dataclasses.replace(BERT, num_layers=1), FLOAT32, Vocabulary())
    params, batch, key = randomized_params(objective.init), batch_of(**arrays), jax.random.fold_in(KEY, 0)

    @jax.jit
    @partial(jax.value_and_grad, has_aux=True)
    def share(params: Params, part: Batch, key: jax.Array, weights: jax.Array) -> tuple[jax.Array, Metrics]:
        """What a part adds to the loss of a batch of these weights, and its metrics."""
        metrics = objective.loss(params, part, key, True)[1]
        return (metrics["loss"][0] / weights).sum(), metrics

    parts = [({k: x[i::2] for k, x in batch.items()}, jax.random.fold_in(key, i)) for i in range(2)]
    metrics = [share(params, *part, jnp.ones(2 if objective.loss_weights else ()))[0][1] for part in parts]
    metrics = jax.tree.map(jnp.add, *metrics)
    shares = [share(params, *part, metrics["loss"][1]) for part in parts]
    gradients = jax.tree.map(jnp.add, *(gradient for _, gradient in shares))
    state = init_state(objective, SGD, KEY)._replace(params=params)
    after, step_metrics = jax.jit(partial(train_step, objective, SGD, accumulation=2))(state, batch, KEY)
    assert_trees_close(jax.tree.map(jnp.subtract, params, after.params), gradients, 1e-4)
    for metric, value in metrics.items():
        np.testing.assert_allclose(step_metrics[metric], value, rtol=1e-5, err_msg=metric)
    assert means(step_metrics)["loss"] == pytest.approx(float(sum(value for (value, _), _ in shares)), rel=1e-5)


def test_pairs_that_are_missing_in_a_part_equal_the_whole_batch() -> None:
    """With masks that are a row's own and no dropout, the parts of a batch see what the whole batch sees."""
    settings = MaskedLM(Masking(rate=0.3, static=True), pairs=True)
    objective = settings.build(dataclasses.replace(BERT, num_layers=1), FLOAT32, Vocabulary())
    state = init_state(objective, SGD, KEY)._replace(params=randomized_params(objective.init))
    batch, results = batch_of(labels=CLASSES), []
    for parts in (1, 4):
        results.append(jax.jit(partial(train_step, objective, SGD, accumulation=parts))(state, batch, KEY))
    for after, metrics in results[1:]:
        assert_trees_close(after.params, results[0][0].params, 1e-5)
        assert means(metrics) == pytest.approx(means(results[0][1]), rel=1e-4)


def two_terms(params: Params, batch: Batch, key: jax.Array, train: bool) -> tuple[jax.Array, Metrics]:
    """Squares of w - x for rows with a first weight, and twice those of w - y for rows with a second."""
    metrics = {
        name: ((batch[f"{name}_weight"] * (params["w"] - batch[name]) ** 2).sum(), batch[f"{name}_weight"].sum())
        for name in "xy"
    }
    metrics["loss"] = terms(metrics, {"x": 1.0, "y": 2.0})
    return mean(metrics), metrics


TWO_TERMS = Objective(
    lambda key: {"w": jnp.zeros(())},
    two_terms,
    loss_weights=lambda batch, key: jnp.stack([batch["x_weight"].sum(), batch["y_weight"].sum()]),
)
TABLE = {
    "x": [1, 2, 3, 4, 5, 6, 7, 8],
    "x_weight": [1, 0, 0, 5, 1, 0, 0, 0],
    "y": [3, 1, 4, 1, 5, 9, 2, 6],
    "y_weight": [0, 0, 0, 0, 0, 3, 0, 1],
}


@pytest.mark.parametrize("parts", [1, 2, 4, 8])
@pytest.mark.parametrize("unused", ["", "x_weight", "y_weight"])
def test_each_term_has_its_weight(parts: int, unused: str) -> None:
    batch = {name: np.array(x, np.float32) * (name != unused) for name, x in TABLE.items()}
    batch["segment_ids"] = np.ones((8, 1), np.int32)
    x = 0 if unused == "x_weight" else np.average(TABLE["x"], weights=TABLE["x_weight"])
    y = 0 if unused == "y_weight" else np.average(TABLE["y"], weights=TABLE["y_weight"])
    state = init_state(TWO_TERMS, SGD, KEY)
    after, metrics = jax.jit(partial(train_step, TWO_TERMS, SGD, accumulation=parts))(state, batch, KEY)
    assert float(after.params["w"]) == pytest.approx(2 * x + 4 * y, rel=1e-5)  # minus the gradient at 0
    assert means(metrics)["loss"] == pytest.approx(float(two_terms(state.params, batch, KEY, True)[0]), rel=1e-5)


def test_held_out_batches_add_up_to_the_loss_of_all_rows() -> None:
    batch = {name: np.array(x, np.float32) for name, x in TABLE.items()}
    params, total = {"w": jnp.float32(0.5)}, None
    for start, end in ((0, 1), (1, 2), (2, 6), (6, 8)):
        metrics = eval_step(TWO_TERMS, params, {name: x[start:end] for name, x in batch.items()}, KEY)
        total = metrics if total is None else jax.tree.map(jnp.add, total, metrics)
    assert total is not None
    result = means(total)
    assert result["loss"] == pytest.approx(float(two_terms(params, batch, KEY, False)[0]), rel=1e-6)
    assert result["loss"] == pytest.approx(result["x"] + 2 * result["y"], rel=1e-6)
