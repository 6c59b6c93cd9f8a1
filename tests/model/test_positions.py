"""Rotary positions: rotations of the complex plane, so that products depend on distances alone."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxencoder.model.positions import rotary_table, rotate

B, T, N, H, THETA = 2, 9, 3, 8, 100.0


def draw(seed: int) -> jnp.ndarray:
    return jnp.asarray(np.random.default_rng(seed).standard_normal((B, T, N, H)), jnp.float32)


def test_equals_complex_multiplication() -> None:
    positions = np.random.default_rng(1).integers(0, 500, (B, T))
    x = np.asarray(draw(0))
    z = x[..., : H // 2] + 1j * x[..., H // 2 :]
    angle = positions[..., None, None] / THETA ** (np.arange(H // 2) / (H // 2))
    turned = z * np.exp(1j * angle)
    expected = np.concatenate([turned.real, turned.imag], -1)
    np.testing.assert_allclose(rotate(draw(0), rotary_table(jnp.asarray(positions), H, THETA)), expected, atol=1e-4)


@pytest.mark.parametrize("shift", [1, 37, 1000])
def test_products_depend_on_distance(shift: int) -> None:
    positions = jnp.broadcast_to(jnp.arange(T), (B, T))

    def products(positions: jnp.ndarray) -> jnp.ndarray:
        table = rotary_table(positions, H, THETA)
        return jnp.einsum("BTNH,BSNH->BNTS", rotate(draw(0), table), rotate(draw(1), table))

    np.testing.assert_allclose(products(positions + shift), products(positions), atol=2e-3)
    assert not np.allclose(products(positions * 2), products(positions), atol=0.1)


def test_bfloat16_is_rounded_once() -> None:
    positions = jnp.broadcast_to(jnp.arange(T) + 8000, (B, T))  # where bfloat16 positions would be off by dozens
    table = rotary_table(positions, H, THETA)
    x = draw(0).astype(jnp.bfloat16)
    exact = rotate(x.astype(jnp.float32), table)
    assert rotate(x, table).dtype == jnp.bfloat16
    np.testing.assert_array_equal(rotate(x, table), exact.astype(jnp.bfloat16))
