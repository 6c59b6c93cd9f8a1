"""A checkpoint's weight files: safetensors, whole or in shards, read one tensor at a time from mapped memory.

The format: https://github.com/huggingface/safetensors.
"""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import ml_dtypes  # noqa: F401  numpy learns bfloat16 from it
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"


class Weights(Mapping[str, np.ndarray]):
    """The tensors of a folder by name; each is read when it is asked for."""

    def __init__(self, files: Mapping[str, Path]):
        self._files = dict(files)
        self._open = {path: _opened(path) for path in sorted(set(self._files.values()))}
        for name, path in self._files.items():
            if name not in self._open[path].keys():  # noqa: SIM118  not a mapping
                raise ValueError(f"{path} has no tensor {name}, which the index says it holds; fetch it again")

    def __getitem__(self, name: str) -> np.ndarray:
        return self._open[self._files[name]].get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def open_weights(folder: str | os.PathLike) -> Weights:
    """The weights of a folder: model.safetensors, or the shards that model.safetensors.index.json names.

    Raises:
        FileNotFoundError: neither is there, or a shard is missing.
        ValueError: a file is damaged or cut short, or the index is not what it should be.
    """
    folder = Path(folder)
    if (folder / WHOLE).is_file():
        path = folder / WHOLE
        return Weights(dict.fromkeys(_opened(path).keys(), path))
    if not (folder / INDEX).is_file():
        others = sorted(path.name for path in folder.glob("*.bin"))
        hint = f"; {others[0]} is a pickle of torch: save it as safetensors" if others else ""
        raise FileNotFoundError(f"{folder} has no {WHOLE} and no {INDEX}{hint}")
    try:
        shards = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
        files = {name: folder / Path(shard).name for name, shard in shards.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder / INDEX} is not an index of shards ({error}); fetch it again") from None
    for path in files.values():
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing, though {INDEX} names it; fetch it again")
    return Weights(files)


def save_weights(tensors: Mapping[str, np.ndarray], folder: str | os.PathLike) -> None:
    """Write `folder`/model.safetensors, whole or not at all, as transformers reads it."""
    path = Path(folder) / WHOLE
    part = path.with_name(f".{WHOLE}.{os.getpid()}")
    try:
        save_file(dict(tensors), part, metadata={"format": "pt"})
        os.replace(part, path)
    except SafetensorError as error:
        raise OSError(f"{path} could not be written: {error}") from None
    finally:
        part.unlink(missing_ok=True)


def _opened(path: Path) -> safe_open:
    try:
        return safe_open(path, "np")
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or cut short ({error}); fetch it again") from None
