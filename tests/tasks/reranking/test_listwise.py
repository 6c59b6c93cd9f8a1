"""Losses over lists of documents, as in sentence-transformers."""

from functools import partial

import numpy as np
import pytest

from jaxencoder.tasks.reranking.listwise import adr_mse, lambda_loss, list_mle, list_net, rank_net

from .peers import as_lists, assert_equals_peer, cases, compiled, lists, losses

SCHEMES = {
    "none": losses.NoWeightingScheme,
    "ndcg1": losses.NDCGLoss1Scheme,
    "ndcg2": losses.NDCGLoss2Scheme,
    "lambdarank": losses.LambdaRankScheme,
    "ndcg2++": losses.NDCGLoss2PPScheme,
}
LOSSES = [
    *[
        (partial(lambda_loss, weighting=name, **ours), partial(losses.LambdaLoss, weighting_scheme=scheme(), **ours))
        for name, scheme in SCHEMES.items()
        for ours in ({}, {"k": 2, "sigma": 1.5})
    ],
    (partial(lambda_loss, mu=3.0), partial(losses.LambdaLoss, weighting_scheme=losses.NDCGLoss2PPScheme(mu=3.0))),
    (partial(rank_net, k=3), partial(losses.RankNetLoss, k=3)),
    (list_net, losses.ListNetLoss),
    (partial(list_mle, order="input"), losses.ListMLELoss),
    (list_mle, partial(losses.ListMLELoss, respect_input_order=False)),
    (partial(list_mle, order="input", by_position=True), losses.PListMLELoss),
    (partial(list_mle, by_position=True), partial(losses.PListMLELoss, respect_input_order=False)),
    (adr_mse, losses.ADRMSELoss),
    (partial(adr_mse, alpha=2.5), partial(losses.ADRMSELoss, alpha=2.5)),
]


@pytest.mark.parametrize(("ours", "theirs"), LOSSES, ids=lambda x: getattr(x, "func", x).__name__)
def test_equal(ours, theirs) -> None:
    for sizes, scores, labels, mask in cases():
        if ours is not list_net:
            labels = np.where(labels == 2, 1, labels)  # more ties, which none of the others breaks by position
        assert_equals_peer(ours, as_lists(theirs, sizes, labels), scores, labels, mask)


@pytest.mark.parametrize("loss", [lambda_loss, rank_net, list_net, list_mle, adr_mse])
def test_where_the_documents_stand_changes_nothing(loss) -> None:
    """Padding may be anywhere, and rows of it too; a NaN in it has no gradient."""
    scores, labels, mask = lists([3, 1, 5, 4], 2)
    labels[0, :3], labels[2], labels[3, :4] = [3, 1, 0], [2, 3, 0, 1, 4], [1, 2, 0, 5]  # without ties
    order = np.array([2, 0, 4, 1, 3])
    (_, expected), expected_gradient = compiled(loss)(scores, labels, mask)
    moved = [np.where(mask, x, np.nan)[:, order] for x in (scores, labels)]
    (_, values), gradient = compiled(loss)(*moved, mask[:, order])
    np.testing.assert_allclose(values, expected, rtol=1e-6)
    np.testing.assert_allclose(gradient, np.where(mask, expected_gradient, 0)[:, order], atol=1e-6)
    (_, (total, weight)), gradient = compiled(loss)(*moved, np.zeros_like(mask))
    assert (float(total), float(weight)) == (0, 0) and not np.any(gradient)


def test_long_lists() -> None:
    """2^(n - 1) exceeds float32, as do weights of a position."""
    scores, labels, mask = lists([200], 0)
    ours, theirs = partial(list_mle, order="input", by_position=True), losses.PListMLELoss
    assert_equals_peer(ours, as_lists(theirs, [200], labels), scores, labels, mask)


@pytest.mark.parametrize(
    ("loss", "settings", "message"),
    [
        (lambda_loss, {"weighting": "ndcg3"}, "weighting is 'ndcg3'; choose one of none, ndcg1, ndcg2"),
        (lambda_loss, {"k": -1}, "k must be a positive number, or 0"),
        (lambda_loss, {"sigma": 0}, "sigma must be a positive number, got 0"),
        (list_net, {"temperature": 0}, "temperature must be a positive number, got 0"),
        (list_mle, {"order": "score"}, "order is 'score'; choose one of labels, input"),
        (adr_mse, {"alpha": -1}, "alpha must be a positive number, got -1"),
    ],
)
def test_settings(loss, settings, message) -> None:
    with pytest.raises(ValueError, match=message):
        loss(*lists([2], 0), **settings)
