import jax
import numpy as np

from jaxencoder.kernels.tiles import reverse, skew, tile_length, unskew

C, b = 16, 40


def test_each_row_moves_one_step_further() -> None:
    x = np.random.default_rng(0).standard_normal((C, C + b)).astype(np.float32)
    i, j = np.indices((C, b))
    np.testing.assert_array_equal(jax.jit(skew)(x), x[i, C + j - i])


def test_unskew_is_the_reversed_transpose() -> None:
    x = np.random.default_rng(0).standard_normal((C, b)).astype(np.float32)
    expected = np.zeros((C, C + b), np.float32)
    i, j = np.indices((C, b))
    expected[C - 1 - i, C + j - i] = x
    np.testing.assert_array_equal(jax.jit(unskew)(x), expected)


def test_tiles_waste_little() -> None:
    lengths = {(1, 512): 128, (128, 512): 128, (512, 512): 512, (513, 512): 384, (8192, 1024): 1024, (8320, 1024): 1024}
    assert {case: tile_length(*case) for case in lengths} == lengths


def test_reverse() -> None:
    x = np.random.default_rng(0).standard_normal((C, b)).astype("bfloat16")
    np.testing.assert_array_equal(jax.jit(reverse)(x), x[::-1])
