"""Layers after the pooling: trained as in sentence-transformers, kept by the run, and written to its folders."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxencoder
from jaxencoder.checkpoints.sentence_modules import read_module
from jaxencoder.config import DataConfig, Embeddings, RunConfig
from jaxencoder.config_io import from_json, to_json
from jaxencoder.model.sentence import Dense, Dropout, LayerNorm, Normalize, SentenceConfig
from jaxencoder.parameters import flatten
from tests.checkpoints.peers import TEXTS, D, save_peer
from tests.model.examples import BERT, randomized_params
from tests.objectives.comparisons import KEY, from_transformers, loss_and_gradients
from tests.tasks.conftest import train_tiny, write_records
from tests.tasks.embeddings.test_objective import batch_of, build, their_ranking, vectors_of

LAYERS = (LayerNorm(2 * D), Dense(2 * D, 10, activation="tanh"), Normalize(), Dense(10, 10, residual=True))


def test_gradients_equal_those_of_sentence_transformers(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    modules = pytest.importorskip("sentence_transformers.sentence_transformer.modules")
    losses = pytest.importorskip("sentence_transformers.sentence_transformer.losses")
    torch.manual_seed(0)
    tail = [modules.LayerNorm(2 * D), modules.Dense(2 * D, 10), modules.Normalize()]
    tail.append(modules.Dense(10, 10, use_residual=True))
    objective = build(BERT, pooling="cls", more_poolings=("mean",), modules=LAYERS)
    theirs, params = from_transformers("BertForMaskedLM", build(BERT))
    layers = {}
    for number, module in enumerate(tail):
        folder = tmp_path / str(number)
        folder.mkdir()
        module.save(str(folder))
        read, arrays = read_module(type(module).__name__, folder, weights=True)
        assert read == LAYERS[number]
        layers |= {str(number): arrays} if arrays else {}
    assert jax.tree.map(np.shape, layers) == jax.tree.map(np.shape, jax.eval_shape(objective.init, KEY)["sentence"])
    loss, _, gradients = loss_and_gradients(objective, params | {"sentence": layers}, batch_of())

    def vector(cls, mean):
        features = {"sentence_embedding": torch.cat([cls, mean])[None]}
        return torch.nn.Sequential(*tail)(features)["sentence_embedding"][0]

    pooled = zip(*(vectors_of(theirs, batch_of(), pooling) for pooling in ("cls", "mean")), strict=True)
    columns = [[None if x is None else vector(x, y) for x, y in zip(*column, strict=True)] for column in pooled]
    expected = their_ranking(losses.MultipleNegativesRankingLoss(torch.nn.Identity()), columns)
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    norm, dense = tail[0].norm, tail[1].linear
    parts = {"0/scale": norm.weight, "0/bias": norm.bias, "1/kernel": dense.weight, "1/bias": dense.bias}
    parts |= {"3/kernel": tail[3].linear.weight, "3/bias": tail[3].linear.bias}
    assert {f"sentence/{name}" for name in parts} == {path for path in gradients if path.startswith("sentence")}
    for name, weight in parts.items():
        np.testing.assert_allclose(gradients[f"sentence/{name}"], weight.grad.numpy().T, atol=1e-5)
    embedded = theirs.bert.embeddings.word_embeddings.weight.grad
    np.testing.assert_allclose(gradients["encoder/embeddings/token_embedding"], embedded, atol=1e-5)


def test_dropout_is_active_in_training_only() -> None:
    objective = build(modules=(Dropout(0.5),))
    scores, params = jax.jit(objective.scores, static_argnums=3), randomized_params(objective.init)
    zeros = [float((scores(params, batch_of(), KEY, train)[3] == 0).mean()) for train in (False, True)]
    assert zeros[0] == 0 and 0.3 < zeros[1] < 0.7


def test_a_folder_is_trained_and_written_back(tmp_path: Path) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    modules = sentence_transformers.sentence_transformer.modules
    first = modules.Transformer(str(save_peer("bert", tmp_path / "bert")), max_seq_length=32)
    layers = [modules.Pooling(D, ("mean", "max")), modules.Dense(2 * D, D), modules.Dropout(0.3), modules.LayerNorm(D)]
    start = sentence_transformers.SentenceTransformer(modules=[first, *layers, modules.Normalize()], device="cpu")
    start.save(str(tmp_path / "start"))
    records = [{"anchor": f"{a} {b}", "positive": b} for a in ("man", "dogs", "Snow") for b in ("run", "guitar", "the")]
    source = (write_records(tmp_path / "pairs.jsonl", records),)
    data = DataConfig(train=source, validation=source, text_field="anchor", pair_field="positive")
    run = train_tiny(tmp_path / "run", Embeddings(), data, 2, init_from=str(tmp_path / "start")).folder
    model = jaxencoder.load(run)
    before = flatten(jaxencoder.load(tmp_path / "start").params["sentence"])
    after = flatten(model.params["sentence"])
    assert before.keys() == after.keys() and all((before[name] != after[name]).any() for name in before)
    assert model.sentence.modules == (Dense(2 * D, D), Dropout(0.3), LayerNorm(D)) and model.sentence.normalize
    model.save(tmp_path / "saved", format="sentence-transformers")
    theirs = sentence_transformers.SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    np.testing.assert_allclose(theirs.encode(TEXTS), model.embed(TEXTS), atol=1e-5)
    assert [type(module).__name__ for module in theirs][2:] == ["Dense", "Dropout", "LayerNorm", "Normalize"]
    np.testing.assert_array_equal(jaxencoder.load(tmp_path / "saved").embed(TEXTS), model.embed(TEXTS))
    assert json.loads((run / "config.json").read_text())["objective"]["modules"][1] == {"rate": 0.3, "type": "Dropout"}


def test_a_new_projection() -> None:
    objective = Embeddings(projection=6, projection_activation="tanh").for_encoder(BERT)
    assert objective.modules == (Dense(D, 6, activation="tanh"),) and objective.sentence.size(D) == 6
    assert objective.for_encoder(BERT) == objective  # as when the run goes on
    assert Embeddings().started_from(objective.sentence).modules == objective.modules
    params = objective.sentence.init(KEY)["0"]
    assert 0.15 < np.abs(params["kernel"]).max() < D**-0.5 and params["bias"].shape == (6,)
    config = RunConfig(objective=objective, data=DataConfig(text_field="anchor", pair_field="positive"))
    assert from_json(to_json(config)) == config
    broken = to_json(config).replace('"type": "Dense"', '"type": "CNN"')
    with pytest.raises(ValueError, match="objective.modules.0 is .*; give an object of settings whose type is one of"):
        from_json(broken)


@pytest.mark.parametrize(
    ("settings", "sentence", "message"),
    [
        ({"projection": 6}, {"modules": (Dense(D, 4), LayerNorm(4))}, "projection is 6, but init_from has the modules"),
        (
            {"pooling": "cls", "more_poolings": ("max",)},
            {"modules": (Dense(D, 4),)},
            "Dense takes vectors of size 24, but",
        ),
    ],
)
def test_modules_that_do_not_fit(settings: dict, sentence: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Embeddings(**settings).started_from(SentenceConfig(**sentence)).for_encoder(BERT)
    assert dataclasses.replace(Embeddings(), projection=0).for_encoder(BERT).modules == ()
