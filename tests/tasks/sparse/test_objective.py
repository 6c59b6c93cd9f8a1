"""Training of sparse embeddings: as in sentence-transformers, however the texts are packed."""

import dataclasses
from functools import partial
from types import SimpleNamespace

import jax
import numpy as np
import optax
import pytest

from jaxencoder.config import SparseEmbeddings
from jaxencoder.model.sentence import SentenceConfig
from jaxencoder.model.sparse import SparseConfig
from jaxencoder.objectives.objective import mean
from jaxencoder.tasks.task import TrainingLabels
from jaxencoder.training.step import init_state, train_step
from tests.model.examples import BERT, FLOAT32, SMALL, Vocabulary, randomized_params, rows
from tests.objectives.comparisons import KEY, assert_close, from_transformers, loss_and_gradients

T, STEPS, RATE = 36, 24, 0.02
LENGTHS = [[7, 5, 9, 4, 6, 3], [8, 9, 5, 7, 3, 4], [9, 6, 7, 3, 4, 4], [3, 6, 4, 8, 5, 3]]  # two triplets in each row
TUPLES = np.tile(np.arange(6, dtype=np.int32).reshape(1, 2, 3), (4, 1, 1))


def batch_of(seed: int = 0) -> dict[str, np.ndarray]:
    return rows(LENGTHS, T, seed) | {"tuples": TUPLES, "labels": np.full((4, 6), np.nan, np.float32)}


def build(config=SMALL["bert"], **settings):
    return SparseEmbeddings(**settings).build(config, FLOAT32, Vocabulary())


def columns_of(batch: dict[str, np.ndarray], special: bool = True) -> list[dict]:
    """Anchors, positives and negatives as inputs of torch, one text in each row."""
    import torch

    result = []
    rows_of_batch = list(zip(batch["token_ids"], batch["segment_ids"], strict=True))
    for column in (1, 2, 3):
        texts = [ids[segments == column + 3 * example] for ids, segments in rows_of_batch for example in (0, 1)]
        texts = texts if special else [ids[1:-1] for ids in texts]
        width = max(map(len, texts))
        ids = torch.tensor(np.stack([np.pad(x, (0, width - len(x))) for x in texts])).long()
        mask = torch.tensor(np.stack([np.arange(width) < len(x) for x in texts])).long()
        result.append({"input_ids": ids, "attention_mask": mask})
    return result


def sparse_encoder(masked_lm, pooling: str = "max", activation: str = "relu"):
    import torch
    from sentence_transformers.sparse_encoder.modules import SpladePooling

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.masked_lm, self.pooling = masked_lm, SpladePooling(pooling, activation)

        def forward(self, features):
            logits = self.masked_lm(features["input_ids"], attention_mask=features["attention_mask"]).logits
            return self.pooling({"token_embeddings": logits, "attention_mask": features["attention_mask"]})

    return Model()


PROMPTS = (("query", "find: "), ("other", "sort: "))
SUMS = {"pooling": "sum", "saturation": "log1p_log1p"}
TRIPLET = {"loss": "triplet", "similarity": "euclidean", "margin": 5.0}


@pytest.mark.parametrize(
    ("settings", "loss_name", "pooling"),
    [
        ({"mask_duplicates": False}, "SparseMultipleNegativesRankingLoss", ("max", "relu")),
        (SUMS | TRIPLET, "SparseTripletLoss", ("sum", "log1p_relu")),
    ],
    ids=["ranking", "triplet of sums"],
)
def test_updates_equal_those_of_sentence_transformers(settings, loss_name, pooling) -> None:
    """The losses of SpladeLoss in a training with the warm-up of its weights, from equal parameters."""
    torch = pytest.importorskip("torch")
    sparse = pytest.importorskip("sentence_transformers.sparse_encoder")
    weights = {"query_weight": 0.5, "document_weight": 0.3, "query_threshold": 20}
    objective = build(BERT, **settings, **weights, regularizer_warmup=0.5)
    masked_lm, params = from_transformers("BertForMaskedLM", objective)
    state = init_state(objective, optax.sgd(RATE), KEY)._replace(params=jax.tree.map(np.array, params))
    update = jax.jit(partial(train_step, objective, optax.sgd(RATE), steps=STEPS))

    model = sparse_encoder(masked_lm, *pooling)
    torch_update = torch.optim.SGD(model.parameters(), RATE)
    torch_loss = sparse.losses.SpladeLoss(
        model, getattr(sparse.losses, loss_name)(model), document_regularizer_weight=0.3, query_regularizer_weight=0.5,
        query_regularizer_threshold=20,
    )  # fmt: skip
    warmup = sparse.callbacks.splade_callbacks.SpladeRegularizerWeightSchedulerCallback(torch_loss, warmup_ratio=0.5)
    progress = SimpleNamespace(max_steps=STEPS, global_step=0)
    warmup.on_train_begin(None, progress, None)
    for step in range(STEPS):
        progress.global_step = step
        warmup.on_step_begin(None, progress, None)
        batch = batch_of(step)
        state, metrics = update(state, batch, KEY)
        total, weight = metrics["loss"]
        losses = torch_loss(columns_of(batch))
        expected = sum(losses.values())
        torch_update.zero_grad()
        expected.backward()
        torch_update.step()
        assert float((total / weight).sum()) == pytest.approx(expected.item(), rel=5e-5), step
    assert float(metrics["document_active"][0] / metrics["document_active"][1]) < 41


@pytest.mark.parametrize(
    ("settings", "name", "columns"),
    [
        ({}, "MultipleNegativesRanking", 3),
        ({"loss": "margin_mse"}, "MarginMSE", 3),
        ({"loss": "kl", "student_temperature": 2.0, "teacher_temperature": 2.0}, "DistillKLDiv", 3),
        ({"loss": "cosent", "similarity": "cosine", "scale": 20.0}, "CoSENT", 2),
        ({"loss": "angle", "scale": 20.0}, "AnglE", 2),
        ({"loss": "cosine"}, "CosineSimilarity", 2),
        (TRIPLET, "Triplet", 3),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_losses_equal_those_of_sentence_transformers(settings: dict, name: str, columns: int) -> None:
    """Value and gradient at sparse vectors; the distillation of sentence-transformers multiplies by its temperature."""
    torch = pytest.importorskip("torch")
    losses = pytest.importorskip("sentence_transformers.sparse_encoder.losses")
    random = np.random.default_rng(0)
    vectors = np.maximum(random.standard_normal((4, 6, 11)), 0).astype(np.float32)
    batch = {"tuples": TUPLES[..., :columns], "labels": random.uniform(0, 3, (4, 6)).astype(np.float32)}
    # Different texts of one token each.
    batch |= {"token_ids": np.arange(24).reshape(4, 6), "segment_ids": np.tile(np.arange(1, 7), (4, 1))}
    batch |= {"positions": np.zeros((4, 6), int)}
    objective = SparseEmbeddings(**settings)

    @jax.jit
    @jax.value_and_grad
    def loss(vectors: jax.Array) -> jax.Array:
        total, weight = objective.metrics(vectors, batch)["pair_loss"]
        return total / weight

    value, gradient = loss(vectors)
    options = {"temperature": 2.0} if name == "DistillKLDiv" else {}
    tensor = torch.tensor(vectors.reshape(8, 3, 11), requires_grad=True)
    scores = torch.tensor(batch["labels"].reshape(8, 3))
    labels = scores[:, 1:] if settings.get("loss") in ("margin_mse", "kl") else scores[:, 0]
    theirs = getattr(losses, f"Sparse{name}Loss")(torch.nn.Identity(), **options)
    expected = theirs.compute_loss_from_embeddings(list(tensor.unbind(1))[:columns], labels)
    expected.backward()
    assert float(value) == pytest.approx(expected.item(), rel=1e-5)
    np.testing.assert_allclose(np.reshape(gradient, (8, 3, 11)), tensor.grad, atol=1e-5)


def test_queries_by_a_table() -> None:
    """Value and gradient of the weights as of SparseStaticEmbedding, which reads no special tokens."""
    torch = pytest.importorskip("torch")
    losses = pytest.importorskip("sentence_transformers.sparse_encoder.losses")
    from sentence_transformers.sparse_encoder.modules import SparseStaticEmbedding

    settings = {"query_weight": 0.0, "document_weight": 0.3, "mask_duplicates": False}
    objective = build(BERT, queries="table", **settings)
    masked_lm, params = from_transformers("BertForMaskedLM", build(BERT))
    params = params | {"query_table": {"weight": np.random.default_rng(0).random(41, np.float32)}}
    loss, _, gradients = loss_and_gradients(objective, params, batch_of())
    tokenizer = SimpleNamespace(model_max_length=36)
    table = SparseStaticEmbedding(tokenizer, torch.tensor(np.array(params["query_table"]["weight"])))
    model = sparse_encoder(masked_lm)
    batch = batch_of()
    vectors = [
        table(columns_of(batch, special=False)[0])["sentence_embedding"],
        *(model(column)["sentence_embedding"] for column in columns_of(batch)[1:]),
    ]
    ranking = losses.SparseMultipleNegativesRankingLoss(model).compute_loss_from_embeddings(vectors, None)
    flops = losses.FlopsLoss(model).compute_loss_from_embeddings(torch.cat(vectors[1:]))
    total = ranking + 0.3 * flops
    total.backward()
    assert loss == pytest.approx(total.item(), rel=1e-5)
    np.testing.assert_allclose(gradients["query_table/weight"], table.weight.grad, atol=1e-5)
    bias = masked_lm.cls.predictions.decoder.bias.grad
    np.testing.assert_allclose(gradients["mlm_head/bias"], bias, atol=1e-5)


@pytest.mark.parametrize(("pooling", "parts"), [("max", 2), ("sum", 1)])
def test_parts_and_groups_of_rows_change_nothing(pooling: str, parts: int, monkeypatch) -> None:
    params = randomized_params(build().init)
    complete = loss_and_gradients(build(pooling=pooling), params, batch_of())
    monkeypatch.setattr("jaxencoder.kernels.pooled_scores._TOKENS", T)
    assert_close(loss_and_gradients(build(pooling=pooling, parts=parts), params, batch_of()), complete, 3e-6)


def test_rows_longer_than_the_positions() -> None:
    objective = build(dataclasses.replace(SMALL["bert"], max_length=9))
    params = jax.eval_shape(objective.init, KEY)
    vectors = jax.eval_shape(partial(objective.scores, train=False), params, batch_of(), KEY)
    assert vectors.shape == (4, 6, BERT.vocab_size)


def test_weights_grow_with_the_progress() -> None:
    objective, batch = SparseEmbeddings(query_weight=1.0, document_weight=0.0, regularizer="l1"), batch_of()
    vectors = np.random.default_rng(0).random((4, 6, 41), np.float32)

    def loss(*progress: float) -> float:
        given = {"progress": np.full(4, progress[0], np.float32)} if progress else {}
        return float(mean(objective.metrics(vectors, batch | given)))

    start, middle, end = loss(0.0), loss(1 / 6), loss(0.5)
    assert middle - start == pytest.approx((end - start) / 4, rel=1e-4)
    assert loss() == pytest.approx(end)


def test_equal_texts_after_other_prompts() -> None:
    """An anchor equals the positive of another example, apart from its prompt of two tokens."""

    class Tokenizer(Vocabulary):
        special_ids = (0,)

        def encode_batch(self, texts):
            return [SimpleNamespace(ids=np.array([1] * len(text) + [0])) for text in texts]

    batch = rows([[6, 5, 9, 7, 4, 6]], 40, 0) | {"tuples": TUPLES[:1], "labels": np.full((1, 6), np.nan, np.float32)}
    ids, segments = batch["token_ids"], batch["segment_ids"]
    ids[segments == 5] = ids[segments == 1][2:]
    objective = SparseEmbeddings(query_prompt="a:").build(SMALL["bert"], FLOAT32, Tokenizer())
    params = randomized_params(objective.init)
    vectors = objective.scores(params, batch, KEY, False)
    counts = {"prompt_tokens": np.array([[2, 0, 0, 2, 0, 0]])}
    expected, other = (mean(SparseEmbeddings().metrics(vectors, batch | more)) for more in (counts, {}))
    assert float(objective.loss(params, batch, KEY, False)[0]) == pytest.approx(float(expected), rel=1e-5)
    assert float(expected) < float(other) - 1e-3


def test_the_initial_model_decides() -> None:
    sparse = SparseConfig("sum", "log1p_log1p", "table", max_active=9)
    chosen = SparseEmbeddings(pooling="max").started_from(
        SentenceConfig(similarity="cosine", sparse=sparse, prompts=PROMPTS)
    )
    assert chosen.prompts == ("find: ", "") and chosen.sentence.prompts == PROMPTS
    assert chosen.sparse == SparseConfig("max", "log1p_log1p", "table") and chosen.sentence.similarity == "cosine"
    dense = SparseEmbeddings().started_from(SentenceConfig(similarity="cosine", pooling=("cls",)))
    resolved = dense.with_labels(TrainingLabels("", "tuple", ()))
    assert resolved == SparseEmbeddings(similarity="dot", pooling="max", saturation="log1p", queries="encoder")
    assert dataclasses.replace(resolved, parts=2).batch_multiple == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"document_weight": -1.0}, "objective.document_weight must be at least 0, got -1.0"),
        ({"regularizer_warmup": 1.5}, "objective.regularizer_warmup must be at most 1, got 1.5"),
        ({"loss": "triplet"}, "objective.loss triplet compares distances, and dot is none; give cosine"),
        ({"parts": 0}, "objective.parts must be at least 1, got 0"),
    ],
)
def test_invalid_settings(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SparseEmbeddings(**settings)
