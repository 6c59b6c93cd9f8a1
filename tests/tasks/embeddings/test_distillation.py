"""Distillation losses equal those of sentence-transformers, with texts and teacher's scores missing anywhere."""

from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest

from jaxencoder.tasks.embeddings.distillation import margin_mse, score_distillation, vector_distillation
from tests.tasks.embeddings.cases import of_scores
from tests.tasks.embeddings.comparisons import SHAPES, assert_equals_peer, batches, columns, loss_and_gradient, torch

losses = pytest.importorskip("sentence_transformers.sentence_transformer.losses")
util = pytest.importorskip("sentence_transformers.util")


@pytest.mark.parametrize("distance", ["mse", "euclidean", "cosine"])
@pytest.mark.parametrize("size", [7, 5])
def test_vector_distillation(distance, size) -> None:
    kernel = np.random.default_rng(4).standard_normal((7, size)).astype(np.float32)
    project = None if size == 7 else lambda x: x @ kernel
    loss = partial(vector_distillation, distance=distance, project=project)
    for random, vectors, mask in batches(((6, 3, 7),)):
        teachers = random.standard_normal((*mask.shape, size), np.float32)

        def peer(tensor, teachers=teachers, mask=mask):
            peer = losses.EmbedDistillLoss(None, distance_metric="l2" if distance == "euclidean" else distance)
            if project:
                peer.projection = torch.nn.Linear(7, size, bias=False).double()
                peer.projection.weight.data = torch.tensor(kernel.T).double()
            if mask.all():
                return peer.compute_loss_from_embeddings(columns(tensor), columns(torch.tensor(teachers)))
            texts = torch.tensor(mask)
            return peer.compute_loss_from_embeddings([tensor[texts]], [torch.tensor(teachers)[texts]])

        assert_equals_peer(loss, peer, vectors, mask, np.where(mask[..., None], teachers, np.nan))


def test_one_teacher_vector_for_a_text_and_its_translations() -> None:
    random, vectors, mask = list(batches())[1]
    teachers = random.standard_normal((len(mask), vectors.shape[-1]), np.float32)
    shared = loss_and_gradient(vector_distillation, vectors, mask, teachers)
    repeated = loss_and_gradient(vector_distillation, vectors, mask, np.repeat(teachers[:, None], mask.shape[1], 1))
    assert shared[0] == repeated[0]
    np.testing.assert_array_equal(shared[1], repeated[1])
    with pytest.raises(ValueError, match="vectors of size 7, but the teacher's have size 3; give a projection"):
        vector_distillation(vectors, mask, teachers[:, :3])


@pytest.mark.parametrize("similarity", ["dot", "cosine", "euclidean"])
def test_margin_mse(similarity) -> None:
    function = util.SimilarityFunction.to_similarity_pairwise_fn(similarity)
    loss = of_scores(margin_mse, similarity)
    for random, vectors, mask in batches((*SHAPES, (6, 3, 5))):
        scores = random.standard_normal((len(mask), mask.shape[1] - 1), np.float32) * 3
        if not mask.all():
            scores[0, 1] = scores[1, 0] = np.nan

        def peer(tensor, scores=scores, mask=mask):
            peer = losses.MarginMSELoss(None, similarity_fct=function)
            if mask.all():
                return peer.compute_loss_from_embeddings(columns(tensor), torch.tensor(scores))
            margins = scores[:, :1] - scores[:, 1:]
            rows, negatives = np.nonzero(mask[:, :1] & mask[:, 1:2] & mask[:, 2:] & ~np.isnan(margins))
            texts = [tensor[rows, 0], tensor[rows, 1], tensor[rows, negatives + 2]]
            return peer.compute_loss_from_embeddings(texts, torch.tensor(margins[rows, negatives]))

        assert_equals_peer(loss, peer, vectors, mask, scores)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"similarity": "cosine", "student_temperature": 0.2},
        {"student_temperature": 2.0, "teacher_temperature": 0.7},
    ],
    ids=str,
)
def test_score_distillation(settings) -> None:
    temperatures = {name: value for name, value in settings.items() if name != "similarity"}
    loss = of_scores(partial(score_distillation, **temperatures), settings.get("similarity", "dot"))
    function = util.SimilarityFunction.to_similarity_pairwise_fn(settings.get("similarity", "dot"))
    for random, vectors, mask in batches():
        scores = random.standard_normal((len(mask), mask.shape[1] - 1), np.float32) * 3
        scores[0, 1] = -np.inf  # a document that the teacher excludes
        if not mask.all():
            scores[-1, 1] = np.nan

        def peer(tensor, scores=scores, mask=mask):
            is_document = mask[:, :1] & mask[:, 1:] & ~np.isnan(scores)
            parts = []
            for row in np.flatnonzero(is_document.sum(1) >= 2):
                documents = np.flatnonzero(is_document[row])
                texts = [tensor[[row], 0], *(tensor[[row], column + 1] for column in documents)]
                peer = losses.DistillKLDivLoss(None, similarity_fct=function, **temperatures)
                teacher = torch.tensor(scores[row, documents]).double()
                parts.append(peer.compute_loss_from_embeddings(texts, teacher[None]))
            return torch.stack(parts).mean()

        assert_equals_peer(loss, peer, vectors, mask, scores)


def test_whole_batch_of_score_lists() -> None:
    random, vectors, mask = next(batches())
    scores = random.standard_normal((len(mask), mask.shape[1] - 1), np.float32)
    teacher, peer = torch.tensor(scores).double(), losses.DistillKLDivLoss(None)
    theirs = lambda tensor: peer.compute_loss_from_embeddings(columns(tensor), teacher)  # noqa: E731
    assert_equals_peer(of_scores(score_distillation), theirs, vectors, mask, scores)


@pytest.mark.parametrize("scores", [[np.nan, 1, np.nan], [-np.inf] * 3, [np.inf, 1, 2]])
def test_lists_without_a_distribution_have_no_loss(scores) -> None:
    _, vectors, mask = next(batches(((1, 4, 5),)))
    value, gradient = loss_and_gradient(of_scores(score_distillation), vectors, mask, np.array([scores], np.float32))
    assert value == 0 and not gradient.any()
    with pytest.raises(ValueError, match="student_temperature must be a positive number, got 0"):
        score_distillation(jnp.zeros((1, 3)), mask, jnp.zeros((1, 3)), student_temperature=0)
