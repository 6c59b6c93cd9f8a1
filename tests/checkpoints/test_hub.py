"""Folders and names: what is fetched, and what is said when nothing can be."""

from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from jaxencoder.checkpoints.hub import resolve


def test_folders_and_files(tmp_path: Path) -> None:
    assert resolve(tmp_path) == resolve(str(tmp_path)) == tmp_path
    with pytest.raises(ValueError, match="is a folder and has no revision 'v1'; leave it out"):
        resolve(tmp_path, revision="v1")
    (tmp_path / "x").write_text("")
    with pytest.raises(NotADirectoryError, match="is a file"):
        resolve(tmp_path / "x")


@pytest.fixture
def downloads(tmp_path: Path, monkeypatch) -> list[dict]:
    """What is asked of a hub that has tmp_path."""
    asked = []
    monkeypatch.setattr(
        huggingface_hub,
        "snapshot_download",
        lambda name, **given: asked.append({"name": name} | given) or str(tmp_path),
    )
    return asked


@pytest.mark.parametrize("name", ["absent", "./a/b", "/a/b", "~/b", "a/b/c"])
def test_no_name_of_the_hub(name: str, downloads: list[dict]) -> None:
    with pytest.raises(FileNotFoundError, match=f"no such run: {name}"):
        resolve(name)
    assert not downloads


def test_pickles_are_fetched_where_there_is_no_safetensors(tmp_path: Path, downloads: list[dict]) -> None:
    for folder in (".", "1_Pooling", "2_Dense"):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "config.json").write_text("{}")
    for file in ("model.safetensors", "2_Dense/model.safetensors", "adapter_config.json"):
        assert resolve("someone/model", revision="v1") == tmp_path
        (tmp_path / file).write_text("")
    resolve("someone/model", weights=False)
    patterns = [given["allow_patterns"] for given in downloads]
    assert [x for x in patterns if any("bin" in pattern for pattern in x)] == [
        ["2_Dense/pytorch_model*.bin", "pytorch_model*.bin"],
        ["2_Dense/pytorch_model*.bin"],
    ]
    resolve("someone/model")
    assert downloads[-1]["allow_patterns"] == ["adapter_model.bin"]


@pytest.mark.parametrize("error", [LocalEntryNotFoundError("not in the cache\nand"), ConnectionError("no network")])
def test_what_cannot_be_fetched(error: Exception, monkeypatch) -> None:
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(FileNotFoundError, match="no folder someone/model, and it could not be downloaded") as found:
        resolve("someone/model")
    assert "\n" not in str(found.value)


def test_a_name_that_there_cannot_be() -> None:
    with pytest.raises(FileNotFoundError, match="nor a valid name on the hub"):
        resolve("a b/c..d")
