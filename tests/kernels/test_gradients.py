"""Projections as TPUs compute them, without an axis of heads: equal to those of other devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxencoder.kernels import gradients
from jaxencoder.kernels.gradients import PRODUCT, project


@pytest.mark.parametrize(
    ("inputs", "outputs"), [((6,), (2, 4)), ((2, 4), (6,)), ((6,), (5,))], ids=["to heads", "from heads", "plain"]
)
def test_projections_on_tpus(inputs: tuple, outputs: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    x, kernel, dy = (
        jnp.asarray(rng.standard_normal(shape), jnp.float32)
        for shape in ((2, 3, *inputs), (*inputs, *outputs), (2, 3, *outputs))
    )

    def run(platform: str) -> list[jax.Array]:
        monkeypatch.setattr(gradients, "platform", lambda: platform)
        out, pull = jax.vjp(project, x, kernel)
        return [out, *pull(dy)]

    for a, b in zip(run("gpu"), run("tpu"), strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=1e-5)


def test_products_are_kept_without_an_axis_of_heads_on_tpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradients, "platform", lambda: "tpu")
    jaxpr = jax.make_jaxpr(project)(jnp.ones((2, 3, 6)), jnp.ones((6, 2, 4))).jaxpr
    (named,) = [eqn for eqn in jaxpr.eqns if eqn.params.get("name") == PRODUCT]
    assert named.outvars[0].aval.shape == (2, 3, 8)
