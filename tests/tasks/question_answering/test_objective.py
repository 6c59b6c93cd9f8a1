"""Answers as spans: equal to transformers, and to the same windows unpacked."""

import jax
import numpy as np
import pytest

from jaxencoder.tasks.question_answering.objective import QuestionAnswering
from tests.model import examples
from tests.model.examples import BERT, FLOAT32, SMALL, Vocabulary, rows
from tests.objectives.comparisons import KEY, KEY_BIASES, assert_close, from_transformers, loss_and_gradients

T = 33
ENDS = {1: (3, 5), 2: (4, 4), 3: (0, 0)}  # of the segments of a row; one token, and [CLS]


def build(config=SMALL["bert"]):
    return QuestionAnswering().build(config, FLOAT32, Vocabulary())


def labelled(lengths):
    batch = rows(lengths, T)
    labels = np.full(batch["token_ids"].shape, -1, np.int32)
    for row, segments in zip(labels, batch["segment_ids"], strict=True):
        for segment in range(1, segments.max() + 1):
            first, last = ENDS[segment] if (segments == segment).sum() > 5 else (0, 1)
            start = np.flatnonzero(segments == segment)[0]
            row[start + last] = 1
            row[start + first] = 2 if first == last else 0
    return batch | {"token_labels": labels}


def test_equals_transformers():
    torch = pytest.importorskip("torch")
    objective = build(BERT)
    theirs, params = from_transformers("BertForQuestionAnswering", objective)
    batch = labelled([[T], [T], [T]])
    output = theirs(
        input_ids=torch.tensor(batch["token_ids"]).long(),
        attention_mask=torch.tensor(batch["segment_ids"]).long(),
        start_positions=torch.tensor([3] * 3),
        end_positions=torch.tensor([5] * 3),
    )
    loss, metrics = jax.jit(objective.loss, static_argnums=3)(params, batch, KEY, True)
    assert float(loss) == pytest.approx(output.loss.item(), rel=1e-5)
    right = (output.start_logits.argmax(-1) == 3) & (output.end_logits.argmax(-1) == 5)
    assert [float(x) for x in metrics["exact"]] == [right.sum().item(), 3]


def test_packing_changes_neither_loss_nor_metrics():
    objective = build()
    params = examples.randomized_params(objective.init)
    packed = labelled([[9, 12, 7], [28, 3], [6, 8, 10]])
    single, _ = examples.one_per_row(packed, T)
    together, alone = (loss_and_gradients(objective, params, batch) for batch in (packed, single))
    assert_close(together, alone, without=f"{KEY_BIASES}|span_head/output/bias")  # it moves all scores: no gradient
    assert float(together[1]["loss"][1]) == 8
    np.testing.assert_allclose(together[1]["exact"], alone[1]["exact"])


def test_both_ends_of_a_window_must_score_most():
    objective = build()
    params = examples.randomized_params(objective.init)
    batch = labelled([[9, 12, 7]])
    scores = np.asarray(jax.jit(objective.scores, static_argnums=3)(params, batch, KEY, False))[0]
    labels = np.full(batch["token_ids"].shape, -1, np.int32)
    for segment, off in ((1, (0, 0)), (2, (1, 0)), (3, (0, 1))):  # the second has its start wrong, the third its end
        places = np.flatnonzero(batch["segment_ids"][0] == segment)
        first, last = (int(places[(scores[places, i].argmax() + off[i]) % len(places)]) for i in range(2))
        labels[0, last] = 1
        labels[0, first] = 2 if first == last else 0
    metrics = jax.jit(objective.loss, static_argnums=3)(params, batch | {"token_labels": labels}, KEY, False)[1]
    assert [float(x) for x in metrics["exact"]] == [1, 3]


def test_settings():
    for setting in ({"dropout": -0.1}, {"max_answer_length": 0}):
        with pytest.raises(ValueError, match=f"objective.{next(iter(setting))} must be"):
            QuestionAnswering(**setting)
