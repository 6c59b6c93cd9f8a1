"""A checkpoint's weight files, whole or in shards, read one tensor at a time from mapped memory.

Read are safetensors (https://github.com/huggingface/safetensors) and, where there are none, the pytorch_model.bin of
torch.save; written are safetensors.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import ml_dtypes  # noqa: F401  numpy learns bfloat16 from it
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from jaxencoder.checkpoints.torch_file import TorchFile

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
TORCH_WHOLE, TORCH_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
_SHARD, _ANY_SHARD = "model-{:05d}-of-{:05d}.safetensors", "model-?????-of-?????.safetensors"


class Weights(Mapping[str, np.ndarray]):
    """The tensors of a folder by name; each is read when it is asked for, and those of torch are read-only."""

    def __init__(self, readers: Mapping[str, Callable[[str], np.ndarray]]):
        self._readers = dict(readers)

    def __getitem__(self, name: str) -> np.ndarray:
        return self._readers[name](name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._readers)

    def __len__(self) -> int:
        return len(self._readers)


def open_weights(folder: str | os.PathLike) -> Weights:
    """The weights of a folder, by the first of these that is there.

    model.safetensors; the shards that model.safetensors.index.json names; pytorch_model.bin; the shards that
    pytorch_model.bin.index.json names.

    Raises:
        FileNotFoundError: none is there, or a shard is missing.
        ValueError: a file is damaged or cut short, a pickle asks for more than tensors, or an index is not what it
            should be.
    """
    folder = Path(folder)
    for whole, index, open_file in ((WHOLE, INDEX, _safetensors), (TORCH_WHOLE, TORCH_INDEX, _torch)):
        if (folder / whole).is_file():
            names, read = open_file(folder / whole)
            return Weights(dict.fromkeys(names, read))
        if (folder / index).is_file():
            return Weights(_shards(folder / index, open_file))
        if whole == WHOLE and (parts := sorted(folder.glob(_ANY_SHARD))):
            raise FileNotFoundError(f"{folder} has {parts[0].name} but no {INDEX}; fetch it, or save the model again")
    raise FileNotFoundError(f"{folder} has no {WHOLE}, no {TORCH_WHOLE} and no index of shards; give a model's folder")


def has_weights(folder: str | os.PathLike) -> bool:
    """Whether a folder has weights that can be opened."""
    try:
        open_weights(folder)
    except FileNotFoundError:
        return False
    return True


def save_weights(
    tensors: Mapping[str, np.ndarray], folder: str | os.PathLike, max_shard_bytes: int = 5_000_000_000
) -> None:
    """Write weights as transformers reads them: model.safetensors or, beyond a size, shards and then their index.

    All of it is written under other names first. A reader finds the former weights, the new ones, or (while shards
    replace shards of the same names) none; never some of each. What is left of the former ones goes last.

    Args:
        tensors: name -> array.
        folder: an existing folder.
        max_shard_bytes: most that one file holds; a larger tensor has a file of its own. 5 GB, as on the hub.

    Raises:
        ValueError: `max_shard_bytes` is not positive.
        OSError: a file cannot be written.
    """
    if max_shard_bytes <= 0:
        raise ValueError(f"max_shard_bytes is {max_shard_bytes}; give at least 1")
    folder = Path(folder)
    groups = _groups({name: tensor.nbytes for name, tensor in tensors.items()}, max_shard_bytes)
    names = [_SHARD.format(i + 1, len(groups)) for i in range(len(groups))] if len(groups) > 1 else [WHOLE]
    files = [*names, INDEX] if len(groups) > 1 else names
    parts = [folder / f".{file}.{os.getpid()}" for file in files]
    try:
        for part, group in zip(parts, groups, strict=False):
            save_file({name: tensors[name] for name in group}, part, metadata={"format": "pt"})
        if len(groups) > 1:
            weight_map = {name: file for file, group in zip(names, groups, strict=True) for name in group}
            total = sum(tensor.nbytes for tensor in tensors.values())
            index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
            parts[-1].write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
            # Under the former index, a shard replaced would stand beside one that is not.
            if any((folder / name).exists() for name in names):
                (folder / INDEX).unlink(missing_ok=True)
        for part, file in zip(parts, files, strict=True):
            os.replace(part, folder / file)
    except SafetensorError as error:
        raise OSError(f"{folder / files[0]} could not be written: {error}") from None
    finally:
        for part in parts:
            part.unlink(missing_ok=True)
    stale = [folder / INDEX, folder / WHOLE, *sorted(folder.glob(_ANY_SHARD))]
    for path in stale:  # the index before its shards
        if path.name not in files:
            path.unlink(missing_ok=True)


def write_tensors(file: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write arrays and some words about them into one safetensors file; OSError if it cannot be written."""
    try:
        save_file({name: np.ascontiguousarray(x) for name, x in tensors.items()}, file, metadata=dict(metadata))
    except SafetensorError as error:
        raise OSError(f"{file} could not be written: {error}") from None


def read_tensors(file: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """All arrays of a safetensors file, and the words about them.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged or cut short.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing, so the folder is not whole; fetch it again")
    names, read = _safetensors(file)
    with safe_open(file, "np") as opened:
        return {name: read(name) for name in names}, opened.metadata() or {}


def _groups(sizes: Mapping[str, int], limit: int) -> list[list[str]]:
    """Names in their order, in groups of at most `limit` bytes; at least one group."""
    groups: list[list[str]] = [[]]
    held = 0
    for name, size in sizes.items():
        if groups[-1] and held + size > limit:
            groups.append([])
            held = 0
        groups[-1].append(name)
        held += size
    return groups


_Opened = tuple[Iterable[str], Callable[[str], np.ndarray]]


def _shards(index: Path, open_file: Callable[[Path], _Opened]) -> dict[str, Callable[[str], np.ndarray]]:
    try:
        files = dict(json.loads(index.read_text(encoding="utf-8"))["weight_map"].items())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{index} is not an index of shards ({error}); fetch it again") from None
    for file in files.values():
        if not isinstance(file, str) or file in ("", ".", "..") or any(mark in file for mark in "/\\:\0"):
            raise ValueError(f"{index} names {str(file)[:100]!r}, which is no file beside it; do not trust this folder")
    opened = {}
    for file in sorted(set(files.values())):
        if not (index.parent / file).is_file():
            raise FileNotFoundError(f"{index.parent / file} is missing, though {index.name} names it; fetch it again")
        names, read = open_file(index.parent / file)
        opened[file] = set(names), read
    for name, file in files.items():
        if name not in opened[file][0]:
            raise ValueError(
                f"{index.parent / file} has no tensor {name}, which the index says it holds; fetch it again"
            )
    return {name: opened[file][1] for name, file in files.items()}


def _safetensors(path: Path) -> _Opened:
    try:
        file = safe_open(path, "np")
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or cut short ({error}); fetch it again") from None
    return file.keys(), file.get_tensor


def _torch(path: Path) -> _Opened:
    file = TorchFile(path)
    return file, file.__getitem__
