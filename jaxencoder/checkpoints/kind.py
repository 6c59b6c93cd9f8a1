"""The kinds of folders that hold a model, told apart by their files."""

from pathlib import Path
from typing import Literal

from jaxencoder.config_io import CONFIG_FILE
from jaxencoder.files import read_json

Kind = Literal["run", "transformers", "sentence_transformers", "adapter", "peft"]

ADAPTER_FILE = "adapter.safetensors"
PEFT_CONFIG = "adapter_config.json"
MODULES_FILE = "modules.json"


def kind_of(folder: Path) -> Kind:
    """The kind of a folder; ValueError if it holds no model, or its config.json cannot be read."""
    # Adapters come before config.json: PEFT leaves its adapter_config.json among the files of the model that it was
    # saved with. In sentence-transformers the adapter is one of the modules.
    files: dict[str, Kind] = {ADAPTER_FILE: "adapter", MODULES_FILE: "sentence_transformers", PEFT_CONFIG: "peft"}
    for name, kind in files.items():
        if (folder / name).is_file():
            return kind
    if (folder / CONFIG_FILE).is_file():
        config = read_json(folder / CONFIG_FILE, dict)
        if "model_type" in config or "model" not in config:
            return "transformers"  # where the missing key is named
        return "run"
    raise ValueError(
        f"{folder} is not a run or a model: it has no {CONFIG_FILE}, {', '.join(files)}; give the folder of a run, of "
        "transformers, of sentence-transformers or of an adapter"
    )
