"""Multiple choice: equal to transformers, packed or not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxencoder.tasks.multiple_choice.objective import MultipleChoice
from tests.model import examples
from tests.model.examples import BERT, FLOAT32, SMALL, Vocabulary, rows
from tests.objectives.comparisons import KEY, KEY_BIASES, assert_close, from_transformers, loss_and_gradients

T = 33
# Two examples in the first row, one of each in the others; of 3, 2, 2 and 3 choices.
LENGTHS = [[7, 5, 9, 4, 6], [15, 16], [9, 12, 7]]
GROUPS = np.array([[0, 0, 0, 1, 1], [0, 0, -1, -1, -1], [0, 0, 0, -1, -1]], np.int32)
LABELS = np.array([[0, 1, 0, 1, 0], [0, 1, -1, -1, -1], [1, 0, 0, -1, -1]], np.int32)


def build(config=SMALL["bert"]):
    return MultipleChoice(dropout=0.0).build(config, FLOAT32, Vocabulary())


def test_equals_transformers_though_packed():
    torch = pytest.importorskip("torch")
    objective = build(BERT)
    theirs, params = from_transformers("BertForMultipleChoice", objective)
    batch = rows(LENGTHS, T) | {"groups": GROUPS, "labels": LABELS}
    types = (batch["positions"] > 3) & (batch["segment_ids"] > 0)
    batch["token_type_ids"] = types.astype(np.int32)
    scores = jax.jit(objective.scores, static_argnums=3)(params, batch, KEY, False)[..., 0]
    losses, right = [], 0
    for row, group in ((0, 0), (0, 1), (1, 0), (2, 0)):
        at = np.flatnonzero(GROUPS[row] == group)
        inputs = {name: np.zeros((1, len(at), T), int) for name in ("input_ids", "attention_mask", "token_type_ids")}
        for i, segment in enumerate(at + 1):
            inside = batch["segment_ids"][row] == segment
            inputs["input_ids"][0, i, : inside.sum()] = batch["token_ids"][row, inside]
            inputs["token_type_ids"][0, i, : inside.sum()] = batch["token_type_ids"][row, inside]
            inputs["attention_mask"][0, i, : inside.sum()] = 1
        label = int(LABELS[row, at].argmax())
        output = theirs(**{k: torch.tensor(x) for k, x in inputs.items()}, labels=torch.tensor([label]))
        np.testing.assert_allclose(scores[row, at], output.logits[0].detach().numpy(), atol=1e-4)
        losses.append(output.loss.item())
        right += int(output.logits.argmax()) == label
    loss, metrics = jax.jit(objective.loss, static_argnums=3)(params, batch, KEY, True)
    assert float(loss) == pytest.approx(np.mean(losses), rel=1e-5)
    assert [float(x) for x in metrics["accuracy"]] == [right, 4]


def test_where_the_examples_stand_changes_nothing():
    """Each example in a row of its own, with more padding, has the same loss and gradients."""
    objective = build()
    params = examples.randomized_params(objective.init)
    packed = rows(LENGTHS, T) | {"groups": GROUPS, "labels": LABELS}
    single = {name: np.zeros((4, T), np.int32) for name in ("token_ids", "segment_ids", "positions")}
    single |= {name: np.full((4, 6), -1, np.int32) for name in ("groups", "labels")}
    for i, (row, group) in enumerate(((0, 0), (0, 1), (1, 0), (2, 0))):
        at = np.flatnonzero(GROUPS[row] == group)
        inside = np.isin(packed["segment_ids"][row], at + 1)
        for name in ("token_ids", "segment_ids", "positions"):
            single[name][i, : inside.sum()] = packed[name][row, inside]
        single["segment_ids"][i, : inside.sum()] -= at[0]
        single["groups"][i, : len(at)] = 0
        single["labels"][i, : len(at)] = LABELS[row, at]
    together, alone = (loss_and_gradients(objective, params, batch) for batch in (packed, single))
    assert_close(together, alone, without=f"{KEY_BIASES}|classifier/classifier/bias")  # it moves all scores
    assert float(together[1]["loss"][1]) == 4
    np.testing.assert_allclose(together[1]["accuracy"], alone[1]["accuracy"])


def test_equal_scores_are_no_hit_for_all():
    objective = build()
    params = jax.tree.map(jnp.zeros_like, examples.randomized_params(objective.init))  # a model that has collapsed
    batch = rows([[5, 5, 5, 5]], T) | {"labels": np.array([[0, 1, 1, 0]]), "groups": np.array([[0, 0, 1, 1]])}
    metrics = jax.jit(objective.loss, static_argnums=3)(params, batch, KEY, False)[1]
    assert [float(x) for x in metrics["accuracy"]] == [1, 2]  # of equals the first is chosen, as evaluate does


def test_padding_alone_has_no_loss():
    objective = build()
    params = examples.randomized_params(objective.init)
    none = np.full((1, 2), -1, np.int32)
    batch = rows([[]], T) | {"groups": none, "labels": none}
    loss, metrics = jax.jit(objective.loss, static_argnums=3)(params, batch, KEY, True)
    assert float(loss) == 0 and float(metrics["accuracy"][1]) == 0


def test_settings():
    with pytest.raises(ValueError, match="objective.dropout must be"):
        MultipleChoice(dropout=1.0)
