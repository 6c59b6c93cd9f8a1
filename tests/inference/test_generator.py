"""Runs of replaced-token detection: opened as two models, each of which can be used and written as ELECTRA."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxencoder
from jaxencoder.api import Model
from jaxencoder.checkpoints.convert import convert
from jaxencoder.checkpoints.initial import initial_params
from jaxencoder.cli.main import main
from jaxencoder.config import Classification, MaskedLM, ReplacedToken, RunConfig
from jaxencoder.model.config import ComputeConfig, EncoderConfig
from jaxencoder.text.config import DataConfig
from tests.model.examples import assert_trees_close, randomized_params

from .conftest import SENTENCES, write_run


@pytest.fixture(scope="module", params=["shared", "gdes"])
def run(request, tokenizer, tmp_path_factory) -> tuple[Path, RunConfig, dict]:
    folder = tmp_path_factory.mktemp("electra")
    encoder = EncoderConfig(
        vocab_size=tokenizer.vocab_size, num_layers=1, hidden_size=32, mlp_size=48, num_heads=4, embedding_size=24,
        max_length=64,
    )  # fmt: skip
    objective = ReplacedToken(generator_width=0.5, sharing=request.param)
    compute = ComputeConfig(dtype="float32")
    config = RunConfig(model=encoder, objective=objective, compute=compute, data=DataConfig(row_length=64))
    params = randomized_params(objective.build(encoder, compute, tokenizer).init)
    return write_run(folder, config, tokenizer, params=params), config, params


@pytest.fixture(scope="module")
def model(run) -> Model:
    return jaxencoder.load(run[0], dtype="float32")


def test_opens_as_two_models(run, model, tokenizer) -> None:
    _, config, params = run
    models = config.objective.build(config.model, config.compute, tokenizer).models(params)
    assert_trees_close(model.params, models["discriminator"], 0)
    assert_trees_close(model.generator.params, models["generator"], 0)
    assert model.generator.config.model == config.objective.generator(config.model)
    out = model(tokenizer.encode_batch(SENTENCES[:1])[0].ids[None])
    assert out.keys() == {"hidden", "rtd_logits"} and out["rtd_logits"].shape == out["hidden"].shape[:2]
    assert model.embed(SENTENCES[:2]).shape == (2, 32) and model.generator.embed(SENTENCES[:2]).shape == (2, 16)


def test_training_starts_from_the_discriminator_or_from_both(run, model) -> None:
    folder, config, params = run
    new = {"encoder": model.params["encoder"], "classifier": {"kernel": np.zeros((2, 2))}}
    empty = jax.tree.map(np.zeros_like, new)
    started = initial_params(str(folder), empty, Classification(labels=2))
    assert_trees_close(started, new, 0)  # not the difference of the tables, where that is what is learned
    empty = jax.tree.map(np.zeros_like, params)
    assert_trees_close(initial_params(str(folder), empty, config.objective), params, 0)
    for other in (dataclasses.replace(config.objective, sharing="none"), MaskedLM()):
        started = initial_params(str(folder), empty, other)
        assert_trees_close(started["encoder"], model.params["encoder"], 0)
        assert not any(x.any() for x in jax.tree.leaves(started["generator"]))


def test_the_discriminator_alone_as_a_run(run, model, tmp_path: Path) -> None:
    convert(run[0], tmp_path / "run", "run")
    other = jaxencoder.load(tmp_path / "run", dtype="float32")
    assert other.generator is None
    assert_trees_close(other.params, model.params, 0)
    started = initial_params(str(tmp_path / "run"), jax.tree.map(np.zeros_like, model.params), Classification(labels=2))
    assert_trees_close(started, model.params, 0)


def test_the_generator_fills_masks(run, model, capsys) -> None:
    text = "the cat sat on a [MASK]"
    assert model.fill_mask(text, 3) == model.generator.fill_mask(text, 3)
    assert main(["fill-mask", str(run[0]), text, "-k", "2"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_both_are_written_as_electra(model, tokenizer, tmp_path: Path) -> None:
    ids = tokenizer.encode_batch(SENTENCES[:1])[0].ids[None]
    for part, head in ((model, "rtd_logits"), (model.generator, "mlm_logits")):
        part.save(tmp_path / head)
        again = jaxencoder.load(tmp_path / head, dtype="float32")
        assert again.published.family.model_type == "electra"
        before, after = jax.device_get((part(ids), again(ids)))
        for name in ("hidden", head):
            np.testing.assert_allclose(after[name], before[name], atol=1e-5)
