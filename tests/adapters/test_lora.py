"""Low-rank adapters: no change at first, the papers' equations, and training of them alone."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxencoder.adapters.lora import LoraConfig, init_lora, merge_lora, with_lora
from jaxencoder.api import load as open_model
from jaxencoder.checkpoints.convert import convert
from jaxencoder.checkpoints.initial import initial_params
from jaxencoder.checkpoints.orbax import restore_step
from jaxencoder.config import RunConfig
from jaxencoder.config_io import load
from jaxencoder.evaluation.evaluate import evaluate
from jaxencoder.objectives.replaced_token import ReplacedToken
from jaxencoder.parameters import flatten
from jaxencoder.training.loop import train
from tests.model.examples import SMALL, assert_trees_close, mlm, randomized_params, rows

KEY = jax.random.key(0)
CONFIG = dataclasses.replace(SMALL["bert"], dropout=0.0, attention_dropout=0.0)
ALL = (r"^encoder/.*/kernel$",)
T = 20


def randomized(lora: LoraConfig, params: dict) -> dict:
    """Parameters with an adapter that changes the output."""
    shapes = jax.eval_shape(lambda: init_lora(lora, params, KEY))
    rng = np.random.default_rng(1)
    return params | {"lora": jax.tree.map(lambda s: jnp.asarray(rng.normal(0, 0.3, s.shape), jnp.float32), shapes)}


@pytest.mark.parametrize("settings", [{}, {"dora": True}])
def test_starts_as_nothing(settings: dict) -> None:
    objective = mlm(CONFIG)
    lora = LoraConfig(rank=3, targets=ALL, **settings)
    params = jax.jit(with_lora(lora, objective).init)(KEY)
    plain = {name: part for name, part in params.items() if name != "lora"}
    assert_trees_close(plain, jax.jit(objective.init)(KEY), 1e-6)
    assert_trees_close(jax.jit(lambda p: merge_lora(lora, p))(params), plain, 1e-6 if settings else 0)
    assert all(x.any() == path.endswith("/a") for path, x in flatten(params["lora"]).items())
    assert merge_lora(lora, plain) is plain
    with pytest.raises(ValueError, match=r"the adapter is of encoder/layers/.*/kernel, which the model does not have"):
        merge_lora(lora, {"encoder": {"embeddings": plain["encoder"]["embeddings"]}, "lora": params["lora"]})


@pytest.mark.parametrize(("rank_stabilized", "dora"), [(False, False), (True, False), (False, True)])
def test_equals_the_papers_layer_by_layer(rank_stabilized: bool, dora: bool) -> None:
    lora = LoraConfig(rank=4, alpha=6.0, targets=ALL, rank_stabilized=rank_stabilized, dora=dora)
    params = randomized(lora, randomized_params(mlm(CONFIG).init))
    trees = jax.tree.map(np.asarray, (params, merge_lora(lora, params), params["lora"]))
    before, after, adapter = map(flatten, trees)
    changed = {path for path in after if not np.array_equal(after[path], before[path])}
    assert changed == {path for path in after if path.startswith("encoder/") and path.endswith("/kernel")}
    scale = 6 / (2 if rank_stabilized else 4)
    for path in changed:
        read = 2 if path.endswith("output/kernel") else 1  # heads and their size are read together
        for layer, (old, result) in enumerate(zip(before[path], after[path], strict=True)):
            size_in = int(np.prod(old.shape[:read]))
            old, result = (x.reshape(size_in, -1).astype(np.float64) for x in (old, result))
            wanted = old + scale * adapter[f"{path}/a"][layer].astype(np.float64) @ adapter[f"{path}/b"][layer]
            if dora:
                size = np.linalg.norm(old, axis=0) + adapter[f"{path}/size"][layer]
                wanted = wanted * size / np.linalg.norm(wanted, axis=0)
            np.testing.assert_allclose(result, wanted, rtol=1e-4, atol=1e-5)


def test_loss_is_that_of_the_merged_model() -> None:
    lora, objective = LoraConfig(rank=2, dora=True), mlm(CONFIG)
    params = randomized(lora, randomized_params(objective.init))
    batch = rows([[12, 8], [20]], T)
    losses = [
        jax.jit(o.loss, static_argnums=3)(p, batch, KEY, False)[0]
        for o, p in ((with_lora(lora, objective), params), (objective, merge_lora(lora, params)))
    ]
    np.testing.assert_allclose(*losses, rtol=1e-6)
    plain = {name: part for name, part in params.items() if name != "lora"}
    assert not np.allclose(losses[0], jax.jit(objective.loss, static_argnums=3)(plain, batch, KEY, False)[0])


def test_the_norm_of_dora_has_no_gradient() -> None:
    """Section 4.3 of the paper: dL/dV is the gradient through the direction alone, magnitude over norm."""
    lora = LoraConfig(rank=2, targets=("^encoder/layer/kernel$",), dora=True)
    kernel = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    params = randomized(lora, {"encoder": {"layer": {"kernel": jnp.asarray(kernel)}}})
    part = params["lora"]["encoder"]["layer"]["kernel"]
    x = np.random.default_rng(1).normal(size=(5, 3)).astype(np.float32)
    gradient = jax.grad(lambda p: (merge_lora(lora, p)["encoder"]["layer"]["kernel"] * x).sum())(params)
    whole = kernel + lora.scale * part["a"] @ part["b"]
    size = np.linalg.norm(kernel, axis=0) + part["size"]
    through = x * size / np.linalg.norm(whole, axis=0)
    found = gradient["lora"]["encoder"]["layer"]["kernel"]
    np.testing.assert_allclose(found["a"], lora.scale * through @ part["b"].T, rtol=1e-4)
    np.testing.assert_allclose(found["b"], lora.scale * part["a"].T @ through, rtol=1e-4)


def test_outputs_of_zeros_have_no_direction() -> None:
    lora = LoraConfig(rank=2, targets=("kernel$",), dora=True)
    params = {"encoder": {"kernel": jnp.ones((4, 3)).at[:, 1].set(0)}}
    whole = merge_lora(lora, params | {"lora": init_lora(lora, params, KEY)})
    assert_trees_close(whole, params, 1e-6)


def test_without_it_all_learns_again() -> None:
    config = RunConfig(adapter=LoraConfig(rank=4))
    assert config.trainable_patterns and dataclasses.replace(config, adapter=LoraConfig()).trainable_patterns == ()
    with pytest.raises(ValueError, match="adapter.rank is 4, but ReplacedToken trains two models"):
        dataclasses.replace(config, objective=ReplacedToken())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 2, "targets": ()}, "adapter.targets is empty"),
        ({"rank": -1}, "adapter.rank is -1"),
        ({"alpha": 0.0}, "adapter.alpha is 0.0"),
        ({"targets": ("(",)}, "adapter.targets holds '\\(', not a regular expression"),
    ],
)
def test_settings_out_of_range(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LoraConfig(**settings)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("attention/query$", "'attention/query.', which matches no path, such as encoder/"),
        ("embeddings", "matches encoder/embeddings/.*; give kernels only"),
    ],
)
def test_targets_that_are_none(pattern: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(with_lora(LoraConfig(rank=2, targets=(pattern,)), mlm(CONFIG)).init, KEY)


def test_a_run_with_an_adapter(pretrained: Path, labeled: RunConfig, tmp_path: Path, capsys) -> None:
    """From pretraining to inference: only adapter and classifier are trained, and they are merged on loading."""
    settings = dataclasses.replace(labeled.training, steps=1, ema_decay=0.5)
    tuned = dataclasses.replace(labeled, init_from=str(pretrained), adapter=LoraConfig(rank=2), training=settings)
    train(tuned, tmp_path / "tuned")
    longer = dataclasses.replace(tuned, training=dataclasses.replace(tuned.training, steps=3))
    capsys.readouterr()
    result = train(longer, tmp_path / "tuned")
    said = "".join(capsys.readouterr())
    assert "Continuing" in said and ", 434 of them trainable;" in said  # 2 x (16 x 2 + 2 x 16), 17 x 16 and 17 x 2
    assert load(tmp_path / "tuned").trainable_patterns == (r"^(?!encoder/)",)
    assert load(pretrained).trainable_patterns == ()
    before = restore_step(pretrained / "checkpoints")[1]
    after = restore_step(tmp_path / "tuned" / "checkpoints", part="ema")[1]
    assert_trees_close(after["encoder"], before["encoder"], 1e-6)
    assert all(x.any() for x in flatten(after["lora"]).values())
    model = open_model(tmp_path / "tuned")
    assert "lora" not in model.params
    assert_trees_close(model.params, merge_lora(tuned.adapter, after), 0)
    convert(tmp_path / "tuned", tmp_path / "whole", "run")
    whole = open_model(tmp_path / "whole")
    assert_trees_close(whole.params, model.params, 0)
    assert whole.config.adapter.rank == 0 and whole.config.training.ema_decay == 0
    assert_trees_close(initial_params(str(tmp_path / "whole"), model.params, tuned.objective), model.params, 0)
    assert evaluate(tmp_path / "tuned")["loss"] == pytest.approx(result["loss"], rel=1e-4)
    convert(tmp_path / "tuned", tmp_path / "alone", "adapter")
    assert_trees_close(open_model(tmp_path / "alone").params, model.params, 1e-6)
