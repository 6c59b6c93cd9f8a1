"""Rotary positions: rotations of the complex plane, so that products depend on distances only; rows of distances."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxencoder.kernels.rotary import rotate
from jaxencoder.model.config import EncoderConfig
from jaxencoder.model.positions import (
    alibi,
    distance_buckets,
    distance_rows,
    interpolate_positions,
    ntk_theta,
    repeat_positions,
    rotary_table,
    rotary_table_for,
)

B, T, N, H, THETA = 2, 9, 3, 8, 100.0


def draw(seed: int) -> jnp.ndarray:
    return jnp.asarray(np.random.default_rng(seed).standard_normal((B, T, N, H)), jnp.float32)


def test_equals_complex_multiplication() -> None:
    positions = np.random.default_rng(1).integers(0, 500, (B, T))
    x = np.asarray(draw(0))
    angle = positions[..., None, None] / THETA ** (np.arange(H // 2) / (H // 2))
    turned = (x[..., : H // 2] + 1j * x[..., H // 2 :]) * np.exp(1j * angle)
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
    positions = jnp.broadcast_to(jnp.arange(T) + 8000, (B, T))  # where bfloat16 positions would be off by up to 8
    table = rotary_table(positions, H, THETA)
    x = draw(0).astype(jnp.bfloat16)
    exact = rotate(x.astype(jnp.float32), table)
    assert rotate(x, table).dtype == jnp.bfloat16
    np.testing.assert_array_equal(rotate(x, table), exact.astype(jnp.bfloat16))


def test_distance_rows() -> None:
    assert distance_rows(3, 2, 0).tolist() == [3, 3, 2, 1, 0]
    assert distance_rows(1, 7, 20).tolist() == [7]
    rows = distance_rows(100, 8, 20) - 8  # exact up to 4; 19 is the last with its own range
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


def scaled(scaling: str, positions: np.ndarray, segments: np.ndarray | None = None, local: bool = False, **settings):
    """Angles [B, T, H / 2] and amplitudes, of heads of 16 that were trained on 100 tokens."""
    config = EncoderConfig(
        hidden_size=32, num_heads=2, positions="rotary", rope_theta=THETA, rope_theta_local=THETA, rope_scaling=scaling,
        **({"rope_factor": 4.0, "rope_original_length": 100} | settings),
    )  # fmt: skip
    segments = np.ones_like(positions) if segments is None else segments
    cos, sin = rotary_table_for(config, jnp.asarray(positions), jnp.asarray(segments), local)
    return np.arctan2(sin, cos)[:, :, 0], np.hypot(cos, sin)[:, :, 0]


SHORT = np.arange(3)[None]  # angles below a full turn


def test_linear_scaling_reads_positions_between_the_trained_ones() -> None:
    angles, size = scaled("linear", 4 * SHORT)
    np.testing.assert_allclose(angles, scaled("none", SHORT)[0], atol=1e-6)
    np.testing.assert_allclose(size, 1, atol=1e-6)


def test_yarn_scales_the_long_wavelengths_alone() -> None:
    plain, _ = scaled("none", SHORT)
    angles, size = scaled("yarn", SHORT, rope_betas=(5.0, 1.0))
    ratio = (angles / np.where(plain, plain, 1))[0, 2]
    turns = 100 / (2 * math.pi) * THETA ** (-np.arange(8) / 8)
    np.testing.assert_allclose(ratio[turns >= 6], 1, atol=1e-5)
    np.testing.assert_allclose(ratio[turns <= 0.5], 1 / 4, atol=1e-5)
    assert np.all(np.diff(ratio) <= 1e-6) and len(set(ratio.round(3))) > 2
    np.testing.assert_allclose(size, 0.1 * math.log(4) + 1, atol=1e-6)
    np.testing.assert_allclose(scaled("yarn", SHORT, rope_attention_factor=0.5)[1], 0.5, atol=1e-6)


def test_half_precision_rounds_the_frequencies() -> None:
    config = EncoderConfig(hidden_size=24, num_heads=2, positions="rotary", rope_half_precision=True)
    positions = jnp.arange(700)[None]
    cos, sin = rotary_table_for(config, positions, jnp.ones_like(positions), False)
    rounded = (10_000.0 ** (-np.arange(0, 12, 2) / 12)).astype(np.float16).astype(np.float64)
    angles = np.arange(700)[:, None, None] * rounded
    np.testing.assert_allclose(cos[0], np.cos(angles), atol=3e-4)
    np.testing.assert_allclose(sin[0], np.sin(angles), atol=3e-4)


def test_ntk_keeps_the_shortest_wavelength_and_stretches_the_longest() -> None:
    before, after = (theta ** (np.arange(8) / 8) for theta in (THETA, ntk_theta(THETA, 16, 4.0)))
    assert after[0] == before[0] and after[-1] == pytest.approx(4 * before[-1])


def test_dynamic_scaling_goes_by_the_length_of_each_text() -> None:
    """Texts of the trained length and of twice that, and padding: packed, and one per row."""
    positions = np.concatenate([np.arange(100), np.arange(200), np.zeros(4, int)])[None]
    segments = np.repeat([1, 2, 0], [100, 200, 4])[None]
    packed, _ = scaled("dynamic", positions, segments)
    np.testing.assert_array_equal(packed[:, :100], scaled("none", positions[:, :100])[0])
    np.testing.assert_array_equal(packed[:, 100:300], scaled("dynamic", positions[:, 100:300])[0])
    grown = ntk_theta(THETA, 16, 4.0 * 2 - 3)
    np.testing.assert_allclose(packed[0, 101], grown ** (-np.arange(8) / 8), atol=1e-6)
    assert not np.allclose(packed[0, 101], packed[0, 1], atol=1e-3)


@pytest.mark.parametrize("scaling", ["linear", "dynamic", "yarn"])
def test_layers_with_a_window_stay_as_they_are(scaling: str) -> None:
    positions = np.arange(300)[None]
    plain = scaled("none", positions, local=True)[0]
    np.testing.assert_array_equal(scaled(scaling, positions, local=True)[0], plain)
    assert not np.allclose(scaled(scaling, positions, local=True, rope_scaling_local=True)[0], plain, atol=1e-2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rope_factor": 0.5}, "rope_factor must be a number of at least 1, got 0.5"),
        ({"rope_factor": math.nan}, "rope_factor"),
        ({"rope_original_length": 0}, "'yarn' needs model.rope_original_length"),
        ({"rope_betas": (1.0, 2.0)}, "rope_betas must be two numbers above 0, the larger one first"),
        ({"rope_attention_factor": -1.0}, "rope_attention_factor"),
        ({"rotary_values": True}, "would scale values too"),
        ({"positions": "learned"}, "needs rotary positions"),
    ],
)
def test_scaling_that_makes_no_sense(settings: dict, message: str) -> None:
    good = EncoderConfig(positions="rotary", rope_scaling="yarn", rope_factor=2.0, rope_original_length=512)
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(good, **settings)


def test_longer_tables() -> None:
    table = np.array([[9.0], [1.0], [3.0]], np.float32)
    assert interpolate_positions(table, 5)[:, 0].tolist() == pytest.approx([9, 1, 5 / 3, 7 / 3, 3])
    assert repeat_positions(table, 6)[:, 0].tolist() == [9, 1, 3, 1, 3, 1]
    for stretched in (interpolate_positions, repeat_positions):
        np.testing.assert_array_equal(stretched(table, 3), table)


def test_far_distances_share_a_row() -> None:
    """Rows longer than those of pretraining meet no new distances."""
    assert len(set(distance_buckets(np.arange(128, 5000), 32))) == 1
    for span, furthest in ((64, 0), (64, 256)):
        rows = distance_rows(4096, span, furthest)
        assert len(set(rows[: 4095 - 300])) == len(set(rows[4095 + 300 :])) == 1


@pytest.mark.parametrize(
    ("heads", "slopes"),
    [(1, [2**-8]), (4, [2**-2, 2**-4, 2**-6, 2**-8]), (6, [2**-2, 2**-4, 2**-6, 2**-8, 2**-1, 2**-3])],
)
def test_alibi(heads: int, slopes: list[float]) -> None:
    bias = np.asarray(alibi(4, heads, 9))
    np.testing.assert_allclose(bias, -np.array([3, 2, 1, 0, 1, 2, 3])[:, None] * np.array(slopes), rtol=1e-6)


def test_distances_of_rows_of_any_length() -> None:
    (T,) = jax.export.symbolic_shape("T", constraints=["T <= 9"])
    function = jax.jit(lambda x: alibi(x.shape[0], 3, 9))
    exported = jax.export.export(function)(jax.ShapeDtypeStruct((T,), jnp.float32))
    for length in (1, 4, 9):
        np.testing.assert_array_equal(exported.call(jnp.zeros(length)), alibi(length, 3, 9))
