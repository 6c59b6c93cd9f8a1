"""Ranking losses equal those of sentence-transformers, with texts missing anywhere."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxencoder.tasks.embeddings.vectors
from jaxencoder.tasks.embeddings.ranking import guided_ranking, mega_batch_margin, multiple_negatives_ranking
from tests.tasks.embeddings.comparisons import (
    SHAPES,
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

ALL = ("query_to_document", "query_to_query", "document_to_query", "document_to_document")
SYMMETRIC = ("query_to_document", "document_to_query")
HARDNESS = {"none": None, "in_batch": "in_batch_negatives", "hard": "hard_negatives", "all": "all_negatives"}
SIMILARITIES = {
    "cosine": util.cos_sim,
    "dot": util.dot_score,
    "euclidean": util.euclidean_sim,
    "manhattan": util.manhattan_sim,
}


def without_absent(similarity):
    """The similarities of a function of sentence-transformers, -inf for vectors of zeros."""

    def matrix(a, b):
        absent = ~a.any(-1)[:, None] | ~b.any(-1)
        return similarity(a, b).masked_fill(absent, -torch.inf)

    return matrix


def their_ranking(monkeypatch, mask, tensor, similarity="cosine", hardness="none", directions=ALL[:1], **settings):
    """The loss of examples with a query and a positive, which have the others' texts as if from another device."""
    has_loss = mask[:, 0] & mask[:, 1]
    world = columns(tensor, np.argsort(~has_loss, kind="stable"))
    local = [column[: has_loss.sum()] for column in world]
    gathered = {id(part): column for part, column in zip(local, world, strict=True)}
    module = "sentence_transformers.sentence_transformer.losses.multiple_negatives_ranking"
    monkeypatch.setattr(f"{module}.all_gather_with_grad", lambda part: gathered[id(part)])
    settings["partition_mode"] = settings.pop("partition", "joint")
    loss = losses.MultipleNegativesRankingLoss(
        None,
        similarity_fct=without_absent(SIMILARITIES[similarity]),
        gather_across_devices=True,
        directions=tuple(name.replace("document", "doc") for name in directions),
        hardness_mode=HARDNESS[hardness],
        **settings,
    )
    return loss.compute_loss_from_embeddings(local, None)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"similarity": "dot", "scale": 1.0, "directions": ALL},
        {"similarity": "euclidean", "scale": 2.0, "directions": ALL},
        {"similarity": "manhattan", "scale": 0.5, "directions": ALL},
        {"directions": ALL, "scale": 100.0},
        {"directions": ("query_to_query", "query_to_document")},
        {"directions": ("query_to_document", "document_to_document"), "hardness": "all", "hardness_strength": 9.0},
        {"directions": SYMMETRIC, "partition": "per_direction"},
        {"directions": SYMMETRIC, "partition": "per_direction", "hardness": "in_batch", "hardness_strength": 9.0},
        {"hardness": "in_batch", "hardness_strength": 9.0},
        {"hardness": "hard", "hardness_strength": 5.0},
        {"hardness": "all", "hardness_strength": 5.0, "similarity": "euclidean", "scale": 3.0},
    ],
    ids=str,
)
def test_multiple_negatives_ranking(settings, monkeypatch) -> None:
    loss = partial(multiple_negatives_ranking, **settings)
    for _, vectors, mask in batches((*SHAPES, (4, 2, 3))):
        assert_equals_peer(loss, partial(their_ranking, monkeypatch, mask, **settings), vectors, mask)


def test_learned_scale() -> None:
    """ContrastiveTensionLossInBatchNegatives: the symmetric loss, with a gradient of the scale's logarithm."""
    _, vectors, mask = next(batches(((6, 2, 5),)))
    peer = losses.ContrastiveTensionLossInBatchNegatives(Identity(), scale=7.0)
    a, b = torch.tensor(vectors).unbind(1)
    peer.model1.forward = lambda features: {"sentence_embedding": a}
    peer.model2.forward = lambda features: {"sentence_embedding": b}
    expected = peer([{}], None)
    expected.backward()

    def loss(log_scale):
        settings = {"directions": SYMMETRIC, "partition": "per_direction"}
        total, weight = multiple_negatives_ranking(vectors, mask, scale=jnp.exp(log_scale), **settings)
        return total / weight

    value, gradient = jax.value_and_grad(loss)(jnp.log(7.0))
    assert float(value) == pytest.approx(expected.item(), rel=1e-5)
    assert float(gradient) == pytest.approx(peer.logit_scale.grad.item(), rel=1e-4)


def test_texts_of_incomplete_examples_are_negatives() -> None:
    _, vectors, mask = next(batches(((4, 3, 8),)))
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    mask[2, 1] = mask[3, 0] = mask[1, 2] = False  # no positive, no query, no hard negative
    q, d = vectors[:, 0], vectors[:, 1:]
    expected = 0.0
    for i in (0, 1):
        logits = 20 * np.einsum("ncd,d->nc", d, q[i])
        expected += np.log(np.exp(logits[mask[:, 1:]]).sum()) - logits[i, 0]
    total, weight = multiple_negatives_ranking(vectors, mask)
    assert (float(total), float(weight)) == (pytest.approx(expected, rel=1e-5), 2)


def test_one_pair_alone_has_no_loss() -> None:
    _, vectors, mask = next(batches(((1, 2, 5),)))
    for settings in ({}, {"directions": SYMMETRIC, "partition": "per_direction"}):
        loss = partial(multiple_negatives_ranking, scale=100.0, **settings)
        value, gradient = loss_and_gradient(loss, vectors, mask)
        assert max(abs(value), np.abs(gradient).max()) < 1e-6


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scale": 0.0}, "scale must be a positive number, got 0.0"),
        ({"directions": ()}, "directions must include query_to_document"),
        ({"directions": ("query_to_doc",)}, "a direction is 'query_to_doc'; choose one of query_to_document"),
        ({"directions": ("query_to_query",)}, "must include query_to_document, and each only once"),
        ({"directions": ALL, "partition": "per_direction"}, "is not for query_to_query, which has no positive"),
        ({"partition": "both"}, "partition is 'both'"),
        ({"hardness": "soft"}, "hardness is 'soft'; choose one of none, in_batch, hard, all"),
        ({"hardness": "hard", "hardness_strength": -1.0}, "hardness_strength must be 0 or a positive number, got -1.0"),
        ({"similarity": "maxsim"}, "similarity is 'maxsim'; choose one of cosine, dot"),
    ],
)
def test_wrong_settings(settings, message) -> None:
    with pytest.raises(ValueError, match=message):
        multiple_negatives_ranking(jnp.ones((2, 2, 3)), jnp.ones((2, 2), bool), **settings)


def their_guided(mask, guides, tensor, **settings):
    """CachedGISTEmbedLoss, which takes any number of negatives, in mini-batches of four rows."""
    rows = mask[:, 1]
    loss = losses.CachedGISTEmbedLoss.__new__(losses.CachedGISTEmbedLoss)
    torch.nn.Module.__init__(loss)
    for name, value in settings.items():
        setattr(loss, name, value)
    loss.sim_matrix = without_absent(util.cos_sim)
    loss.mini_batch_size, loss.gather_across_devices, loss.show_progress_bar = 4, False, False
    loss.cross_entropy_loss = torch.nn.CrossEntropyLoss()
    guides = torch.tensor(np.where(mask[..., None], guides, 0), dtype=torch.float64)
    parts = ([[column] for column in columns(x, rows)] for x in (tensor, guides))
    return loss.calculate_loss(*parts)


GUIDED = {
    "temperature": 0.1,
    "margin_strategy": "absolute",
    "margin": 0.0,
    "contrast_anchors": True,
    "contrast_positives": True,
}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"margin": 0.3, "temperature": 0.01},
        {"margin": 0.2, "margin_strategy": "relative"},
        {"contrast_anchors": False, "margin": 0.1},
        {"contrast_positives": False, "margin": 0.05, "margin_strategy": "relative"},
    ],
    ids=str,
)
def test_guided_ranking(settings) -> None:
    loss = partial(guided_ranking, **(GUIDED | settings))
    for random, vectors, mask in batches((*SHAPES, (4, 2, 6)), complete=True):
        guides = random.standard_normal((*mask.shape, 4), np.float32) + random.standard_normal(4, np.float32)
        peer = partial(their_guided, mask, guides, **(GUIDED | settings))
        assert_equals_peer(loss, peer, vectors, mask, guides)


def test_guided_ranking_defaults() -> None:
    """Those of GISTEmbedLoss, of the same model as guide."""
    _, vectors, mask = next(batches(((5, 3, 8),)))
    peer = losses.GISTEmbedLoss.__new__(losses.GISTEmbedLoss)
    torch.nn.Module.__init__(peer)
    peer.model, peer.guide, peer.must_retokenize, peer.gather_across_devices = Identity(), Identity(), False, False
    peer.temperature, peer.margin_strategy, peer.margin = 0.01, "absolute", 0.0
    peer.contrast_anchors = peer.contrast_positives = True
    peer.similarity_fct, peer.cross_entropy_loss = torch.nn.CosineSimilarity(-1), torch.nn.CrossEntropyLoss()
    loss = lambda vectors, mask: guided_ranking(vectors, mask, vectors)  # noqa: E731
    assert_equals_peer(loss, lambda tensor: peer(as_features(columns(tensor)), None), vectors, mask)


def test_a_text_is_not_its_own_negative() -> None:
    """The guide sees equal texts as query and positive: in sentence-transformers the query is then its own negative."""
    _, vectors, mask = next(batches(((1, 2, 6),)))
    value, _ = loss_and_gradient(guided_ranking, vectors, mask, np.ones((1, 2, 4), np.float32))
    assert abs(value) < 1e-4
    with pytest.raises(ValueError, match="temperature must be a positive number, got 0"):
        guided_ranking(vectors, mask, vectors, temperature=0)
    with pytest.raises(ValueError, match="margin_strategy is 'none'; choose one of absolute, relative"):
        guided_ranking(vectors, mask, vectors, margin_strategy="none")


def test_mega_batch_margin() -> None:
    """All mini-batches have a gradient, unlike in sentence-transformers before 6."""
    for _, vectors, mask in batches((*SHAPES, (1, 2, 4)), complete=True):

        def peer(tensor, rows=mask[:, 1]):
            loss = losses.MegaBatchMarginLoss(None, use_mini_batched_version=False)
            return loss.calculate_loss([[column] for column in columns(tensor, rows)[:2]])

        assert_equals_peer(mega_batch_margin, peer, vectors, mask)


def test_mega_batch_margin_in_mini_batches() -> None:
    _, vectors, mask = next(batches(((7, 2, 5),)))
    parts = [torch.tensor(vectors[:, column], requires_grad=True) for column in (0, 1)]
    peer = losses.MegaBatchMarginLoss(None, use_mini_batched_version=False, mini_batch_size=3)
    expected = peer.calculate_loss([[part] for part in parts], with_backward=True)
    value, gradient = loss_and_gradient(mega_batch_margin, vectors, mask)
    assert value == pytest.approx(expected.item(), rel=1e-5)
    np.testing.assert_allclose(gradient, np.stack([part.grad for part in parts], 1), atol=1e-6)


@pytest.mark.parametrize("count", [9, 12])
def test_blocks_change_nothing(count: int, monkeypatch) -> None:
    """Also where their number does not divide that of the examples."""
    mask = np.ones((count, 3), bool)
    mask[2, 1] = mask[4, 0] = mask[count - 1, 2] = False
    settings = {"directions": ALL, "hardness": "all", "hardness_strength": 3.0}
    x = jax.random.normal(jax.random.key(0), (count, 3, 4))

    def loss() -> Any:
        return jax.jit(jax.value_and_grad(lambda x: multiple_negatives_ranking(x, mask, **settings)[0]))(x)

    together = loss()
    monkeypatch.setattr(jaxencoder.tasks.embeddings.vectors, "_BLOCK", 4)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), loss(), together)


def test_memory_does_not_grow_as_the_square_of_the_batch() -> None:
    def memory(count: int) -> int:
        gradient = jax.jit(jax.grad(lambda x: multiple_negatives_ranking(x, np.ones((count, 2), bool))[0]))
        return gradient.lower(np.zeros((count, 2, 8), np.float32)).compile().memory_analysis().temp_size_in_bytes

    assert memory(4096) < 3 * memory(2048)
