"""Packing keeps every piece, splits none, keeps the order, and fills the rows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxencoder.text.packing import Packer


def pack(packer, pieces, **kwargs):
    rows = [packer.add(piece, **kwargs) for piece in pieces]
    return [row for row in rows if row is not None] + list(packer.flush())


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(2, 16), max_size=200),
    open_rows=st.sampled_from([1, 2, 5, 64]),
)
def test_no_piece_is_split(lengths, open_rows):
    # Every token is unique, so that a piece is recognized wherever it lands.
    ends = np.cumsum(lengths)
    pieces = [np.arange(end - n, end) for n, end in zip(lengths, ends, strict=True)]
    rows = pack(Packer(16, open_rows, shortest=2), pieces)
    packed = []
    for row in rows:
        assert 0 < len(row.token_ids) <= 16
        assert sum(row.lengths) == len(row.token_ids)
        inside = np.split(row.token_ids, np.cumsum(row.lengths)[:-1])
        assert [p[0] for p in inside] == sorted(p[0] for p in inside)
        packed += [tuple(piece) for piece in inside]
    assert sorted(packed) == [tuple(piece) for piece in pieces]
    if open_rows == 1:
        assert all(len(row.lengths) == 1 for row in rows)


@pytest.mark.parametrize("row_length", [128, 512])
@pytest.mark.parametrize("kind", ["uniform", "log-normal", "short"])
def test_rows_are_filled(row_length, kind):
    rng = np.random.default_rng(0)
    lengths = {
        "uniform": rng.integers(3, row_length + 1, 20000),
        "log-normal": np.clip(rng.lognormal(4, 1, 20000).astype(int), 3, row_length),
        "short": rng.integers(3, 20, 20000),
    }[kind]
    rows = pack(Packer(row_length, 256, shortest=3), [np.zeros(n, int) for n in lengths])
    assert lengths.sum() / (len(rows) * row_length) >= 0.98


def test_types_and_labels_stay_with_their_piece():
    packer = Packer(8, 256, shortest=2, type_ids=True)
    packer.add(np.array([1, 2, 3]), np.array([0, 1, 1]), [7])
    row = packer.add(np.array([4, 5, 6, 9, 9]), np.array([0, 0, 1, 1, 1]), [8])
    assert row.type_ids.tolist() == [0, 1, 1, 0, 0, 1, 1, 1]
    assert row.labels == [7, 8]
    assert list(packer.flush()) == []


@pytest.mark.parametrize("n", [0, 9])
def test_piece_that_cannot_fit(n):
    with pytest.raises(ValueError, match=f"a piece has {n} tokens; it must have 1 to 8"):
        Packer(8, 256, shortest=2).add(np.zeros(n, int))


def test_grouped_pieces_share_a_row():
    packer = Packer(8, 256, shortest=2)
    assert packer.add(np.arange(5), labels=[0, 1], lengths=[2, 3]) is None
    assert packer.add(np.arange(4), labels=[1, 0], lengths=[2, 2]) is None  # no room for it beside the first
    row = packer.add(np.arange(3), labels=[5])
    assert (row.lengths, row.labels) == ([2, 3, 3], [0, 1, 5])
    (row,) = packer.flush()
    assert (row.lengths, row.labels, row.token_ids.tolist()) == ([2, 2], [1, 0], [0, 1, 2, 3])
