"""Training of rerankers: from a published cross-encoder the losses of sentence-transformers on the same texts."""

import contextlib
import json
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxencoder
from jaxencoder.checkpoints.initial import initial_params
from jaxencoder.checkpoints.orbax import CheckpointManager
from jaxencoder.config import DataConfig, EncoderConfig, Reranking, RunConfig, TrainingConfig
from jaxencoder.model.config import ComputeConfig
from jaxencoder.model.heads import HeadConfig
from jaxencoder.tasks.reranking.objective import accuracy
from jaxencoder.tasks.task import TrainingLabels
from jaxencoder.training.setup import set_up
from tests.checkpoints.peers import SHORT, save_peer
from tests.tasks.conftest import write_records

peers = pytest.importorskip("sentence_transformers")
losses = pytest.importorskip("sentence_transformers.cross_encoder.losses")
LISTS = [
    {"query": "the man plays", "documents": [SHORT[0], "two dogs", "the Snow"], "labels": [2, 0, 1]},
    {"query": "dogs", "documents": ["two dogs run in the Snow", "the man", "a Guitar"], "labels": [1, 0, 0]},
    {"query": "Snow " * 40, "documents": ["Snow", "man " * 40, "two"], "labels": [0, 3, 1]},
]


def folder_of(path: Path, family: str = "bert", labels: int = 1, **settings) -> str:
    path.mkdir()
    dropouts = ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout")
    settings |= dict.fromkeys(dropouts, 0.0) if family != "modernbert" else {}
    save_peer(family, path, "AutoModelForSequenceClassification", num_labels=labels, **settings)
    file = path / "tokenizer_config.json"  # theirs gives no token types otherwise
    names = ["input_ids", *["token_type_ids"] * (family == "bert"), "attention_mask"]
    file.write_text(json.dumps(json.loads(file.read_text()) | {"model_input_names": names}))
    return str(path)


def start(folder: str, run_dir: Path, objective: Reranking, records=LISTS):
    """The run that begins at a folder, and its parameters."""
    config = RunConfig(
        init_from=folder,
        model=EncoderConfig(dropout=0.0, attention_dropout=0.0),
        compute=ComputeConfig(dtype="float32"),
        objective=objective,
        data=DataConfig(
            train=(write_records(run_dir.with_suffix(".jsonl"), records),),
            **{"validation_fraction": 0.0, "text_field": "query", "pair_field": "positive", "row_length": 200},
            **{"workers": 1, "cache": str(run_dir.parent / "cache")},
        ),
        training=TrainingConfig(steps=1, batch_size=4),
    )
    setup = set_up(config, run_dir)
    shapes = jax.eval_shape(setup.objective.init, jax.random.key(0))
    fresh = jax.tree.map(lambda x: np.full(x.shape, 0.5, np.float32), shapes)
    return setup, initial_params(folder, fresh, setup.config.objective)


@pytest.mark.parametrize("loss", ["lambda", "infonce"])
def test_loss_and_gradients_equal_those_of_sentence_transformers(loss: str, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "model")
    labels = [x["labels"] if loss == "lambda" else [1, 0, 0] for x in LISTS]
    records = [x | {"labels": y} for x, y in zip(LISTS, labels, strict=True)]
    settings = {"activation": "sigmoid", "scale": 10.0} if loss == "infonce" else {}
    setup, params = start(folder, tmp_path / "run", Reranking(loss=loss, dropout=0.0, **settings), records)
    store = setup.train[0][0]
    batch = store.read(np.arange(len(store)))
    run = jax.value_and_grad(setup.objective.loss, has_aux=True) if loss == "lambda" else setup.objective.loss
    result = jax.jit(run, static_argnums=3)(params, batch, jax.random.key(0), True)
    (value, metrics), gradients = result if loss == "lambda" else (result, None)

    theirs = peers.CrossEncoder(folder, device="cpu").train()
    expected = their_loss(theirs, loss, labels)
    assert float(value) == pytest.approx(expected.item(), rel=2e-5)
    assert metrics["accuracy"][1] == 3
    if gradients is not None:
        expected.backward()
        weights = dict(theirs.model.named_parameters())
        head, bert = gradients["sequence_head"]["output"]["kernel"], weights["classifier.weight"].grad
        np.testing.assert_allclose(head, bert.T.numpy(), atol=1e-5)
        words = gradients["encoder"]["embeddings"]["token_embedding"]
        expected_words = weights["bert.embeddings.word_embeddings.weight"].grad.numpy()
        np.testing.assert_allclose(words / np.abs(words).max(), expected_words / np.abs(words).max(), atol=1e-5)


def their_loss(model, loss: str, labels: list[list[float]]):
    import torch

    queries, documents = [x["query"] for x in LISTS], [x["documents"] for x in LISTS]
    if loss == "lambda":
        return losses.LambdaLoss(model)([queries, documents], [torch.tensor(x) for x in labels])
    ranking = losses.MultipleNegativesRankingLoss(model)
    ranking.get_in_batch_negatives = lambda *_: iter(())
    return ranking([queries, *map(list, zip(*documents, strict=True))], None)


@pytest.mark.parametrize(
    ("family", "settings"),
    [("bert", {}), ("modernbert", {"classifier_pooling": "mean"})],
    ids=lambda x: str(x),
)
def test_a_published_cross_encoder_becomes_a_run_and_again_a_folder(family: str, settings: dict, tmp_path) -> None:
    """Its head is reused, so that without an update all three give equal scores."""
    folder = folder_of(tmp_path / "model", family, **settings)
    _, params = start(folder, tmp_path / "run", Reranking(loss="lambda", score_activation="sigmoid"))
    with contextlib.closing(CheckpointManager(tmp_path / "run" / "checkpoints")) as checkpoints:
        checkpoints.save(1, {"params": params}, wait=True)
    pairs = [("the man plays", text) for text in SHORT]
    expected = peers.CrossEncoder(folder, device="cpu").predict(pairs)
    model = jaxencoder.load(tmp_path / "run")
    model.save(tmp_path / "again", format="sentence-transformers")
    for opened in (model, jaxencoder.load(tmp_path / "again")):
        ranked = opened.rerank("the man plays", SHORT)
        np.testing.assert_allclose([x.score for x in sorted(ranked)], expected, atol=1e-5)
    again = peers.CrossEncoder(str(tmp_path / "again"), device="cpu")
    np.testing.assert_allclose(again.predict(pairs), expected, atol=1e-5)


def test_a_head_of_other_classes_is_replaced(tmp_path: Path) -> None:
    _, params = start(folder_of(tmp_path / "model", labels=3), tmp_path / "run", Reranking(loss="lambda"))
    assert params["sequence_head"]["output"]["kernel"].shape == (24, 1)
    assert (params["sequence_head"]["output"]["kernel"] == 0.5).all()  # fresh
    assert not (params["pooler"]["dense"]["kernel"] == 0.5).any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": "hinge"}, "objective.loss is 'hinge'; choose one of bce, infonce"),
        ({"activation": "sigmoid"}, "objective.activation is sigmoid, but objective.loss bce has a sigmoid of its own"),
        ({"loss": "infonce", "pos_weight": 2.0}, "objective.pos_weight is 2.0, but objective.loss infonce has none"),
        ({"loss": "lambda", "temperature": 2.0}, "objective.temperature is 2.0, but .* lambda has none; set list_net"),
        ({"loss": "lambda", "weighting": "ndcg1", "mu": 3.0}, "objective.mu is 3.0, which objective.weighting ndcg1"),
        ({"loss": "infonce", "scale": 0.0}, "objective.scale must be a positive number, got 0.0"),
        ({"loss": "rank_net", "top": -1}, "objective.top must be 0 or a positive number, got -1"),
        ({"dropout": 1.0}, "objective.dropout must be in"),
        ({"heads_of_family": (HeadConfig("cls", 2),)}, "objective.heads_of_family has 1 heads; give a pooler"),
    ],
)
def test_settings(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Reranking(**settings)


@pytest.mark.parametrize(
    ("loss", "labels", "message"),
    [
        ("bce", TrainingLabels("", "tuple", ()), "each record has one document, which answers its query"),
        ("lambda", TrainingLabels("label", "tuple", ()), "objective.loss is lambda, which compares documents"),
        ("mse", TrainingLabels("", "tuple", (), texts=3), "objective.loss is mse, which needs a teacher's scores"),
    ],
)
def test_labels_that_teach_nothing(loss: str, labels: TrainingLabels, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Reranking(loss=loss).with_labels(labels)


@pytest.mark.parametrize(
    ("settings", "activation"),
    [
        ({}, "sigmoid"),
        ({"loss": "infonce"}, "identity"),
        ({"loss": "infonce", "activation": "sigmoid"}, "sigmoid"),
        ({"loss": "lambda", "score_activation": "tanh"}, "tanh"),
    ],
)
def test_activation_of_scores(settings: dict, activation: str) -> None:
    assert Reranking(**settings).cross_encoder.activation == activation


def test_accuracy() -> None:
    scores = np.array([[1.0, 2, 9], [3, 1, 0], [0, 1, 2], [5, 9, 1]], np.float32)
    labels = np.array([[0, 1, 5], [0, 1, 0], [1, 1, 1], [1, np.nan, 0]], np.float32)
    mask = np.array([[True, True, False], *[[True] * 3] * 3])
    assert [float(x) for x in accuracy(scores, labels, mask)] == [2, 3]  # the third has equal labels
    tied = np.zeros((1, 3), np.float32), np.array([[1, 0, 0]], np.float32), np.ones((1, 3), bool)
    assert [float(x) for x in accuracy(*tied)] == [0, 1]
    one = (x[:, :1] for x in (scores - 2, labels, mask))
    assert [float(x) for x in accuracy(*one)] == [2, 4]
