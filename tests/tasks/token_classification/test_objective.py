"""Tagging words: equal to transformers, to the same texts unpacked, and to entities counted one by one."""

import itertools

import jax
import numpy as np
import pytest

from jaxencoder.tasks.token_classification.entities import count_entities, entities
from jaxencoder.tasks.token_classification.objective import TokenClassification
from jaxencoder.tasks.token_classification.scheme import Scheme
from tests.model import examples
from tests.model.examples import BERT, FLOAT32, SMALL, Vocabulary, rows
from tests.objectives.comparisons import KEY, assert_close, from_transformers, loss_and_gradients

T = 33
TAGS = ("B-x", "B-y", "I-x", "I-y", "O")


def build(config=SMALL["bert"], **settings):
    return TokenClassification(**{"dropout": 0.0, "tags": TAGS} | settings).build(config, FLOAT32, Vocabulary())


def labelled(lengths, seed=0):
    batch = rows(lengths, T)
    random = np.random.default_rng(seed)
    labels = random.integers(0, len(TAGS), batch["token_ids"].shape)
    inside = (batch["segment_ids"] > 0) & (random.random(labels.shape) < 0.7)
    return batch | {"token_labels": np.where(inside, labels, -1).astype(np.int32)}


def test_equals_transformers():
    torch = pytest.importorskip("torch")
    objective = build(BERT)
    theirs, params = from_transformers("BertForTokenClassification", objective, num_labels=len(TAGS))
    batch = labelled([[T], [20], [3]])
    labels = torch.tensor(np.where(batch["token_labels"] < 0, -100, batch["token_labels"])).long()
    output = theirs(
        input_ids=torch.tensor(batch["token_ids"]).long(),
        attention_mask=torch.tensor(batch["segment_ids"]).long(),
        labels=labels,
    )
    loss, metrics = jax.jit(objective.loss, static_argnums=3)(params, batch, KEY, True)
    assert float(loss) == pytest.approx(output.loss.item(), rel=1e-5)
    right = (output.logits.argmax(-1) == labels).sum().item()
    assert [float(x) for x in metrics["accuracy"]] == [right, (labels >= 0).sum().item()]


def test_packing_changes_neither_loss_nor_metrics():
    objective = build()
    params = examples.randomized_params(objective.init)
    packed = labelled([[9, 12, 7], [28, 2], [5, 5, 5]])
    single, _ = examples.one_per_row(packed, T)
    together, alone = (loss_and_gradients(objective, params, batch) for batch in (packed, single))
    assert_close(together, alone)
    for name in ("accuracy", "f1"):
        np.testing.assert_allclose(together[1][name], alone[1][name])


@pytest.mark.parametrize(
    "tags",
    [
        TAGS,
        ("O", "I-x", "I-y", "B-x"),
        ("O", "B-x", "I-x", "E-x", "S-x", "S-y"),
        ("O", "U-x", "L-x", "B-x"),
        ("o", "x_m", "x_w", "y_m", "z"),
    ],
)
def test_entities_of_packed_rows_are_those_of_each_text(tags):
    scheme = Scheme.of(tags)
    random = np.random.default_rng(1)
    segments = np.repeat([[1, 2, 3, 0]], [9, 12, 7, 5], axis=1).repeat(40, axis=0)
    word = (random.random(segments.shape) < 0.7) & (segments > 0)
    true, said = (np.where(word, random.integers(0, len(tags), word.shape), -1) for _ in range(2))
    said = np.where(random.random(word.shape) < 0.8, true, said)  # so that some are right
    want = np.zeros(3)
    for row, segment in itertools.product(range(40), (1, 2, 3)):
        inside = word[row] & (segments[row] == segment)
        a, b = (set(entities([tags[i] for i in x[row][inside]], scheme)) for x in (said, true))
        want += len(a & b), len(a), len(b)
    found = count_entities(scheme, said, true, segments)
    assert want.min() > 20 and [float(x) for x in found] == want.tolist()


def test_schemes_and_settings():
    assert Scheme.of(("NOUN", "VERB")) is None and Scheme.of(("O",)) is None and Scheme.of(()) is None
    assert Scheme.of(("O", "B-a-b", "I-a-b")).kind.tolist() == [0, 1, 1]
    speech = build(tags=("NOUN", "VERB"))
    shapes = jax.eval_shape(speech.init, KEY)
    metrics = jax.eval_shape(lambda p: speech.loss(p, labelled([[9]]), KEY, False)[1], shapes)
    assert metrics.keys() == {"loss", "accuracy"}
    with pytest.raises(ValueError, match="names a class more than once: O, O"):
        TokenClassification(tags=("O", "O"))
    with pytest.raises(ValueError, match=r"objective.dropout must be in \[0, 1\), got 1"):
        TokenClassification(dropout=1)
