"""Comparisons that the tests of objectives share: with packed rows, and with transformers."""

import re
from typing import Any

import jax
import pytest

from jaxencoder.objectives.objective import Metrics, Objective
from jaxencoder.parameters import flatten
from tests.model.examples import assert_trees_close

KEY = jax.random.key(0)
# A key's bias moves all scores of a query: its true gradient is 0.
KEY_BIASES = r"/(key|global_key|distance_key)/bias$"


def loss_and_gradients(objective: Objective, params: Any, batch: dict) -> tuple[float, Metrics, dict]:
    """The loss of a batch, its metrics, and the gradients by path."""
    run = jax.jit(jax.value_and_grad(lambda p: objective.loss(p, batch, KEY, True), has_aux=True))
    (loss, metrics), gradients = run(params)
    return float(loss), metrics, flatten(gradients)


def assert_close(ours: tuple, theirs: tuple, tolerance: float = 2e-5, without: str = KEY_BIASES) -> None:
    """Assert that two results of `loss_and_gradients` agree, but for gradients whose path matches `without`."""
    assert ours[0] == pytest.approx(theirs[0], rel=1e-5)
    kept = ({path: x for path, x in result[2].items() if not re.search(without, path)} for result in (ours, theirs))
    assert_trees_close(*kept, tolerance)


def from_transformers(kind: str, objective: Objective, **settings: Any) -> tuple[Any, Any]:
    """A model of transformers with random weights, such as BertForTokenClassification, and the same parameters."""
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from tests.model import reference

    config = reference.torch_config("bert")
    for name, value in settings.items():
        setattr(config, name, value)
    theirs = reference.randomized(getattr(transformers, kind)(config))
    shapes = jax.eval_shape(objective.init, KEY)
    return theirs, reference.converted("bert", reference.weights(theirs), shapes, missing=0.0)
