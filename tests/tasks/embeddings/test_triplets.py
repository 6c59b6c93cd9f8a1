"""Triplet losses equal those of sentence-transformers, with texts and labels missing anywhere."""

from functools import partial

import numpy as np
import pytest

from jaxencoder.tasks.embeddings import triplets
from tests.tasks.embeddings.comparisons import SHAPES, assert_equals_peer, batches, torch

losses = pytest.importorskip("sentence_transformers.sentence_transformer.losses")


@pytest.mark.parametrize(("distance", "margin"), [("cosine", 0.5), ("euclidean", 1.0), ("manhattan", 2.0)])
def test_triplet(distance, margin) -> None:
    metric = getattr(losses.TripletDistanceMetric, distance.upper())
    loss = partial(triplets.triplet, distance=distance, margin=margin)
    for _, vectors, mask in batches((*SHAPES, (6, 3, 5))):
        rows, negatives = np.nonzero(mask[:, :1] & mask[:, 1:2] & mask[:, 2:])

        def peer(tensor, rows=rows, negatives=negatives):
            loss = losses.TripletLoss(None, distance_metric=metric, triplet_margin=margin)
            texts = [tensor[rows, 0], tensor[rows, 1], tensor[rows, negatives + 2]]
            return loss.compute_loss_from_embeddings(texts, None)

        assert_equals_peer(loss, peer, vectors, mask)


# Labels of the N texts from N random numbers below 4: several classes, one class, and one text of each class.
LABELS = {
    "classes": lambda drawn: drawn,
    "one class": np.zeros_like,
    "one text of each": lambda drawn: np.arange(len(drawn)),
    "two texts of one": lambda drawn: np.maximum(np.arange(len(drawn)) - 1, 0),
}


@pytest.mark.parametrize(
    ("name", "margin"),
    [
        ("batch_all", 1.0),
        ("batch_all", 5.0),
        ("batch_hard", 1.0),
        ("batch_semi_hard", 1.0),
        ("batch_hard_soft_margin", 0),
    ],
)
@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_batches_of_texts_with_classes(name, margin, distance) -> None:
    settings = {"margin": margin} if margin else {}
    loss = partial(getattr(triplets, f"{name}_triplet"), distance=distance, **settings)
    kind = getattr(losses, "".join(map(str.capitalize, name.split("_"))) + "TripletLoss")
    metric = getattr(losses.BatchHardTripletLossDistanceFunction, f"{distance}_distance")
    for random, vectors, mask in batches(((11, 2, 5),)):
        drawn = random.integers(0, 4, len(mask)).astype(np.int32)
        for draw in LABELS.values():
            labels = np.where(mask.all() | (np.arange(len(mask)) != 4), draw(drawn), -1).astype(np.int32)
            rows = np.flatnonzero(mask[:, 0] & (labels >= 0))

            def peer(tensor, labels=labels, rows=rows):
                peer = kind(None, distance_metric=metric, **settings)
                # Their in-place changes of distances need a copy; the sum keeps a constant loss differentiable.
                texts = tensor[rows, 0]
                return peer.compute_loss_from_embeddings([texts], torch.tensor(labels[rows])) + 0 * texts.sum()

            assert_equals_peer(loss, peer, vectors, mask, labels)


def test_number_of_triplets() -> None:
    """All triplets count that have a loss; N * N * N of them are compared here."""
    _, vectors, mask = next(batches(((12, 1, 3),)))
    labels = np.arange(12, dtype=np.int32) % 3
    texts = vectors[:, 0].astype(np.float64)
    distances = np.linalg.norm(texts[:, None] - texts, axis=-1)
    is_same = labels[:, None] == labels
    is_triplet = (is_same & ~np.eye(12, dtype=bool))[:, :, None] & ~is_same[:, None]
    values = np.where(is_triplet, np.maximum(distances[:, :, None] - distances[:, None] + 0.5, 0), 0)
    total, weight = triplets.batch_all_triplet(vectors, mask, labels, margin=0.5)
    assert (float(total), float(weight)) == (pytest.approx(values.sum(), rel=1e-5), (values > 0).sum())
