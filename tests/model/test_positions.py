"""Rotary positions: rotations of the complex plane, so that products depend on distances alone; rows of distances."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxencoder.model.positions import alibi, distance_rows, rotary_table, rotate

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


def test_distance_rows() -> None:
    assert distance_rows(3, 2, 0).tolist() == [3, 3, 2, 1, 0]
    assert distance_rows(1, 7, 20).tolist() == [7]
    rows = distance_rows(100, 8, 20) - 8  # exact up to 4; 19 is the last with a row of its own range
    after, before = rows[:99][::-1], rows[100:]
    assert after[:4].tolist() == [1, 2, 3, 4] and after[4:18].min() == 5 and after[17] == after[50] == 7
    assert np.all(np.diff(after) >= 0) and np.array_equal(before[:18], -after[:18]) and before[-1] == -8


@pytest.mark.parametrize(("span", "furthest"), [(256, 512), (6, 14), (7, 300), (32, 33)])
def test_distance_rows_equal_transformers(span: int, furthest: int) -> None:
    torch = pytest.importorskip("torch")
    deberta = pytest.importorskip("transformers.models.deberta_v2.modeling_deberta_v2")
    x = torch.zeros(1, 1100, 1)
    theirs = deberta.build_relative_position(x, x, span, furthest)[0].numpy()  # of query i from key j
    theirs = np.clip(theirs + span, 0, 2 * span - 1)
    rows = distance_rows(1100, span, furthest)
    np.testing.assert_array_equal(rows[1099:], theirs[0])
    np.testing.assert_array_equal(rows[1099::-1], theirs[:, 0])


@pytest.mark.parametrize(
    ("heads", "slopes"),
    [(1, [2**-8]), (4, [2**-2, 2**-4, 2**-6, 2**-8]), (6, [2**-2, 2**-4, 2**-6, 2**-8, 2**-1, 2**-3])],
)
def test_alibi(heads: int, slopes: list[float]) -> None:
    bias = np.asarray(alibi(4, heads))
    np.testing.assert_allclose(bias, -np.array([3, 2, 1, 0, 1, 2, 3])[:, None] * np.array(slopes), rtol=1e-6)
