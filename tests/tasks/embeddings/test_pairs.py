"""Losses of labeled pairs equal those of sentence-transformers, with texts, scores and labels missing anywhere."""

from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest

from jaxencoder.tasks.embeddings import pairs
from tests.tasks.embeddings.comparisons import (
    Identity,
    as_features,
    assert_equals_peer,
    batches,
    columns,
    loss_and_gradient,
    torch,
)

losses = pytest.importorskip("sentence_transformers.sentence_transformer.losses")
util = pytest.importorskip("sentence_transformers.util")


def graded(random, mask) -> tuple[np.ndarray, np.ndarray]:
    """Scores [N] with ties, NaN in one place if texts are missing, and the pairs that have one."""
    scores = random.integers(0, 6, len(mask)).astype(np.float32) / 5
    if not mask.all():
        scores[1] = np.nan
    return scores, np.flatnonzero(mask[:, 0] & mask[:, 1] & ~np.isnan(scores))


def labeled(random, mask, classes: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Labels [N], -1 in one place if texts are missing, and the pairs that have one."""
    labels = random.integers(0, classes, len(mask)).astype(np.int32)
    if not mask.all():
        labels[1] = -1
    return labels, np.flatnonzero(mask[:, 0] & mask[:, 1] & (labels >= 0))


@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean", "manhattan"])
def test_cosent(similarity) -> None:
    loss = partial(pairs.cosent, similarity=similarity, scale=5.0)
    function = util.SimilarityFunction.to_similarity_pairwise_fn(similarity)
    for random, vectors, mask in batches(((9, 3, 7),)):
        scores, rows = graded(random, mask)

        def peer(tensor, scores=scores, rows=rows):
            loss = losses.CoSENTLoss(None, scale=5.0, similarity_fct=function)
            return loss.compute_loss_from_embeddings(columns(tensor, rows)[:2], torch.tensor(scores[rows]))

        assert_equals_peer(loss, peer, vectors, mask, scores)


def test_equal_scores_have_no_order() -> None:
    _, vectors, mask = next(batches())
    assert float(pairs.cosent(vectors, mask, np.ones(len(mask), np.float32))[0]) == 0


@pytest.mark.parametrize("size", [8, 7])
def test_angle_of_pairs(size) -> None:
    for random, vectors, mask in batches(((9, 2, size),)):
        scores, rows = graded(random, mask)

        def peer(tensor, scores=scores, rows=rows):
            return losses.AnglELoss(None).compute_loss_from_embeddings(
                columns(tensor, rows), torch.tensor(scores[rows])
            )

        assert_equals_peer(pairs.angle, peer, vectors, mask, scores)


@pytest.mark.parametrize("has_scores", [True, False])
def test_angle_with_negatives(has_scores) -> None:
    for random, vectors, mask in batches(((6, 4, 6),)):
        scores, _ = graded(random, mask)

        def peer(tensor, mask=mask, scores=scores):
            if mask.all():
                labels = torch.tensor(scores) if has_scores else None
                return losses.AnglELoss(None).compute_loss_from_embeddings(columns(tensor), labels)
            scores = scores if has_scores else np.ones_like(scores)
            grid = np.stack([scores, *[1 - scores] * (mask.shape[1] - 2)], 1)
            rows, others = np.nonzero(mask[:, :1] & mask[:, 1:] & ~np.isnan(grid))
            loss = losses.CoSENTLoss(None, similarity_fct=util.pairwise_angle_sim)
            labels = torch.tensor(grid[rows, others])
            return loss.compute_loss_from_embeddings([tensor[rows, 0], tensor[rows, others + 1]], labels)

        assert_equals_peer(pairs.angle, peer, vectors, mask, *[scores] * has_scores)


def test_angle_needs_scores() -> None:
    with pytest.raises(ValueError, match="scores are missing, and without negatives the angle loss needs them"):
        pairs.angle(jnp.ones((2, 2, 4)), jnp.ones((2, 2), bool))


def test_cosine_regression() -> None:
    for random, vectors, mask in batches():
        scores, rows = graded(random, mask)

        def peer(tensor, scores=scores, rows=rows):
            loss, labels = losses.CosineSimilarityLoss(None), torch.tensor(scores[rows])
            # In float32, as their labels are.
            return loss.compute_loss_from_embeddings(columns(tensor.float(), rows)[:2], labels)

        assert_equals_peer(pairs.cosine_regression, peer, vectors, mask, scores)


METRICS = {"cosine": "COSINE_DISTANCE", "euclidean": "EUCLIDEAN", "manhattan": "MANHATTAN"}


@pytest.mark.parametrize("name", ["ContrastiveLoss", "OnlineContrastiveLoss"])
@pytest.mark.parametrize("distance", ["cosine", "euclidean", "manhattan"])
def test_contrastive(name, distance) -> None:
    function = pairs.contrastive if name == "ContrastiveLoss" else pairs.online_contrastive
    margin = 0.5 if distance == "cosine" else 6.0
    loss = partial(function, distance=distance, margin=margin)
    metric = getattr(losses.SiameseDistanceMetric, METRICS[distance])
    for random, vectors, mask in batches():
        drawn, _ = labeled(random, mask)
        for labels in (drawn, np.minimum(drawn, 0), -np.abs(drawn) + 1):  # also of one kind: 0, or 1 and 0
            rows = np.flatnonzero(mask[:, 0] & mask[:, 1] & (labels >= 0))

            def peer(tensor, labels=labels, rows=rows):
                loss = getattr(losses, name)(None, distance_metric=metric, margin=margin)
                return loss.compute_loss_from_embeddings(columns(tensor, rows)[:2], torch.tensor(labels[rows]))

            assert_equals_peer(loss, peer, vectors, mask, labels)


def test_contrastive_leaves_out_other_labels() -> None:
    _, vectors, mask = next(batches())
    labels = np.array([1, 0, -1, 2, 7, 1, 0, 0, 1])
    for loss in (pairs.contrastive, pairs.online_contrastive, pairs.contrastive_tension):
        kept = mask & (labels < 2)[:, None] & (labels >= 0)[:, None]
        expected, got = loss(vectors, kept, labels), loss(vectors, mask, labels)
        np.testing.assert_array_equal(expected, got)
    with pytest.raises(ValueError, match="distance is 'dot'; choose one of cosine, euclidean, manhattan"):
        pairs.contrastive(vectors, mask, labels, distance="dot")


def test_contrastive_tension() -> None:
    for random, vectors, mask in batches():
        labels, rows = labeled(random, mask)

        def peer(tensor, labels=labels, rows=rows):
            loss = losses.ContrastiveTensionLoss(Identity())
            return loss(as_features(columns(tensor, rows)[:2]), torch.tensor(labels[rows]))

        assert_equals_peer(pairs.contrastive_tension, peer, vectors, mask, labels)


@pytest.mark.parametrize(
    ("texts", "difference", "product"), [(True, True, False), (False, True, True), (True, False, True)]
)
def test_pair_classification(texts, difference, product) -> None:
    size, classes = 7, 3
    features = size * (2 * texts + difference + product)
    kernel = np.random.default_rng(5).standard_normal((features, classes)).astype(np.float32) / 4

    def loss(vectors, mask, labels):
        settings = {"texts": texts, "difference": difference, "product": product}
        return pairs.pair_classification(vectors, mask, labels, lambda x: x @ kernel + 0.5, **settings)

    for random, vectors, mask in batches(((9, 2, size),)):
        labels, rows = labeled(random, mask, classes)

        def peer(tensor, labels=labels, rows=rows):
            loss = losses.SoftmaxLoss(Identity(), size, classes, texts, difference, product).double()
            loss.classifier.weight.data, loss.classifier.bias.data[:] = torch.tensor(kernel.T).double(), 0.5
            return loss(as_features(columns(tensor, rows)), torch.tensor(labels[rows]).long())

        assert_equals_peer(loss, peer, vectors, mask, labels)
    with pytest.raises(ValueError, match="all False, so that a pair has no features"):
        pairs.pair_classification(vectors, mask, labels, jnp.sum, texts=False, difference=False)


def test_equal_texts() -> None:
    """The gradient of |u - v| and of distances is 0 at equal vectors, as torch's."""
    vectors = np.repeat(np.random.default_rng(0).standard_normal((3, 1, 4), np.float32), 2, axis=1)
    mask, labels = np.ones((3, 2), bool), np.ones(3, np.int32)
    for distance in ("euclidean", "manhattan"):
        value, gradient = loss_and_gradient(partial(pairs.contrastive, distance=distance), vectors, mask, labels)
        assert value == 0 and not gradient.any()
