"""Labels of segments come back as they were, whatever the number of classes."""

import numpy as np
import pytest

from jaxencoder.text.segment_labels import decode, encode, layout, widen


@pytest.mark.parametrize("classes", [2, 31, 32, 33, 100])
def test_classes_as_bits(classes):
    random = np.random.default_rng(classes)
    want = random.integers(0, 2, (6, classes)).astype(np.int8)
    want[0], want[1] = 0, 1
    numbers = encode("classes", [tuple(np.flatnonzero(row)) for row in want], classes)
    dtype, none, width = layout("classes", classes)
    assert width == -(-(classes + 1) // 32) and len(numbers) == 6 * width
    table = np.append(np.array(numbers, dtype), np.full(2 * width, none, dtype)).reshape(2, 4 * width)
    found = decode("classes", table, classes)["labels"]
    assert found.shape == (2, 4, classes) and found.dtype == np.int8
    np.testing.assert_array_equal(found.reshape(8, classes)[:6], want)
    assert (found[1, 2:] == -1).all()


def test_one_label_stays_as_it_is():
    assert encode("class", [3, 1], 4) == [3, 1] and encode("value", [0.5], 0) == [0.5]
    assert decode("class", np.array([[3, -1]]), 4)["labels"].tolist() == [[3, -1]]


def test_more_segments():
    assert widen(np.array([[1, 0]], np.int32), 4).tolist() == [[1, 0, -1, -1]]
    assert np.isnan(widen(np.array([[1.5]], np.float32), 2)[0, 1])
    assert widen(np.ones((2, 1, 3), np.int8), 2)[:, 1].tolist() == [[-1] * 3] * 2
