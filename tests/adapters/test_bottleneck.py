"""Bottleneck adapters: no change at first, training of them alone, refusal by families without them."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxencoder.adapters.bottleneck import TRAINABLE, add_missing_bottlenecks
from jaxencoder.api import load as open_model
from jaxencoder.checkpoints.convert import convert
from jaxencoder.checkpoints.initial import initial_params, with_architecture
from jaxencoder.checkpoints.orbax import restore_step
from jaxencoder.checkpoints.transformers import write_model
from jaxencoder.config import OptimizerConfig, RunConfig
from jaxencoder.model.config import EncoderConfig
from jaxencoder.model.encoder import Encoder
from jaxencoder.model.flops import forward_flops
from jaxencoder.objectives.replaced_token import ReplacedToken
from jaxencoder.parameters import flatten
from jaxencoder.tasks.classification.objective import Classification
from jaxencoder.training.layerwise import trainable_mask
from jaxencoder.training.loop import train
from tests.model.examples import CONFIGS, FLOAT32, SMALL, assert_trees_close, mlm, randomized_params, rows

KEY = jax.random.key(0)
T = 20
ALBERT = dataclasses.replace(SMALL["bert"], num_layers=4, num_layer_groups=1)
BATCH = rows([[12, 8], [20]], T)


def hidden(config: EncoderConfig, params: dict) -> np.ndarray:
    inputs = (BATCH["token_ids"], BATCH["segment_ids"], BATCH["positions"])
    return np.asarray(jax.jit(Encoder(config, FLOAT32).apply)({"params": params}, *inputs))


@pytest.mark.parametrize(
    ("plain", "places"),
    [(SMALL["bert"], ("mlp",)), *((config, ("attention", "mlp")) for config in (*SMALL.values(), ALBERT))],
    ids=["pfeiffer", *SMALL, "albert"],
)
def test_a_new_one_changes_nothing(plain: EncoderConfig, places: tuple[str, ...]) -> None:
    config = dataclasses.replace(plain, bottleneck=5, bottleneck_sublayers=places)
    base = randomized_params(mlm(plain).init)["encoder"]
    fresh = jax.jit(mlm(config).init)(KEY)["encoder"]
    params = add_missing_bottlenecks(base, fresh)
    assert jax.tree.map(np.shape, params) == jax.tree.map(np.shape, fresh)
    added = {path: x for path, x in flatten(params).items() if path not in flatten(base)}
    assert {path.split("_bottleneck/")[0].rpartition("/")[2] for path in added} == set(places)
    assert all(x.any() == path.endswith("down/kernel") for path, x in added.items())
    np.testing.assert_array_equal(hidden(config, params), hidden(plain, base))
    again = add_missing_bottlenecks(params, fresh)
    assert again is not params and flatten(again).keys() == flatten(params).keys()


def test_computes_what_the_paper_says() -> None:
    """One post-norm layer of BERT's, written out: an adapter with its own residual, before the sum with the input."""
    config = dataclasses.replace(SMALL["bert"], num_layers=1, bottleneck=5)
    params = randomized_params(mlm(config).init)["encoder"]
    block = jax.tree.map(lambda x: np.asarray(x[0], np.float64), params["layers"]["block_0"])
    from jaxencoder.model.attention import Attention
    from jaxencoder.model.layers import Embeddings, Mlp

    apply = lambda module, name, x, *args: np.asarray(  # noqa: E731
        module.apply({"params": jax.tree.map(jnp.float32, block[name])}, jnp.float32(x), *args), np.float64
    )
    normed = lambda x, p: (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True) * p["scale"] + p["bias"]  # noqa: E731

    def adapted(x: np.ndarray, p: dict) -> np.ndarray:
        h = np.asarray(jax.nn.gelu(x @ p["down"]["kernel"] + p["down"]["bias"], approximate=False))
        return x + h @ p["up"]["kernel"] + p["up"]["bias"]

    x = Embeddings(config, jnp.float32).apply(
        {"params": params["embeddings"]}, BATCH["token_ids"], BATCH["positions"], None, False
    )
    x = np.asarray(x, np.float64)
    y = apply(Attention(config, FLOAT32, 0, False), "attention", x, BATCH["segment_ids"], None)
    x = normed(x + adapted(y, block["attention_bottleneck"]), block["attention_norm"])
    y = apply(Mlp(config), "mlp", x)
    x = normed(x + adapted(y, block["mlp_bottleneck"]), block["mlp_norm"])
    there = BATCH["segment_ids"] > 0
    np.testing.assert_allclose(hidden(config, params)[there], x[there], atol=2e-4)


def test_they_learn_with_the_heads_and_cost_little() -> None:
    config = dataclasses.replace(CONFIGS["modernbert"], bottleneck=4)
    run = RunConfig(model=config, init_from="x")
    shapes = jax.eval_shape(mlm(config).init, KEY)
    learns = flatten(trainable_mask(run.trainable_patterns)(shapes))
    for path, yes in learns.items():
        assert yes == (not path.startswith("encoder/") or "_bottleneck/" in path), path
    assert run.trainable_patterns == TRAINABLE
    assert RunConfig(model=config).trainable_patterns == ()  # from scratch all learns
    D, layers = config.hidden_size, config.num_layers
    more = forward_flops(config, 8) - forward_flops(dataclasses.replace(config, bottleneck=0), 8)
    assert more == 2 * layers * 2 * 2 * D * 4  # multiply and add, places, down and up
    with pytest.raises(ValueError, match="model.bottleneck is 4, but ReplacedToken trains two models"):
        RunConfig(model=config, objective=ReplacedToken())


@pytest.mark.parametrize("places", [(), ("mlp", "mlp"), ("output",)])
def test_places_that_are_none(places: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="model.bottleneck_sublayers is "):
        EncoderConfig(bottleneck=4, bottleneck_sublayers=places)


def test_no_published_family_has_them(tmp_path: Path) -> None:
    config = dataclasses.replace(SMALL["bert"], bottleneck=3)
    with pytest.raises(ValueError, match="model.bottleneck is 3, but no published family has bottleneck adapters"):
        write_model(tmp_path / "transformers", config, randomized_params(mlm(config).init))
    assert not (tmp_path / "transformers").exists()


def test_architecture_of_a_start() -> None:
    plain, wide = EncoderConfig(hidden_size=24, num_heads=2), EncoderConfig(bottleneck=8)
    config = RunConfig(model=dataclasses.replace(wide, dropout=0.0))
    assert with_architecture(config, plain).model == dataclasses.replace(plain, bottleneck=8, dropout=0.0)
    assert with_architecture(RunConfig(), wide).model == wide
    small = dataclasses.replace(plain, vocab_size=9, num_layers=2, mlp_size=8, windows=(0, 0))
    for patterns, learns in {("^classifier/",): False, ("/bias$",): True, ("block_1/mlp_bottleneck/up",): True}.items():
        chosen = dataclasses.replace(config, optimizer=OptimizerConfig(trainable=patterns))
        if learns:
            assert with_architecture(chosen, small).trainable_patterns == patterns
            continue
        with pytest.raises(ValueError, match=r"trainable \['\^classifier/'\] leaves the new adapters out"):
            with_architecture(chosen, small)
        # Those that have learned already may stay.
        assert with_architecture(chosen, dataclasses.replace(small, bottleneck=8)).trainable_patterns == patterns
    with pytest.raises(ValueError, match="model.bottleneck is 8, but the model that the run starts from has"):
        with_architecture(config, dataclasses.replace(plain, bottleneck=4))
    with pytest.raises(ValueError, match="model.bottleneck_sublayers is .*leave it out to train those"):
        with_architecture(config, dataclasses.replace(plain, bottleneck=8, bottleneck_sublayers=("mlp",)))


def test_a_run_with_them(pretrained: Path, labeled: RunConfig, tmp_path: Path, capsys) -> None:
    """A run from a model without adapters: trained, opened, refused as a published model, and used as init_from."""
    model = EncoderConfig(bottleneck=3, dropout=0.0, attention_dropout=0.0)
    tuned = dataclasses.replace(labeled, init_from=str(pretrained), model=model)
    train(tuned, tmp_path / "tuned")
    said = "".join(capsys.readouterr())
    assert "encoder; new: adapters, classifier" in said
    assert ", 536 of them trainable;" in said  # 2 x (16 x 3 + 3 + 3 x 16 + 16), 17 x 16 and 17 x 2
    before = restore_step(pretrained / "checkpoints")[1]["encoder"]
    after = restore_step(tmp_path / "tuned" / "checkpoints")[1]["encoder"]
    assert_trees_close(add_missing_bottlenecks(before, after), after, 0)
    assert all(x.any() for path, x in flatten(after).items() if "_bottleneck/" in path)
    model = open_model(tmp_path / "tuned")
    assert model.config.model.bottleneck == 3
    with pytest.raises(ValueError, match="no published family has bottleneck adapters"):
        convert(tmp_path / "tuned", tmp_path / "transformers", "transformers")
    convert(tmp_path / "tuned", tmp_path / "whole", "run")
    started = initial_params(str(tmp_path / "whole"), jax.tree.map(np.zeros_like, model.params), Classification())
    assert_trees_close(started, model.params, 0)
    assert json.loads((tmp_path / "whole" / "config.json").read_text())["model"]["bottleneck"] == 3
    convert(tmp_path / "tuned", tmp_path / "alone", "adapter")
    assert_trees_close(open_model(tmp_path / "alone").params, model.params, 0)
