"""Tables whose first records leave a column open."""

import pyarrow.parquet as pq
import pytest

from jaxencoder.inference.writers import open_writer

CHUNKS = [
    [{"tags": [], "scores": [], "spans": [], "note": None, "nested": [[], []]}],
    [{"tags": ["a"], "scores": [0.5, 1], "spans": [{"at": 3, "of": "x"}], "note": "n", "nested": [["b"]]}],
]
ITEMS = {"scores": 0.0, "spans": {"at": 0, "of": ""}}


@pytest.mark.parametrize("chunks", [CHUNKS, CHUNKS[::-1]], ids=["empty first", "empty last"])
def test_lists_that_are_empty_in_the_first_records(tmp_path, chunks):
    with open_writer(tmp_path / "a.parquet", vectors=False, items=ITEMS) as write:
        for chunk in chunks:
            write(chunk)
    assert pq.read_table(tmp_path / "a.parquet").to_pylist() == [record for chunk in chunks for record in chunk]


def test_what_is_not_text_must_be_said(tmp_path):
    with pytest.raises(ValueError, match="do not form one table"), open_writer(tmp_path / "a.parquet") as write:
        for chunk in CHUNKS:
            write(chunk)
    assert not list(tmp_path.iterdir())
