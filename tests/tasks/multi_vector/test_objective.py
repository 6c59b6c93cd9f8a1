"""Training of vectors of tokens: as in sentence-transformers, however the texts are packed and in whatever parts."""

import dataclasses
from functools import partial

import jax
import numpy as np
import optax
import pytest

import jaxencoder
from jaxencoder.config import MultiVectors
from jaxencoder.model.multi_vector import MultiVectorConfig, QueryExpansion, TokenPooling
from jaxencoder.model.sentence import Dense
from jaxencoder.tasks.multi_vector.data import MultiVectorSchema
from jaxencoder.tasks.task import TrainingLabels
from jaxencoder.text import segment_labels
from jaxencoder.text.config import DataConfig
from jaxencoder.text.schema import Example
from jaxencoder.training.step import init_state, train_step
from tests.checkpoints.peers import D, save_peer
from tests.objectives.comparisons import KEY, assert_close, loss_and_gradients

PEER = pytest.importorskip("sentence_transformers")
ROWS, T = 4, 96
QUERIES = ["the man", "two dogs run", "a Guitar, in the snow", "who is playing?", "snow", "dogs", "man", "who"]
POSITIVES = [f"{query} is here. A man is playing, two dogs" for query in QUERIES]
NEGATIVES = [f"naïve café! {'run ' * i}" for i in range(len(QUERIES))]
WORDS = (",", ".", "!")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A MultiVectorEncoder of sentence-transformers without dropout."""
    from sentence_transformers.base.modules import Dense, Normalize, Transformer
    from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask
    from torch import manual_seed
    from torch.nn import Identity

    manual_seed(0)  # of the projection
    path = tmp_path_factory.mktemp("peer")
    dropout = dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob"), 0.0)
    save_peer("bert", path, max_position_embeddings=256, **dropout)
    expansion = {"strategy": "fixed", "length": 10}
    names = {"module_input_name": "token_embeddings"}
    modules = [
        Transformer(str(path), document_length=20, query_expansion=expansion),
        Dense(D, 8, bias=False, activation_function=Identity(), **names),
        MultiVectorMask(list(WORDS)),
        Normalize(**names),
    ]
    prompts = {"query": "query: ", "document": "passage: "}
    PEER.MultiVectorEncoder(modules=modules, prompts=prompts, device="cpu").save(str(path / "model"))
    return path / "model"


@pytest.fixture(scope="module")
def model(folder):
    model = jaxencoder.load(folder)
    encoder = dataclasses.replace(model.config.model, dropout=0.0, attention_dropout=0.0)
    return dataclasses.replace(model, config=dataclasses.replace(model.config, model=encoder))


def objective_of(model, **settings):
    config = MultiVectors(**settings).started_from_tokens(model.multi_vector)
    return config, config.build(model.config.model, model.compute, model.tokenizer)


def batch_of(model, config: MultiVectors, scores: np.ndarray, rows: int = ROWS) -> dict[str, np.ndarray]:
    """The examples in packed rows."""
    schema = MultiVectorSchema(**config.schema_settings)
    texts = zip(QUERIES, POSITIVES, NEGATIVES, strict=True)
    examples = [
        Example((query, [positive, negative]), [np.nan, *score], 0)
        for (query, positive, negative), score in zip(texts, scores.tolist(), strict=True)
    ]
    pieces = schema.encode(model.tokenizer, examples, DataConfig(row_length=T), True)
    ids = np.split(pieces.ids.astype(np.int32), np.cumsum(pieces.lengths)[:-1])
    names = ("token_ids", "segment_ids", "positions")
    batch = {name: np.zeros((rows, T * 8 // (2 * rows)), np.int32) for name in names}
    numbers = np.full((rows, 2 * len(ids) // rows), np.nan, np.float32)
    per_row = len(ids) // rows
    for row in range(rows):
        own = slice(row * per_row, (row + 1) * per_row)
        flat = np.concatenate(ids[own])
        lengths = pieces.lengths[own]
        batch["token_ids"][row, : len(flat)] = flat
        batch["segment_ids"][row, : len(flat)] = np.repeat(np.arange(1, per_row + 1), lengths)
        batch["positions"][row, : len(flat)] = np.concatenate([np.arange(n) for n in lengths])
        numbers[row] = segment_labels.encode("tuple", pieces.labels[own], 0)
    return batch | segment_labels.decode("tuple", numbers, 0, (per_row // 3, 3))


LOSSES = {"ranking": "MultipleNegativesRankingLoss", "margin_mse": "MarginMSELoss", "kl": "DistillKLDivLoss"}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("loss", LOSSES)
def test_updates_equal_those_of_sentence_transformers(loss: str, model, folder) -> None:
    torch = pytest.importorskip("torch")
    from sentence_transformers.multi_vector_encoder import losses

    rate, steps = {"ranking": (0.01, 20), "margin_mse": (0.001, 5), "kl": (0.01, 5)}[loss]
    config, objective = objective_of(model, loss=loss)
    params = {name: jax.tree.map(np.array, model.params[name]) for name in ("encoder", "multi_vector")}
    state = init_state(objective, optax.sgd(rate), KEY)._replace(params=params)
    update = jax.jit(partial(train_step, objective, optax.sgd(rate)))
    peer = PEER.MultiVectorEncoder(str(folder), device="cpu")
    loss_function = getattr(losses, f"MultiVector{LOSSES[loss]}")(peer)
    torch_update = torch.optim.SGD(peer.parameters(), rate)
    texts = {"query": [QUERIES], "document": [POSITIVES, NEGATIVES]}
    for step in range(steps):
        scores = np.random.default_rng(step).uniform(0, 3, (8, 2)).astype(np.float32)
        state, metrics = update(state, batch_of(model, config, scores), KEY)
        total, weight = metrics["loss"]
        features = [
            peer.preprocess(column, prompt=peer.prompts[role], task=role) for role, x in texts.items() for column in x
        ]
        torch_loss = loss_function(features, None if loss == "ranking" else torch.tensor(scores))
        torch_update.zero_grad()
        torch_loss.backward()
        torch_update.step()
        assert float(total / weight) == pytest.approx(torch_loss.item(), rel=2e-5 if step < 3 else 1e-3), step
    kernel = peer[1].linear.weight.detach().numpy().T
    assert np.abs(kernel - model.params["multi_vector"]["0"]["kernel"]).max() > 1e-4
    np.testing.assert_allclose(state.params["multi_vector"]["0"]["kernel"], kernel, atol=2e-5)


def test_parts_and_rows_change_nothing(model) -> None:
    params = {name: model.params[name] for name in ("encoder", "multi_vector")}
    scores = np.zeros((8, 2), np.float32)
    results = []
    for parts, rows in ((1, ROWS), (2, ROWS), (1, 2)):
        config, objective = objective_of(model, parts=parts)
        results.append(loss_and_gradients(objective, params, batch_of(model, config, scores, rows)))
    for other in results[1:]:
        assert_close(other, results[0], 5e-6)
        assert other[1]["accuracy"] == results[0][1]["accuracy"]
    assert results[0][1]["accuracy"][1] == 8


def test_rows_longer_than_the_positions(model) -> None:
    encoder = dataclasses.replace(model.config.model, max_length=20)
    config, _ = objective_of(model)
    objective, batch = config.build(encoder, model.compute, model.tokenizer), batch_of(model, config, np.zeros((8, 2)))
    params = jax.eval_shape(objective.init, KEY)
    assert jax.eval_shape(partial(objective.scores, train=False), params, batch, KEY).shape == (ROWS, T, 8)


def test_rows(model) -> None:
    """Queries have their full length; long documents are truncated to their own, and to the room of a row."""
    config, _ = objective_of(model)
    schema = MultiVectorSchema(**config.schema_settings)
    examples = [Example(("the man " * 20, ["the", "the man " * 20]), [np.nan] * 3, 0)]
    for row_length, expected in ((T, [10, 5, 20]), (30, [10, 5, 15])):
        pieces = schema.encode(model.tokenizer, examples, DataConfig(row_length=row_length), True)
        assert pieces.lengths.tolist() == expected
    assert schema.name != MultiVectorSchema().name


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"modules": (Dense(24, 8),)}, "modules Dense of tokens; only one Dense without a bias"),
        ({"expansion": QueryExpansion(9, truncates=False)}, "expands queries without a fixed length"),
        ({"pooling": TokenPooling(2.0)}, "init_from has pooling TokenPooling.*, which is not trained here"),
        ({"normalize": False}, "init_from has normalize False, which is not trained here"),
    ],
)
def test_models_that_are_not_trained(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MultiVectors().started_from_tokens(MultiVectorConfig(**settings))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"query_length": 2}, "objective.query_length must be at least 3, got 2"),
        ({"scale": 0.0}, "objective.scale must be a positive number"),
        ({"loss": "kl", "student_temperature": -1.0}, "student_temperature must be a positive number"),
    ],
)
def test_invalid_settings(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MultiVectors(**settings)


def test_labels() -> None:
    with pytest.raises(ValueError, match="loss is kl, which needs a teacher's scores; name data.label_field"):
        MultiVectors(loss="kl").with_labels(TrainingLabels("", "tuple", ()))
    with pytest.raises(ValueError, match="takes all pairs as similar, whatever their scores; leave out"):
        MultiVectors().with_labels(TrainingLabels("score", "tuple", ()))


def test_settings_of_the_model_are_kept(model) -> None:
    config, _ = objective_of(model)
    settings = config.multi_vector(model.config.model)
    assert dict(settings.prompts) == dict(model.multi_vector.prompts)
    assert dataclasses.replace(settings, prompts=model.multi_vector.prompts) == model.multi_vector
