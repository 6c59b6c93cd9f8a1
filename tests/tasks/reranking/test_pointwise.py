"""Losses of single scores and of a positive among negatives, as in sentence-transformers."""

from functools import partial

import jax
import numpy as np
import pytest

from jaxencoder.tasks.reranking.pointwise import binary_cross_entropy, info_nce, margin_mse, squared_error

from .peers import as_columns, as_pairs, assert_equals_peer, cases, compiled, lists, losses, torch


@pytest.mark.parametrize("pos_weight", [1.0, 3.0])
def test_binary_cross_entropy(pos_weight: float) -> None:
    theirs = partial(losses.BinaryCrossEntropyLoss, pos_weight=torch.tensor(pos_weight))
    for _, scores, labels, mask in cases():
        labels = labels / 3
        loss = partial(binary_cross_entropy, pos_weight=pos_weight)
        assert_equals_peer(loss, as_pairs(theirs, mask, labels), scores, labels, mask)


def test_squared_error() -> None:
    for _, scores, labels, mask in cases():
        assert_equals_peer(squared_error, as_pairs(losses.MSELoss, mask, labels), scores, labels, mask)


def test_margin_mse() -> None:
    scores, labels, mask = lists([5] * 4, 1)
    assert_equals_peer(margin_mse, as_columns(losses.MarginMSELoss, (4, 5), labels), scores, labels, mask)
    margins = labels[:, :1] - labels[:, 1:]
    only_margins = np.concatenate([np.zeros_like(labels[:, :1]), -margins], axis=1)
    peer = as_columns(losses.MarginMSELoss, (4, 5), margins)
    assert_equals_peer(margin_mse, peer, scores, only_margins, mask)


@pytest.mark.parametrize("activation", ["Identity", "Sigmoid"])
def test_info_nce(activation: str) -> None:
    """Against the listed negatives, as theirs does without negatives of other queries."""
    scores, labels, mask = lists([5] * 4, 1, graded=False)
    theirs = partial(
        losses.MultipleNegativesRankingLoss, num_negatives=0, scale=5.0, activation_fn=getattr(torch.nn, activation)()
    )
    activate = {"Identity": lambda x: x, "Sigmoid": jax.nn.sigmoid}[activation]
    assert_equals_peer(
        lambda x, *rest: info_nce(activate(x), *rest, scale=5.0),
        without_others(theirs, (4, 5)),
        scores,
        labels,
        mask,
    )


def without_others(loss, shape):
    """Their loss draws negatives of other queries even if it is told to take none."""

    def build(model):
        built = loss(model)
        built.get_in_batch_negatives = lambda *_: iter(())
        return built

    return as_columns(build, shape)


def test_info_nce_of_uneven_lists() -> None:
    """Two positives of a query are no negatives of each other, and a list without negatives has no loss."""
    scores = np.array([[2.0, 1.0, 0.5, 3.0], [1.0, 9.0, 9.0, 9.0]], np.float32)
    labels = np.array([[1.0, 0.0, 2.0, 0.0], [1.0, 0.0, 0.0, np.nan]], np.float32)
    mask = np.array([[True] * 4, [True, False, False, True]])
    total, weight = info_nce(scores, labels, mask)
    expected = [np.log(1 + np.exp(1 - s) + np.exp(3 - s)) for s in (2.0, 0.5)]
    assert float(total) == pytest.approx(sum(expected), rel=1e-6) and float(weight) == 3


@pytest.mark.parametrize("loss", [binary_cross_entropy, squared_error, margin_mse, info_nce])
def test_no_document(loss) -> None:
    _, scores, labels, mask = next(cases())
    (_, (total, weight)), gradient = compiled(loss)(np.full_like(scores, np.nan), labels, np.zeros_like(mask))
    assert (float(total), float(weight)) == (0, 0) and not np.any(gradient)


def test_settings() -> None:
    with pytest.raises(ValueError, match="pos_weight must be a positive number, got 0"):
        binary_cross_entropy(*lists([2], 0), pos_weight=0)
    with pytest.raises(ValueError, match="scale must be a positive number, got -1"):
        info_nce(*lists([2], 0), scale=-1)
