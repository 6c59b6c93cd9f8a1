"""Top layers that start anew, in a stack, beside it, and in two models at once."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxencoder.objectives.replaced_token import ReplacedToken
from jaxencoder.parameters import path_of
from jaxencoder.training.start import with_new_top
from tests.model.examples import FLOAT32, SMALL, Vocabulary, mlm

FIVE = dataclasses.replace(SMALL["modernbert"], num_layers=5)  # a stack of 2 x (global, local), and one layer more


def renewed(objective, layers: int) -> dict[str, np.ndarray]:
    """Of each parameter 1 where it is new, 0 where it is old."""
    shapes = jax.eval_shape(objective.init, jax.random.key(0))
    old, new = (jax.tree.map(lambda s, x=x: np.full(s.shape, x, np.float32), shapes) for x in (0, 1))
    found = with_new_top(old, new, layers)
    assert jax.tree.all(jax.tree.map(lambda x, s: (x.shape, x.dtype) == (s.shape, s.dtype), found, shapes))
    return {path_of(path): np.asarray(x) for path, x in jax.tree.leaves_with_path(found)}


@pytest.mark.parametrize("layers", [1, 2, 3, 5])
def test_layers_from_the_top(layers: int) -> None:
    found = renewed(mlm(FIVE), layers)
    for name in ("mlp/up/kernel", "attention/query/kernel"):
        blocks = [found[f"encoder/layers/block_{i}/{name}"].reshape(2, -1) for i in (0, 1)]
        stack = np.stack(blocks, axis=1).reshape(4, -1)
        assert (stack == stack[:, :1]).all()  # a layer is new as a whole
        order = [*stack[:, 0], found[f"encoder/last/block_0/{name}"].flat[0]]
        assert order == [0.0] * (5 - layers) + [1.0] * layers
    rest = [x for path, x in found.items() if "/block_" not in path]
    assert len(rest) > 3 and not any(x.any() for x in rest)


def test_two_models() -> None:
    config = dataclasses.replace(SMALL["modernbert"], num_layers=4)
    objective = ReplacedToken(generator_depth=0.5).build(config, FLOAT32, Vocabulary())
    found = renewed(objective, 2)
    name = "layers/block_0/mlp/up/kernel"
    stacks = [found[f"{model}encoder/{name}"] for model in ("", "generator/")]
    assert [x.reshape(len(x), -1)[:, 0].tolist() for x in stacks] == [[0, 1], [1]]
    with pytest.raises(ValueError, match="reinitialize is 3, but generator/encoder has 2 layers of its own"):
        renewed(objective, 3)
