"""Kinds of folders, told apart by their files alone."""

from pathlib import Path

import pytest

from jaxencoder.checkpoints.kind import kind_of


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        ({"config.json": '{"model": {}}'}, "run"),
        ({"config.json": '{"architectures": ["BertModel"]}'}, "transformers"),
        ({"config.json": '{"model_type": "bert"}'}, "transformers"),
        ({"config.json": '{"model_type": "bert"}', "modules.json": "[]"}, "sentence_transformers"),
        ({"config.json": "{}", "adapter.safetensors": ""}, "adapter"),
        ({"adapter_config.json": "{}"}, "peft"),
        # In sentence-transformers the first module may be an adapter.
        ({"adapter_config.json": "{}", "modules.json": "[]"}, "sentence_transformers"),
    ],
)
def test_kinds(tmp_path: Path, files: dict[str, str], kind: str) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    assert kind_of(tmp_path) == kind


def test_other_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is not a run or a model: it has no config\.json, adapter\.safetensors"):
        kind_of(tmp_path)
    for content, message in (("{", "is not JSON"), ("[]", "does not hold a JSON object")):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(ValueError, match=message):
            kind_of(tmp_path)
