"""The folder of a model: a local one, or the cached copy of a repository of the Hugging Face hub."""

import os
from pathlib import Path

from jaxencoder.text.messages import first_line

_SETTINGS = ["*.json", "*.metadata", "*.txt", "*.model", "*/config.json"]
_WEIGHTS = ["*.safetensors", "*/*.safetensors", "*_linear.pt"]  # the last are the heads of bge-m3
_MODELS = {  # what says that a folder may have weights -> the names of those of torch
    "config.json": "pytorch_model*.bin",
    "adapter_config.json": "adapter_model.bin",
}


def resolve(name_or_folder: str | os.PathLike, revision: str | None = None, weights: bool = True) -> Path:
    """Find the folder of a model, downloading it from the hub if necessary.

    Args:
        name_or_folder: a folder, or "organization/name".
        revision: branch, tag or commit of a repository on the hub.
        weights: download the weights too; without, only settings and tokenizer.

    Returns:
        The folder itself, or the cached copy of the repository: settings, tokenizer and safetensors, and of its folders
        that have none, torch's files. With HF_HUB_OFFLINE=1 nothing is downloaded.

    Raises:
        FileNotFoundError: neither a folder nor a name that can be downloaded.
        NotADirectoryError: a file.
        ValueError: a revision of a folder.
    """
    path, name = Path(name_or_folder), str(name_or_folder)
    if path.is_dir():
        if revision is not None:
            raise ValueError(f"{name} is a folder and has no revision {revision!r}; leave it out")
        return path
    if path.exists():
        raise NotADirectoryError(f"{name} is a file; give the folder that holds it")
    if isinstance(name_or_folder, Path) or name.count("/") != 1 or name.startswith(("/", ".", "~")):
        raise FileNotFoundError(f"no such run: {name}; give a folder, or the name of a model on the hub")
    import huggingface_hub  # slow to import
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        files = _SETTINGS + _WEIGHTS if weights else _SETTINGS
        folder = Path(huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=files))
        if weights and (torch_files := _torch_files(folder)):
            huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=torch_files)
        return folder
    except HFValidationError:
        raise FileNotFoundError(f"no such run: {name}; it is neither a folder nor a valid name on the hub") from None
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        message = f"no folder {name}, and it could not be downloaded from the hub: {first_line(error)}"
        raise FileNotFoundError(message) from None


def _torch_files(folder: Path) -> list[str]:
    """Patterns of the weights of the repository's models that have no safetensors."""
    patterns = []
    for settings, weights in _MODELS.items():
        names = "adapter_model.safetensors" if settings.startswith("adapter") else "model*.safetensors"
        for path in sorted(folder.rglob(settings)):
            if "Pooling" not in path.parent.name and not any(path.parent.glob(names)):
                patterns.append((path.parent / weights).relative_to(folder).as_posix())
    return patterns
