import dataclasses

import jax
import numpy as np
import pytest

import jaxencoder
from jaxencoder.api import Model, load
from jaxencoder.config_io import save
from jaxencoder.inference import embed
from jaxencoder.tasks.classification.objective import Classification
from jaxencoder.text.config import WindowConfig

from .conftest import SENTENCES, write_run


def one_by_one(model: Model, text: str) -> np.ndarray:
    """The encoder's output for one text without padding: the reference for everything here."""
    ids = model.tokenizer.encode_batch([text])[0].ids[None]
    apply = jax.jit(model.module.apply)
    return np.asarray(apply({"params": model.params["encoder"]}, ids, np.ones_like(ids), np.arange(ids.size)[None]))[0]


@pytest.fixture
def run(tmp_path, model):
    return write_run(tmp_path / "run", model.config, model.tokenizer, params=model.params)


@pytest.mark.parametrize(
    "settings", [{}, {"positions": "rotary", "norm_placement": "pre", "windows": (0, 8, 8), "num_layers": 4}]
)
def test_tokens_are_those_of_each_text_alone(make_model, settings):
    model = make_model(**settings)
    texts = ["the cat", "", " ".join(SENTENCES[40:48]), "a"]
    hidden, mask = model.tokens(texts, batch_tokens=32)
    assert hidden.dtype == np.float32 and mask.dtype == bool and hidden.shape[:2] == mask.shape
    assert mask.sum(1).max() == mask.shape[1]
    for row, there, text in zip(hidden, mask, texts, strict=True):
        np.testing.assert_allclose(row[there], one_by_one(model, text), atol=2e-5)
        assert (row[~there] == 0).all()


@pytest.mark.parametrize(
    "ask",
    [
        lambda model: model.embed(["the cat"]),
        lambda model: model.embed(["the cat"], windows=WindowConfig()),
        lambda model: next(model.token_chunks(["the cat"])),
        lambda model: model.fill_mask("[MASK]"),
        lambda model: model.score(["the cat"]),
    ],
)
def test_no_tokenizer(model, ask):
    with pytest.raises(ValueError, match="came without a tokenizer"):
        ask(dataclasses.replace(model, tokenizer=None))


def test_load_gives_back_what_was_saved(run, model):
    opened = jaxencoder.load(run)
    assert opened.config == model.config and opened.tokenizer.fingerprint == model.tokenizer.fingerprint
    jax.tree.map(np.testing.assert_array_equal, opened.params, model.params)
    np.testing.assert_array_equal(opened.embed(SENTENCES[:9]), model.embed(SENTENCES[:9]))
    assert opened.compute.dtype == "float32" or jax.default_backend() != "cpu"


def test_load_takes_the_moving_average_when_there_is_one(tmp_path, model):
    config = dataclasses.replace(model.config, training=dataclasses.replace(model.config.training, ema_decay=0.9))
    averaged = jax.tree.map(lambda x: x + 1, model.params)
    run = write_run(tmp_path / "run", config, model.tokenizer, params=model.params, ema=averaged)
    jax.tree.map(np.testing.assert_array_equal, load(run).params, averaged)


def test_dtype_is_a_choice(run, model):
    narrow = load(run, dtype="bfloat16")
    a, b = narrow.embed(SENTENCES[:20]), model.embed(SENTENCES[:20])
    assert a.dtype == np.float32 and 0 < np.abs(a - b).max() < 0.3
    with pytest.raises(ValueError, match="dtype is 'int8'"):
        load(run, dtype="int8")


@pytest.mark.parametrize(("old", "dtype"), [(True, "float32"), (False, "bfloat16")])
def test_gpus_before_ampere_compute_in_float32(run, old, dtype, monkeypatch):
    monkeypatch.setattr("jaxencoder.inference.load.before_ampere", lambda: old)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert load(run).compute.dtype == dtype and load(run, dtype="bfloat16").compute.dtype == "bfloat16"


def test_load_says_what_is_wrong(tmp_path, run, make_model):
    with pytest.raises(FileNotFoundError, match="no such run: .*absent"):
        load(tmp_path / "absent")
    with pytest.raises(ValueError, match=r"is not a run or a model: it has no config\.json"):
        load(tmp_path)
    small = make_model(vocab_size=50)
    save(small.config, run)
    with pytest.raises(ValueError, match=r"has \d+ tokens, but the model has only 50"):
        load(run)


def test_a_run_without_a_checkpoint(tmp_path, model):
    model.tokenizer.save(tmp_path / "tokenizer")
    save(model.config, tmp_path)
    with pytest.raises(FileNotFoundError, match="No checkpoint"):
        load(tmp_path)


@pytest.mark.parametrize("length", [2, 65])
def test_max_length_is_checked(model, length):
    with pytest.raises(ValueError, match=f"max_length is {length}"):
        model.embed(["the"], max_length=length)


def test_learned_positions_beyond_the_rows_of_training_are_not_used(make_model):
    assert make_model(row_length=20).max_length == 20
    assert make_model(row_length=20, positions="rotary").max_length == 64


def test_nothing_recompiles(make_model):
    model = make_model(mlp_size=40)  # a shape of its own, so that no other test has compiled it
    before = embed._pooled._cache_size()
    model.embed(SENTENCES, batch_tokens=256)
    first = embed._pooled._cache_size() - before
    model.embed(SENTENCES[::-1] * 3, batch_tokens=256)
    model.embed([s + " the" for s in SENTENCES], batch_tokens=256)
    assert 1 <= first <= 4 and embed._pooled._cache_size() - before <= 5


def test_a_classifier_has_no_masked_language_model(make_model):
    with pytest.raises(ValueError, match="Classification and cannot fill masks"):
        make_model(Classification(labels=2)).fill_mask("the [MASK]")
