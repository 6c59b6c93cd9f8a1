"""Folders and names: what is fetched, and what is said when nothing can be."""

from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from jaxencoder.checkpoints.hub import resolve


def test_a_folder_is_itself(tmp_path: Path) -> None:
    assert resolve(tmp_path) == resolve(str(tmp_path)) == tmp_path


def test_a_folder_has_no_revision(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is a folder and has no revision 'v1'; leave it out"):
        resolve(tmp_path, revision="v1")


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("")
    with pytest.raises(NotADirectoryError, match="is a file"):
        resolve(tmp_path / "x")


@pytest.mark.parametrize("name", ["absent", "./a/b", "/a/b", "~/b", "a/b/c"])
def test_no_name_of_the_hub(name: str, monkeypatch) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: pytest.fail("asked the hub"))
    with pytest.raises(FileNotFoundError, match=f"no such run: {name}"):
        resolve(name)


def test_a_name_is_fetched(tmp_path: Path, monkeypatch) -> None:
    asked = {}
    (tmp_path / "model.safetensors").write_text("")
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda name, **given: asked.update(given, name=name) or str(tmp_path)
    )
    assert resolve("someone/model", revision="v1") == tmp_path
    assert (asked["name"], asked["revision"]) == ("someone/model", "v1")
    assert not any("bin" in pattern for pattern in asked["allow_patterns"])


def test_pickles_are_fetched_where_there_is_no_safetensors(tmp_path: Path, monkeypatch) -> None:
    asked = []
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda name, **given: asked.append(given) or str(tmp_path)
    )
    assert resolve("someone/model", revision="v1") == tmp_path
    assert [given["revision"] for given in asked] == ["v1", "v1"]
    assert asked[1]["allow_patterns"] == ["pytorch_model*.bin", "*/pytorch_model*.bin"]


@pytest.mark.parametrize(
    "error", [LocalEntryNotFoundError("not in the cache\nand more"), ConnectionError("no network")]
)
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
