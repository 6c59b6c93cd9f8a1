"""Rotary positions by a product, as on TPUs: equal to the rotation of halves, in values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxencoder.kernels import rotary
from jaxencoder.kernels.rotary import rotate, swap_halves
from jaxencoder.model.positions import rotary_table


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_equal_to_the_bit_on_tpus(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x, dy = (jnp.asarray(np.random.default_rng(n).standard_normal((2, 5, 3, 8)), dtype) for n in (0, 1))
    table = rotary_table(jnp.arange(10).reshape(2, 5), 8, 100.0)

    def run(platform: str) -> tuple[jax.Array, ...]:
        monkeypatch.setattr(rotary, "platform", lambda: platform)
        out, pull = jax.vjp(lambda x: rotate(x, table), x)
        assert ("dot_general" in str(jax.make_jaxpr(lambda x: rotate(x, table))(x))) == (
            platform == "tpu" and dtype == "bfloat16"
        )
        return out, *pull(dy)

    for a, b in zip(run("cpu"), run("tpu"), strict=True):
        assert a.dtype == b.dtype == dtype
        np.testing.assert_array_equal(np.asarray(a, np.float32), np.asarray(b, np.float32))


def test_halves() -> None:
    np.testing.assert_array_equal(jnp.arange(1.0, 7.0) @ swap_halves(6, jnp.float32), [-4, -5, -6, 1, 2, 3])
