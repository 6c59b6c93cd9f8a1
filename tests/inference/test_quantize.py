"""Quantized vectors equal those of sentence-transformers."""

from typing import get_args

import numpy as np
import pytest

from jaxencoder.inference.options import Precision
from jaxencoder.inference.quantize import compared_values, dequantize, quantize, value_ranges

VECTORS = np.random.default_rng(0).normal(size=(120, 13)).astype(np.float32)  # 13 bits leave 3 of two bytes unused
VECTORS[:, 5] = 0.25  # a dimension without a range


@pytest.mark.parametrize("precision", get_args(Precision))
def test_vectors_equal_those_of_sentence_transformers(precision):
    library = pytest.importorskip("sentence_transformers.util.quantization")
    others = 2 * VECTORS[:7]  # some outside of the ranges
    for ranges in (None, value_ranges(VECTORS)):
        expected = library.quantize_embeddings(VECTORS if ranges is None else others, precision, ranges)
        actual = quantize(VECTORS if ranges is None else others, precision, ranges)
        assert actual.dtype == expected.dtype
        np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("precision", ["int8", "uint8"])
def test_bytes_stand_for_the_lower_end_of_a_step(precision):
    ranges = value_ranges(VECTORS)
    values = dequantize(quantize(VECTORS, precision), precision, 13, ranges)
    steps = (ranges[1] - ranges[0]) / 255
    assert values.dtype == np.float32
    assert (values <= VECTORS + 1e-6).all() and (VECTORS - values <= steps + 1e-6).all()


@pytest.mark.parametrize("precision", ["binary", "ubinary"])
def test_dot_products_of_bits_are_hamming_distances(precision):
    codes = quantize(VECTORS, precision)
    values = compared_values(codes, precision, 13)
    np.testing.assert_array_equal(values, np.where(VECTORS > 0, 1, -1))
    distances = (VECTORS[:1] > 0) != (VECTORS > 0)
    np.testing.assert_array_equal(values[:1] @ values.T, 13 - 2 * distances.sum(-1)[None])
    np.testing.assert_array_equal(dequantize(codes, precision, 13, value_ranges(VECTORS)), values)


def test_one_vector_has_no_ranges():
    with pytest.raises(ValueError, match="1 vectors have no ranges to divide into bytes; give at least 2"):
        quantize(VECTORS[:1], "int8")
