"""A small model in a folder, and files of texts of many lengths."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.inference.conftest import WORDS, make_model, model, tokenizer  # noqa: F401


@pytest.fixture(scope="session")
def folder(model, tmp_path_factory) -> str:  # noqa: F811
    """The folder of a model."""
    path = tmp_path_factory.mktemp("bulk") / "model"
    model.save(path, format="sentence-transformers")
    return str(path)


def records(start: int, number: int) -> list[dict]:
    random = np.random.default_rng(start)
    return [
        {
            "id": f"x{start + i}",
            "text": " ".join(random.choice(WORDS, random.integers(0, 40))),
            "year": 1900 + i,
            "note": "unread",
        }
        for i in range(number)
    ]


def write_jsonl(path: Path, rows: list[dict], mode: str = "w") -> None:
    with path.open(mode) as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


class Input(NamedTuple):
    """A folder of two files, and their records in order."""

    path: Path
    records: list[dict]


@pytest.fixture
def source(tmp_path) -> Input:
    """58 records in JSON lines, and 75 in Parquet in groups of 20."""
    path = tmp_path / "in"
    path.mkdir()
    write_jsonl(path / "a.jsonl", records(0, 58))
    pq.write_table(pa.Table.from_pylist(records(1000, 75)), path / "b.parquet", row_group_size=20)
    return Input(path, records(0, 58) + records(1000, 75))


def shard_bytes(path: Path) -> dict[str, bytes]:
    """The content of a folder of shards by name, the manifest's too."""
    return {file.name: file.read_bytes() for file in sorted(path.iterdir()) if not file.name.startswith(".")}


def read_shards(path: Path) -> pa.Table:
    """The shards of a complete folder, in the order of the input."""
    manifest = json.loads((path / "_manifest.json").read_text())
    return pa.concat_tables(pq.read_table(path / shard["file"]) for shard in manifest["shards"])
