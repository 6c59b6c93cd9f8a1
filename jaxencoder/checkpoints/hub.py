"""Where a model's files are: a folder, or a copy of a repository of the Hugging Face hub."""

import os
from pathlib import Path

_SETTINGS = ("*.json", "*.txt", "*.model", "*/config.json")
_WEIGHTS = ("*.safetensors", "*/*.safetensors")
_TORCH_FILES = ("pytorch_model*.bin", "*/pytorch_model*.bin")


def resolve(name_or_folder: str | os.PathLike, revision: str | None = None, weights: bool = True) -> Path:
    """An existing folder as it is, a name of the hub as the folder of its cached copy.

    Args:
        name_or_folder: a folder, or "organisation/name".
        revision: branch, tag or commit of a hub's repository.
        weights: fetch them too; without, settings and tokenizer alone.

    Returns:
        The folder. Of a hub's repository it holds settings, tokenizer and safetensors (where there are none,
        pytorch_model.bin), fetched at the first call; HF_HUB_OFFLINE=1 takes what is there.

    Raises:
        FileNotFoundError: neither a folder nor a name that can be fetched.
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
        if weights and not any(folder.rglob("*.safetensors")):
            huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=_TORCH_FILES)
        return folder
    except HFValidationError:
        raise FileNotFoundError(f"no such run: {name}; it is no folder, and no name that the hub could have") from None
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise FileNotFoundError(f"no folder {name}, and it could not be fetched from the hub: {reason}") from None
