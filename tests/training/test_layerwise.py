"""Trainable parameters and layer-wise learning rates, in stacks, in unstacked layers, and in two models at once."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxencoder.adapters.lora import LoraConfig, with_lora
from jaxencoder.objectives.objective import Objective
from jaxencoder.objectives.replaced_token import ReplacedToken
from jaxencoder.parameters import flatten, map_with_paths
from jaxencoder.training.config import OptimizerConfig
from jaxencoder.training.layerwise import layer_scales, stop_frozen_gradients, trainable_mask
from jaxencoder.training.optimizers import make_optimizer
from tests.model.examples import DEBERTA, FLOAT32, SMALL, Vocabulary, mlm

KEY = jax.random.key(0)
FIVE = dataclasses.replace(SMALL["modernbert"], num_layers=5)  # a stack of 2 x (global, local), and one layer more
BITFIT = ("/bias$", "^mlm_head/")


def shapes(config=FIVE) -> dict:
    return jax.eval_shape(mlm(config).init, KEY)


def by_path(tree) -> dict[str, np.ndarray]:
    return {path: np.asarray(x) for path, x in flatten(tree).items()}


def test_rates_fall_towards_the_input() -> None:
    scales = by_path(layer_scales(shapes(), 0.5, 0))
    kernel = "attention/query/kernel"
    np.testing.assert_allclose(scales[f"encoder/layers/block_0/{kernel}"].ravel(), [0.5**5, 0.5**3])
    np.testing.assert_allclose(scales[f"encoder/layers/block_1/{kernel}"].ravel(), [0.5**4, 0.5**2])
    assert scales[f"encoder/last/block_0/{kernel}"] == 0.5
    assert scales["encoder/embeddings/token_embedding"] == 0.5**6
    assert scales["encoder/final_norm/scale"] == scales["mlm_head/dense/kernel"] == 1
    for path, x in by_path(jax.tree.map(lambda s: np.zeros(s.shape), shapes())).items():
        assert np.broadcast_shapes(x.shape, scales[path].shape) == x.shape


@pytest.mark.parametrize("frozen", [0, 1, 3, 5])
def test_frozen_layers(frozen: int) -> None:
    scales = by_path(layer_scales(shapes(), 1.0, frozen))
    name = "mlp/up/kernel"
    layers = np.stack([scales[f"encoder/layers/block_{i}/{name}"].ravel() for i in (0, 1)], axis=1).ravel()
    layers = [*layers, float(scales[f"encoder/last/block_0/{name}"])]
    assert layers == [0.0] * frozen + [1.0] * (5 - frozen)
    assert scales["encoder/embeddings/token_embedding"] == (frozen == 0)
    assert scales["mlm_head/dense/kernel"] == 1


def test_what_stands_below_the_layers_and_two_models() -> None:
    config = dataclasses.replace(DEBERTA, num_layers=4)
    params = jax.eval_shape(ReplacedToken(generator_depth=0.5).build(config, FLOAT32, Vocabulary()).init, KEY)
    scales = by_path(layer_scales(params, 0.5, 2))
    assert scales["encoder/distance_embedding/table"] == 0 and scales["rtd_head/dense/kernel"] == 1
    assert scales["encoder/layers/block_0/mlp/up/kernel"].ravel().tolist() == [0, 0, 0.25, 0.5]
    assert scales["generator/encoder/layers/block_0/mlp/up/kernel"].ravel().tolist() == [0, 0]
    with pytest.raises(ValueError, match="frozen_layers is 3, but generator/encoder has only 2 layers"):
        layer_scales(params, 1.0, 3)


def updates(loud: str = "^$", **settings) -> tuple[dict[str, np.ndarray], dict]:
    """The first update of AdamW, whose elements have the size of the learning rate, and the optimizer's state.

    All gradients are 1, but for parameters whose path holds `loud`: theirs are 1000.
    """
    params = jax.tree.map(lambda s: jnp.ones(s.shape), shapes())
    gradients = map_with_paths(lambda path, x: x * (1000 if re.search(loud, path) else 1), params)
    plain = {"warmup_ratio": 0.0, "schedule": "constant", "weight_decay": 0.0, "eps": 1e-12, "learning_rate": 0.1}
    optimizer = make_optimizer(OptimizerConfig(**plain | settings), 10)
    state = optimizer.init(params)
    return by_path(optimizer.update(gradients, state, params)[0]), state


def test_an_update_has_its_layers_rate() -> None:
    result, scales = updates(layer_decay=0.5, frozen_layers=1)[0], by_path(layer_scales(shapes(), 0.5, 1))
    for path, update in result.items():
        np.testing.assert_allclose(update, np.broadcast_to(-0.1 * scales[path], update.shape), rtol=1e-4, atol=1e-9)


def test_what_is_frozen_neither_clips_nor_decays() -> None:
    settings = {"frozen_layers": 5, "eps": 1.0, "weight_decay": 0.1}
    (quiet, _), (loud, _) = updates(**settings), updates("^encoder/(layers|last|embeddings)", **settings)
    for path, update in quiet.items():
        np.testing.assert_array_equal(update, loud[path])
        assert update.any() != path.startswith(("encoder/layers", "encoder/last", "encoder/embeddings")), path


@pytest.mark.parametrize("name", ["adamw", "muon", "adafactor"])
def test_what_stays_costs_no_state(name: str) -> None:
    result, state = updates(name=name, trainable=BITFIT, layer_decay=0.9)
    assert 0 < sum(bool(x.any()) for x in result.values()) < len(result)
    for path, update in result.items():
        assert update.any() == (path.endswith("/bias") or path.startswith("mlm_head/")), path
        if name == "adamw":  # each at the depth that it has among all layers, not among those that learn
            scale = by_path(layer_scales(shapes(), 0.9, 0))[path]
            np.testing.assert_allclose(update, -0.1 * scale * np.ones_like(update) * update.any(), rtol=1e-4)
    kept = [path for path in by_path(state) if "encoder/" in path and path.endswith("kernel")]
    assert not kept


def test_no_gradient_of_what_stays() -> None:
    squares = lambda p: sum(jnp.sum(x**2) for x in jax.tree.leaves(p))  # noqa: E731
    objective = Objective(lambda key: {"a": jnp.ones(3), "b": {"bias": jnp.ones(2)}}, lambda p, *_: (squares(p), {}))
    params = objective.init(KEY)
    stopped = stop_frozen_gradients(objective, trainable_mask(("bias$",)))
    gradients = jax.grad(lambda p: stopped.loss(p, {}, KEY, True)[0])(params)
    assert not gradients["a"].any() and gradients["b"]["bias"].tolist() == [2, 2]


def test_a_pattern_that_names_nothing() -> None:
    with pytest.raises(ValueError, match="trainable holds 'biases', which matches no parameter's path, such as enc"):
        updates(trainable=("biases",))


def test_a_low_rank_adapter_has_the_place_of_its_kernel() -> None:
    """Also if only one block of the pattern has an adapter: counted alone it would give fewer layers."""
    lora = LoraConfig(rank=2, targets=("block_1/mlp/up/kernel$",))
    tree = jax.eval_shape(with_lora(lora, mlm(FIVE)).init, KEY)
    scales = by_path(layer_scales(tree, 0.5, 2))
    kernel = scales["encoder/layers/block_1/mlp/up/kernel"].ravel()
    assert kernel.tolist() == [0, 0.5**2]
    for name in ("a", "b"):
        assert scales[f"lora/encoder/layers/block_1/mlp/up/kernel/{name}"].ravel().tolist() == kernel.tolist()


def test_an_adapter_that_would_learn_nothing() -> None:
    tree = jax.eval_shape(with_lora(LoraConfig(rank=2), mlm(FIVE)).init, KEY)
    with pytest.raises(ValueError, match=r"trainable \['\^mlm_head/'\] excludes the adapter, .* add \"\^lora/\""):
        trainable_mask(("^mlm_head/",))(tree)
    result = by_path(trainable_mask(("^mlm_head/", "/b$"))(tree))  # half of it is a choice
    assert result["lora/encoder/layers/block_0/attention/query/kernel/b"]
