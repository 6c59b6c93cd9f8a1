"""Losses on leading dimensions equal those of sentence-transformers."""

from functools import partial

import numpy as np
import pytest

from jaxencoder.tasks.embeddings.distillation import vector_distillation
from jaxencoder.tasks.embeddings.matryoshka import matryoshka
from jaxencoder.tasks.embeddings.ranking import multiple_negatives_ranking
from jaxencoder.tasks.embeddings.triplets import batch_all_triplet
from tests.tasks.embeddings.comparisons import Identity, as_features, assert_equals_peer, batches, columns, torch

losses = pytest.importorskip("sentence_transformers.sentence_transformer.losses")

DIMS, WEIGHTS = (3, 8, 5), (0.5, 1.0, 0.25)


def their_matryoshka(make, weights, labels, tensor, rows=slice(None)):
    model = Identity(tensor.shape[-1])
    loss = losses.MatryoshkaLoss(model, make(model), DIMS, weights)
    return loss(as_features(columns(tensor, rows)), labels)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_ranking(weights) -> None:
    loss = matryoshka(multiple_negatives_ranking, DIMS, weights)
    for _, vectors, mask in batches(((6, 2, 8),), complete=True):
        peer = partial(their_matryoshka, losses.MultipleNegativesRankingLoss, weights, None, rows=mask[:, 1])
        assert_equals_peer(loss, peer, vectors, mask)


def test_losses_whose_weights_depend_on_the_size() -> None:
    inner = partial(batch_all_triplet, margin=0.2)
    loss = matryoshka(inner, DIMS, WEIGHTS)
    _, vectors, mask = next(batches(((9, 1, 8),)))
    labels = np.arange(9, dtype=np.int32) % 3
    make = partial(losses.BatchAllTripletLoss, margin=0.2)
    peer = partial(their_matryoshka, make, WEIGHTS, torch.tensor(labels))
    assert_equals_peer(loss, peer, vectors, mask, labels)


def test_teacher_vectors_are_truncated() -> None:
    random, vectors, mask = next(batches(((5, 2, 8),)))
    teachers = random.standard_normal(vectors.shape, np.float32)
    named = matryoshka(vector_distillation, DIMS, WEIGHTS)
    peer = partial(their_matryoshka, losses.MSELoss, WEIGHTS, torch.tensor(teachers))
    loss = lambda vectors, mask, teachers: named(vectors, mask, teacher_vectors=teachers)  # noqa: E731
    assert_equals_peer(loss, peer, vectors, mask, teachers)


@pytest.mark.parametrize(
    ("dims", "weights", "message"),
    [
        ((), None, "dims must be one or more positive numbers, got \\[\\]"),
        ((4, 0), None, "dims must be one or more positive numbers, got \\[4, 0\\]"),
        ((4, 2), (1.0,), "weights has 1 numbers for 2 dims"),
        ((4, 9), None, "dims has 9, but the vectors have size 8"),
    ],
)
def test_wrong_settings(dims, weights, message) -> None:
    _, vectors, mask = next(batches(((2, 2, 8),)))
    with pytest.raises(ValueError, match=message):
        matryoshka(multiple_negatives_ranking, dims, weights)(vectors, mask)
