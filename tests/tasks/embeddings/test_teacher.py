"""The losses of a teacher's vectors and of a guide's, in the objective, equal those of sentence-transformers."""

from functools import partial

import jax
import numpy as np
import pytest

from jaxencoder.config import ComputeConfig, Embeddings, EncoderConfig, SparseEmbeddings
from jaxencoder.tasks.embeddings.teacher import PROJECTION, TeacherSettings, with_teacher_projection
from jaxencoder.tasks.task import TrainingLabels
from tests.tasks.embeddings.comparisons import Identity, columns, torch

losses = pytest.importorskip("sentence_transformers.sentence_transformer.losses")

N, C, D = 4, 3, 6
# Two rows of two examples each; the texts of a row are not in the order of its examples.
TUPLES = np.array([[[2, 0, 1], [5, 3, 4]], [[0, 1, 2], [3, 5, 4]]], np.int32)


def batch_of(size: int) -> tuple[np.ndarray, dict[str, np.ndarray], np.ndarray]:
    """Vectors [B, E, D], a batch with vectors of another model, and these as [N, C, size]."""
    random = np.random.default_rng(size)
    vectors, others = (random.standard_normal((2, 6, n), np.float32) for n in (D, size))
    numbers, zeros = np.arange(12).reshape(2, 6), np.zeros((2, 6), np.int32)
    batch = {"tuples": TUPLES, "labels": numbers.astype(np.float32), "teacher_vectors": others}
    # Each text is one token.
    batch |= {"token_ids": numbers.astype(np.int32), "segment_ids": numbers % 6 + 1, "positions": zeros}
    return vectors, batch, of_examples(others)


def of_examples(vectors):
    """[B, E, D] -> [N, C, D]."""
    return vectors[np.arange(2)[:, None, None], TUPLES].reshape(N, C, -1)


def value_and_gradients(objective: Embeddings, vectors, batch, params):
    def loss(vectors, params):
        total, weight = objective.metrics(vectors, objective.loss_batch(params, batch))["loss"]
        return total / weight

    return jax.jit(jax.value_and_grad(loss, (0, 1)))(vectors, params)


def assert_equal(ours, theirs, tensor) -> None:
    """The value, and the gradient of the vectors."""
    theirs.backward()
    assert float(ours[0]) == pytest.approx(theirs.item(), rel=1e-5)
    np.testing.assert_allclose(of_examples(ours[1][0]), tensor.grad.numpy(), atol=1e-5)


@pytest.mark.parametrize(("loss", "size"), [("mse", D), ("mse", 4), ("cosine_distance", 9)])
def test_of_a_teacher(loss: str, size: int) -> None:
    vectors, batch, teachers = batch_of(size)
    init, _ = with_teacher_projection((lambda key: {}, None), TeacherSettings(teacher_size=size), D)
    params = init(jax.random.key(0))
    assert bool(params) == (size != D)
    ours = value_and_gradients(Embeddings(loss=loss, teacher="model"), vectors, batch, params)
    if loss == "mse" and size == D:
        peer = losses.MSELoss(Identity(D))
    else:
        metric = {"cosine_distance": "cosine"}.get(loss, loss)
        peer = losses.EmbedDistillLoss(Identity(D), distance_metric=metric, projection_dim=size).double()
        peer.projection.weight.data = torch.tensor(np.array(params[PROJECTION]["kernel"].T)).double()
        peer.projection.bias.data = torch.tensor(np.array(params[PROJECTION]["bias"])).double()
    tensor = torch.tensor(of_examples(vectors), dtype=torch.float64, requires_grad=True)
    theirs = peer.compute_loss_from_embeddings(columns(tensor), columns(torch.tensor(teachers).double()))
    assert_equal(ours, theirs, tensor)
    if params:
        gradient = ours[1][1][PROJECTION]
        np.testing.assert_allclose(gradient["kernel"].T, peer.projection.weight.grad.numpy(), atol=1e-5)
        np.testing.assert_allclose(gradient["bias"], peer.projection.bias.grad.numpy(), atol=1e-5)


@pytest.mark.parametrize("strategy", ["absolute", "relative"])
def test_of_a_guide(strategy: str) -> None:
    vectors, batch, guides = batch_of(5)
    contrasts = {"query_to_query": "contrast_anchors", "document_to_document": "contrast_positives"}
    chosen = ("query_to_document", *(contrasts if strategy == "absolute" else ["query_to_query"]))
    settings = {"scale": 100.0, "directions": chosen, "guide_margin": 0.1, "guide_margin_strategy": strategy}
    ours = value_and_gradients(Embeddings(guide="model", **settings), vectors, batch, {})
    peer = losses.GISTEmbedLoss.__new__(losses.GISTEmbedLoss)
    torch.nn.Module.__init__(peer)
    peer.temperature, peer.margin, peer.margin_strategy = 0.01, 0.1, strategy
    for direction, name in contrasts.items():
        setattr(peer, name, direction in chosen)
    peer.gather_across_devices, peer.must_retokenize = False, False
    peer.similarity_fct, peer.cross_entropy_loss = torch.nn.CosineSimilarity(dim=-1), torch.nn.CrossEntropyLoss()
    tensor = torch.tensor(of_examples(vectors), dtype=torch.float64, requires_grad=True)
    peer.model = partial(_vectors, columns(tensor))
    peer.guide = partial(_vectors, columns(torch.tensor(guides).double()))
    assert_equal(ours, peer([{"column": i} for i in range(C)], None), tensor)


def test_a_guide_and_equal_texts() -> None:
    """They are no negatives, unless they are to be."""
    vectors, batch, _ = batch_of(5)
    batch["token_ids"] = np.tile(np.arange(6, dtype=np.int32), (2, 1))  # text i of both rows
    masked, kept = (
        value_and_gradients(Embeddings(guide="model", guide_margin=-2.0, mask_duplicates=x), vectors, batch, {})[0]
        for x in (True, False)
    )
    assert masked < kept


def _vectors(columns: list, features: dict) -> dict:
    return {"sentence_embedding": columns[features["column"]]}


def test_leading_dimensions_learn_those_of_the_teacher() -> None:
    vectors, batch, teachers = batch_of(D)
    loss, _ = value_and_gradients(Embeddings(loss="mse", teacher="model", dimensions=(D, 2)), vectors, batch, {})
    x = of_examples(vectors)
    expected = 0.0
    for size in (D, 2):
        part = x[..., :size] / np.linalg.norm(x[..., :size], axis=-1, keepdims=True)
        expected += np.square(part - teachers[..., :size]).mean()
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_single_texts() -> None:
    """They have a loss and no accuracy."""
    vectors, batch, _ = batch_of(D)
    single = batch | {"tuples": TUPLES[..., :1]}
    metrics = jax.jit(Embeddings(loss="l2", teacher="model").metrics)(vectors, single)
    expected = np.linalg.norm(of_examples(vectors) - of_examples(batch["teacher_vectors"]), axis=-1)[:, 0].mean()
    assert float(metrics["loss"][0] / metrics["loss"][1]) == pytest.approx(expected, rel=1e-5)
    assert metrics.keys() == {"loss"} and metrics["loss"][1] == N


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": "mse"}, "objective.loss is mse, which learns a model's vectors; name it with objective.teacher"),
        ({"teacher": "x"}, "objective.teacher is x, but objective.loss ranking has none; set mse or l2"),
        ({"guide": "x", "loss": "mse", "teacher": "y"}, "objective.guide is x, but objective.loss mse has none; set r"),
        ({"teacher_reads": "anchor"}, "objective.teacher_reads is anchor, but objective.loss ranking has none"),
        ({"guide_margin": 0.1}, "objective.guide_margin is 0.1, but objective.guide names no model"),
        ({"guide": "x", "similarity": "dot"}, "objective.similarity is dot, but ranking with objective.guide compares"),
        ({"guide": "x", "hardness": "hard", "hardness_strength": 2.0}, "objective.hardness is hard, but ranking with"),
        ({"guide": "x", "directions": ("query_to_document", "document_to_query")}, "has document_to_query, which rank"),
        ({"loss": "mse", "teacher": "x", "teacher_size": -1}, "objective.teacher_size must be at least 0, got -1"),
    ],
    ids=str,
)
def test_invalid_settings(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Embeddings(**settings)


def test_settings_that_the_data_or_the_model_contradicts() -> None:
    with pytest.raises(ValueError, match="is mse, which is for dense embeddings"):
        SparseEmbeddings(loss="mse")
    taught = Embeddings(loss="mse", teacher="x")
    with pytest.raises(ValueError, match="is mse, which learns a teacher's vectors, whatever their scores; leave out"):
        taught.with_labels(TrainingLabels("score", "tuple", ()))
    assert taught.with_vector_size(7).teacher_size == 7
    with pytest.raises(ValueError, match="objective.teacher_size is 7, but x gives vectors of size 8; leave it out"):
        taught.with_vector_size(7).with_vector_size(8)
    assert Embeddings(guide="x").with_vector_size(7) == Embeddings(guide="x")
    with pytest.raises(ValueError, match=r"dimensions is \(4, 2\), but the teacher's vectors have size 7 and not 16"):
        Embeddings(loss="mse", teacher="x", teacher_size=7, dimensions=(4, 2)).network(
            EncoderConfig(hidden_size=16, num_heads=2), ComputeConfig()
        )
