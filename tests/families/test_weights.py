"""Weight files: round trips, shards, and files that are not what they should be."""

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from jaxencoder.families.weights import open_weights, save_weights

TENSORS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.arange(4).astype(ml_dtypes.bfloat16),
    "c": np.arange(3, dtype=np.float16),
    "d": np.zeros((0, 3), np.float32),
}


def test_round_trip(tmp_path: Path) -> None:
    save_weights(TENSORS, tmp_path)
    found = open_weights(tmp_path)
    assert set(found) == set(TENSORS) and len(found) == 4 and not list(tmp_path.glob(".*"))
    for name, tensor in TENSORS.items():
        assert found[name].dtype == tensor.dtype
        np.testing.assert_array_equal(found[name], tensor)


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    save_file({"a": TENSORS["a"]}, tmp_path / "1.safetensors")
    save_file({"c": TENSORS["c"]}, tmp_path / "2.safetensors")
    index = {"weight_map": {"a": "1.safetensors", "c": "2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    return tmp_path


def test_shards(shards: Path) -> None:
    found = open_weights(shards)
    assert set(found) == {"a", "c"}
    np.testing.assert_array_equal(found["a"], TENSORS["a"])


def test_a_shard_that_is_missing(shards: Path) -> None:
    (shards / "2.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"2\.safetensors is missing"):
        open_weights(shards)


def test_an_index_that_promises_too_much(shards: Path) -> None:
    index = {"weight_map": {"a": "1.safetensors", "z": "2.safetensors"}}
    (shards / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"2\.safetensors has no tensor z"):
        open_weights(shards)


@pytest.mark.parametrize("content", ["[]", "{", '{"weight_map": 3}'])
def test_an_index_that_is_none(shards: Path, content: str) -> None:
    (shards / "model.safetensors.index.json").write_text(content)
    with pytest.raises(ValueError, match="is not an index of shards"):
        open_weights(shards)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.9])
def test_a_file_that_is_cut_short(tmp_path: Path, share: float) -> None:
    save_weights(TENSORS, tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ValueError, match="is damaged or cut short"):
        open_weights(tmp_path)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"has no model\.safetensors"):
        open_weights(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match=r"pytorch_model\.bin is a pickle of torch: save it as safetensors"):
        open_weights(tmp_path)
