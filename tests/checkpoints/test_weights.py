"""Weight files: round trips, shards, which file is taken, saves cut short, and damaged files."""

import json
import mmap
import os
from collections.abc import Mapping
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from jaxencoder.checkpoints.weights import open_weights, read_tensors, save_weights, write_tensors
from tests.checkpoints.test_torch_file import pickled, tensor, write

TENSORS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.arange(4).astype(ml_dtypes.bfloat16),
    "c": np.arange(3, dtype=np.float16),
    "d": np.zeros((0, 3), np.float32),
}


def same(found: Mapping[str, np.ndarray], tensors: dict) -> None:
    assert set(found) == set(tensors)
    for name, value in tensors.items():
        assert found[name].dtype == value.dtype
        np.testing.assert_array_equal(found[name], value)


def test_round_trip(tmp_path: Path) -> None:
    save_weights(TENSORS, tmp_path)
    same(open_weights(tmp_path), TENSORS)
    assert len(open_weights(tmp_path)) == 4 and not list(tmp_path.glob(".*"))


def test_an_empty_tensor_at_the_end_of_a_page(tmp_path: Path) -> None:
    """Where it begins there is no page to release."""
    tensors = {"a": np.zeros(0, np.uint8), "z": np.zeros((0, 3), np.uint8)}
    save_weights(tensors, tmp_path)
    rest = -(tmp_path / "model.safetensors").stat().st_size % mmap.PAGESIZE
    for size in range(rest - 16, rest + 1):  # the header tells the size, and is padded
        save_weights(tensors | {"a": np.zeros(size, np.uint8)}, tmp_path)
        if not (tmp_path / "model.safetensors").stat().st_size % mmap.PAGESIZE:
            break
    else:
        pytest.fail("no file ends with a page")
    same(open_weights(tmp_path), tensors | {"a": np.zeros(size, np.uint8)})


def test_one_file_with_words(tmp_path: Path) -> None:
    file = tmp_path / "some.safetensors"
    turned = TENSORS | {"a": TENSORS["a"].T}  # not contiguous
    write_tensors(file, turned, {"base": "x"})
    found, words = read_tensors(file)
    assert words == {"base": "x"}
    same(found, turned)
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(ValueError, match="some.safetensors is damaged or truncated"):
        read_tensors(file)
    with pytest.raises(FileNotFoundError, match="other.safetensors is missing, so the folder is incomplete"):
        read_tensors(tmp_path / "other.safetensors")
    with pytest.raises(OSError, match="could not be written"):
        write_tensors(tmp_path / "none" / "x.safetensors", turned, {})


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


@pytest.mark.parametrize(
    ("content", "message"),
    [
        *((content, "is not an index of shards") for content in ("[]", "{", '{"weight_map": 3}')),
        ('{"weight_map": {"a": "1.safetensors", "z": "2.safetensors"}}', r"2\.safetensors lacks the tensor z"),
    ],
)
def test_an_index_that_is_wrong(shards: Path, content: str, message: str) -> None:
    (shards / "model.safetensors.index.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        open_weights(shards)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.9])
def test_a_file_that_is_cut_short(tmp_path: Path, share: float) -> None:
    save_weights(TENSORS, tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ValueError, match="is damaged or truncated"):
        open_weights(tmp_path)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"has no model\.safetensors"):
        open_weights(tmp_path)


# Shards written


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(("limit", "shards"), [(1, 4), (24, 2), (32, 2), (37, 2), (38, 1), (10**9, 1)])
def test_shards_round_trip(tmp_path: Path, limit: int, shards: int) -> None:
    save_weights(TENSORS, tmp_path, limit)
    same(open_weights(tmp_path), TENSORS)
    names = [f"model-{i:05d}-of-{shards:05d}.safetensors" for i in range(1, shards + 1)]
    assert files(tmp_path) == ([*names, "model.safetensors.index.json"] if shards > 1 else ["model.safetensors"])
    if shards > 1:
        index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
        assert index["metadata"] == {"total_size": 38} and set(index["weight_map"].values()) <= set(names)


def test_no_tensors(tmp_path: Path) -> None:
    save_weights({}, tmp_path)
    assert not open_weights(tmp_path) and files(tmp_path) == ["model.safetensors"]


def test_transformers_reads_the_shards(tmp_path: Path) -> None:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    sizes = dict(vocab_size=31, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=9)
    model = transformers.BertModel(transformers.BertConfig(**sizes))
    model.config.save_pretrained(tmp_path)
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    save_weights(state, tmp_path, 2000)
    assert len(files(tmp_path)) > 4
    again, report = transformers.BertModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())


OTHERS = {name: value + value.dtype.type(1) for name, value in TENSORS.items()}
WHOLE, TWO, FOUR = 10**9, 32, 1


@pytest.mark.parametrize("before", [None, WHOLE, TWO, FOUR])
@pytest.mark.parametrize("after", [WHOLE, TWO, FOUR])
def test_a_save_that_is_cut_short_at_any_step(tmp_path: Path, before: int | None, after: int, monkeypatch) -> None:
    """After each renaming or removal a reader finds the former weights, the new ones or none, and never a mixture."""

    class Cut(BaseException):
        pass

    real = {name: getattr(os, name) for name in ("replace", "unlink")}
    step = 0
    while True:
        folder = tmp_path / str(step)
        folder.mkdir()
        if before:
            save_weights(TENSORS, folder, before)
        left = step

        def act(name: str, *paths, **more):
            nonlocal left
            if left == 0:
                raise Cut
            left -= 1
            return real[name](*paths, **more)

        with monkeypatch.context() as patched:
            for name in real:
                patched.setattr(os, name, lambda *paths, name=name, **more: act(name, *paths, **more))
            try:
                save_weights(OTHERS, folder, after)
                break
            except Cut:
                pass
        try:
            first = open_weights(folder)["a"][0, 0]
        except FileNotFoundError:
            assert before is None or before == after != WHOLE  # as documented: shards that replace their namesakes
        else:
            same(open_weights(folder), OTHERS if first == OTHERS["a"][0, 0] else TENSORS)
        save_weights(OTHERS, folder, after)  # a second try mends it
        same(open_weights(folder), OTHERS)
        step += 1
    assert step > 1
    same(open_weights(folder), OTHERS)
    names = {WHOLE: 1, TWO: 3, FOUR: 5}
    assert len(files(folder)) == names[after]


def test_a_shard_that_cannot_be_written_leaves_the_former_weights(tmp_path: Path, monkeypatch) -> None:
    from jaxencoder.checkpoints import weights

    save_weights(TENSORS, tmp_path)
    real = weights.save_file

    def full(tensors: dict, path: Path, **more) -> None:
        if "c" in tensors:
            raise OSError(28, "No space left on device")
        real(tensors, path, **more)

    monkeypatch.setattr(weights, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        save_weights(OTHERS, tmp_path, 1)
    assert files(tmp_path) == ["model.safetensors"]
    same(open_weights(tmp_path), TENSORS)


def test_shards_without_their_index(tmp_path: Path) -> None:
    save_weights(TENSORS, tmp_path, TWO)
    (tmp_path / "model.safetensors.index.json").unlink()
    write(tmp_path / "pytorch_model.bin", pickled({"a": tensor()}))
    with pytest.raises(FileNotFoundError, match=r"has model-00001-of-00002\.safetensors but no model\.safetensors"):
        open_weights(tmp_path)


# Which file is taken


def test_safetensors_before_torch(tmp_path: Path) -> None:
    shard = write(tmp_path / "pytorch_model-00001-of-00001.bin", pickled({"shard": tensor()}))
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": {"shard": shard.name}}))
    assert list(open_weights(tmp_path)) == ["shard"]
    np.testing.assert_array_equal(open_weights(tmp_path)["shard"], TENSORS["a"])
    write(tmp_path / "pytorch_model.bin", pickled({"whole": tensor()}))
    assert list(open_weights(tmp_path)) == ["whole"]
    save_weights(TENSORS, tmp_path, TWO)
    same(open_weights(tmp_path), TENSORS)
    save_file({"b": TENSORS["b"]}, tmp_path / "model.safetensors")
    assert list(open_weights(tmp_path)) == ["b"]


def test_a_pickle_in_the_place_of_a_shard_is_not_read_as_one(shards: Path) -> None:
    write(shards / "2.safetensors", pickled({"c": tensor()}))
    with pytest.raises(ValueError, match=r"2\.safetensors is damaged or truncated"):
        open_weights(shards)


@pytest.mark.parametrize("kind", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("name", ["../out", "/tmp/out", "sub/o", "..", ".", "", "..\\o", "C:o", "a\0b", 3, None, ["x"]])
def test_an_index_that_names_what_is_not_beside_it(tmp_path: Path, kind: str, name) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    save_file({"a": TENSORS["a"]}, tmp_path / "out")
    (folder / f"{kind}.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(ValueError, match="index.json names .* not a file name; do not trust") as error:
        open_weights(folder)
    assert "\n" not in str(error.value)
