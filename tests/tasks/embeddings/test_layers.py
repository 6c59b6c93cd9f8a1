"""Training of first layers: as in sentence-transformers, and of the models that `keep_layers` leaves."""

import dataclasses
from functools import partial

import jax
import numpy as np
import optax
import pytest

import jaxencoder
from jaxencoder.checkpoints.checkpoint import Checkpoint
from jaxencoder.checkpoints.layers import with_layers
from jaxencoder.config import DataConfig, Embeddings, RunConfig
from jaxencoder.training.step import init_state, train_step
from tests.checkpoints.peers import D, save_peer
from tests.model.examples import FLOAT32, SMALL, Vocabulary, randomized_params, rows
from tests.objectives.comparisons import KEY

RATE = 0.01
ANCHORS = ["the man", "two dogs run", "a Guitar, in the snow", "who is playing?"]
POSITIVES = [f"{anchor} is here. A man is playing, two dogs" for anchor in ANCHORS]
LENGTHS, T = [[7, 5, 9, 4], [8, 9, 5, 7]], 32
TUPLES = np.tile(np.arange(4, dtype=np.int32).reshape(1, 2, 2), (2, 1, 1))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A SentenceTransformer of two layers without dropout."""
    sentence_transformers = pytest.importorskip("sentence_transformers")
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    path = tmp_path_factory.mktemp("peer")
    dropout = dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob"), 0.0)
    save_peer("bert", path, **dropout)
    modules = [Transformer(str(path)), Pooling(D, "mean"), Normalize()]
    sentence_transformers.SentenceTransformer(modules=modules, device="cpu").save(str(path / "model"))
    return path / "model"


def batch_of_texts(tokenizer) -> dict[str, np.ndarray]:
    """A pair in each row."""
    batch = {name: np.zeros((len(ANCHORS), 48), np.int32) for name in ("token_ids", "segment_ids", "positions")}
    for row, texts in enumerate(zip(ANCHORS, POSITIVES, strict=True)):
        ids = [x.ids for x in tokenizer.encode_batch(list(texts))]
        span = slice(0, sum(map(len, ids)))
        batch["token_ids"][row, span] = np.concatenate(ids)
        batch["segment_ids"][row, span] = np.repeat([1, 2], [len(x) for x in ids])
        batch["positions"][row, span] = np.concatenate([np.arange(len(x)) for x in ids])
    tuples = np.tile(np.array([[[0, 1]]], np.int32), (len(ANCHORS), 1, 1))
    return batch | {"tuples": tuples, "labels": np.full((len(ANCHORS), 2), np.nan, np.float32)}


@pytest.mark.filterwarnings("ignore")
def test_updates_equal_those_of_sentence_transformers(folder) -> None:
    """The losses of three updates, of leading dimensions too, and the weights after them."""
    torch, peers = pytest.importorskip("torch"), pytest.importorskip("sentence_transformers")
    losses = pytest.importorskip("sentence_transformers.sentence_transformer.losses")
    model, peer = jaxencoder.load(folder), peers.SentenceTransformer(str(folder), device="cpu")
    settings = {"layer_weight": 0.5, "layer_divergence_weight": 2.0, "layer_temperature": 0.4}
    config = Embeddings(normalize=True, layers=(0, 1), dimensions=(D, 8), **settings)
    encoder = dataclasses.replace(model.config.model, dropout=0.0, attention_dropout=0.0)
    objective = config.build(encoder, FLOAT32, model.tokenizer)
    update = jax.jit(partial(train_step, objective, optax.sgd(RATE)))
    params = {"encoder": jax.tree.map(np.array, model.params["encoder"])}
    state, batch = init_state(objective, optax.sgd(RATE), KEY)._replace(params=params), batch_of_texts(model.tokenizer)
    names = {"prior_layers_weight": 0.5, "kl_div_weight": 2.0, "kl_temperature": 0.4, "n_layers_per_step": -1}
    inner = losses.MultipleNegativesRankingLoss(peer)
    loss_function = losses.Matryoshka2dLoss(peer, inner, [D, 8], n_dims_per_step=-1, **names)  # an AdaptiveLayerLoss
    torch_update = torch.optim.SGD(peer.parameters(), RATE)
    for step in range(3):
        state, metrics = update(state, batch, KEY)
        totals, weights = metrics["loss"]
        torch_loss = loss_function([peer.preprocess(texts) for texts in (ANCHORS, POSITIVES)], None)
        torch_update.zero_grad()
        torch_loss.backward()
        torch_update.step()
        assert float((totals / weights).sum()) == pytest.approx(torch_loss.item(), rel=1e-5), step
    theirs = peer[0].auto_model.embeddings.word_embeddings.weight.detach().numpy()
    ours = state.params["encoder"]["embeddings"]["token_embedding"]
    np.testing.assert_allclose(ours[: len(theirs)], theirs, atol=1e-5)


def build(encoder=SMALL["bert"], **settings):
    return Embeddings(**settings).build(encoder, FLOAT32, Vocabulary())


def batch_of() -> dict[str, np.ndarray]:
    return rows(LENGTHS, T, 0) | {"tuples": TUPLES, "labels": np.full((2, 4), np.nan, np.float32)}


@pytest.mark.parametrize("encoder", [SMALL["deberta"], SMALL["modernbert"]], ids=["deberta", "modernbert"])
def test_layers_give_the_vectors_of_what_keep_layers_leaves(encoder) -> None:
    numbers = tuple(range(1, encoder.num_layers))
    init, embed = Embeddings().network_of_layers(encoder, FLOAT32, numbers)
    data, objective = DataConfig(pair_field="positive"), Embeddings(layers=numbers, layers_per_step=1)
    model = Checkpoint(RunConfig(model=encoder, data=data, objective=objective), randomized_params(init), None)
    vectors = np.split(jax.jit(embed, static_argnums=3)(model.params, batch_of(), KEY, False), 1 + len(numbers), -1)
    for i, number in enumerate(numbers, 1):
        student = with_layers(model, range(number))
        assert student.config.objective == Embeddings()
        _, scores = Embeddings().network(student.config.model, FLOAT32)
        expected = jax.jit(scores, static_argnums=3)(student.params, batch_of(), KEY, False)
        np.testing.assert_allclose(vectors[i], expected, atol=2e-5)


def test_drawn_layers_depend_on_the_key_alone() -> None:
    """Evaluations take all layers, and as much of their divergence as an update does."""
    objective, batch = build(layers=(0, 1), layers_per_step=1, parts=2), batch_of()
    params = randomized_params(objective.init)
    loss = jax.jit(objective.loss, static_argnums=3)
    values = [float(loss(params, batch, jax.random.key(seed), True)[0]) for seed in (*range(12), 0)]
    assert values[0] == values[-1]
    single = [float(jax.jit(build(layers=(n,)).loss, static_argnums=3)(params, batch, KEY, True)[0]) for n in (0, 1)]
    np.testing.assert_allclose(sorted(set(np.round(values, 4))), np.sort(np.round(single, 4)), atol=2e-4)
    np.testing.assert_allclose(float(loss(params, batch, KEY, False)[0]), np.mean(single), rtol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layers": (1, 1)}, r"objective.layers is \(1, 1\); give different numbers of at least 0"),
        ({"layers": (-1,)}, r"objective.layers is \(-1,\); give different numbers"),
        ({"layers": (1,), "layers_per_step": 2}, "layers_per_step is 2, but objective.layers names 1; give a number"),
        ({"layer_temperature": 0.0, "layers": (1,)}, "objective.layer_temperature must be a positive number, got 0.0"),
        ({"layer_weight": 2.0}, "objective.layer_weight is 2.0, but objective.layers names none; set it"),
        ({"layers": (1, 2)}, r"objective.layers is \(1, 2\), but the model has 2, all of which are trained"),
    ],
)
def test_invalid_settings(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**settings)
