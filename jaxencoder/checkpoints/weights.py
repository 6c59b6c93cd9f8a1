"""Weight files, single or sharded, read one tensor at a time.

Reads safetensors (https://github.com/huggingface/safetensors) or, without them, pytorch_model.bin of torch.save. Writes
safetensors.
"""

import json
import math
import mmap
import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from huggingface_hub import split_state_dict_into_shards_factory
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from jaxencoder.checkpoints.torch_file import read_torch

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
TORCH_SINGLE, TORCH_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
_PATTERN, _ANY_SHARD = "model{suffix}.safetensors", "model-?????-of-?????.safetensors"
_DTYPES = {
    **{"BOOL": np.bool_, "U8": np.uint8, "I8": np.int8, "U16": np.uint16, "I16": np.int16, "U32": np.uint32},
    **{"I32": np.int32, "U64": np.uint64, "I64": np.int64, "F16": np.float16, "F32": np.float32, "F64": np.float64},
    **{"BF16": ml_dtypes.bfloat16, "F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2},
}


class _Stored(NamedTuple):
    """A tensor in a file."""

    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]


_Stores = dict[str, _Stored]  # by the tensor's name


class Weights(Mapping[str, np.ndarray]):
    """The tensors of a folder by name; each is read on access, and those of torch are read-only."""

    def __init__(self, stored: _Stores):
        self._stored = stored

    def __getitem__(self, name: str) -> np.ndarray:
        return self._stored[name].read()

    def __contains__(self, name: object) -> bool:  # Mapping's own would read the tensor
        return name in self._stored

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, which is not read."""
        return self._stored[name].shape

    def renamed(self, names: Mapping[str, str]) -> "Weights":
        """The same tensors by new names; `names` maps new names to those of the file."""
        return Weights({new: self._stored[name] for new, name in names.items()})


def open_weights(folder: str | os.PathLike) -> Weights:
    """Open the weights of a folder: safetensors or else torch's, one file or else an index with its shards.

    Raises:
        FileNotFoundError: there is none, or a shard is missing.
        ValueError: a file is damaged or truncated, a pickle asks for more than tensors, or an index is malformed.
    """
    folder = Path(folder)
    for single, index, open_file in ((SINGLE, INDEX, _safetensors), (TORCH_SINGLE, TORCH_INDEX, _torch)):
        if (folder / single).is_file():
            return Weights(open_file(folder / single))
        if (folder / index).is_file():
            return Weights(_shards(folder / index, open_file))
        if single == SINGLE and (shards := sorted(folder.glob(_ANY_SHARD))):
            raise FileNotFoundError(f"{folder} has {shards[0].name} but no {INDEX}; add it, or save the model again")
    raise FileNotFoundError(f"{folder} has no {SINGLE}, {TORCH_SINGLE} or index of shards; give a model's folder")


def has_weights(folder: str | os.PathLike) -> bool:
    """Whether a folder has weights."""
    try:
        open_weights(folder)
    except FileNotFoundError:
        return False
    return True


def save_weights(tensors: Mapping[str, np.ndarray], folder: Path, max_shard_bytes: int = 5_000_000_000) -> None:
    """Write model.safetensors or, beyond a size, shards and their index.

    All files are written under temporary names first. A reader finds the previous weights, the new ones, or none (while
    shards replace shards of the same names), but never a mixture. Files of the previous weights are deleted last.
    A tensor of more than `max_shard_bytes`, by default 5 GB as on the hub, has its own file.
    """
    split = split_state_dict_into_shards_factory(
        dict(tensors), get_storage_size=lambda x: x.nbytes, filename_pattern=_PATTERN, max_shard_size=max_shard_bytes
    )
    shards = split.filename_to_tensors or {SINGLE: []}
    files = [*shards, INDEX] if split.is_sharded else [*shards]
    parts = {file: folder / f".{file}.{os.getpid()}" for file in files}
    try:
        for file, names in shards.items():
            save_file({name: tensors[name] for name in names}, parts[file], metadata={"format": "pt"})
        if split.is_sharded:
            index = {"metadata": split.metadata, "weight_map": dict(sorted(split.tensor_to_filename.items()))}
            parts[INDEX].write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
            # The previous index would name new shards as well as old ones.
            if any((folder / file).exists() for file in shards):
                (folder / INDEX).unlink(missing_ok=True)
        for file, part in parts.items():
            os.replace(part, folder / file)
    except SafetensorError as error:
        raise OSError(f"{folder / files[0]} could not be written: {error}") from None
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)
    for path in [folder / INDEX, folder / SINGLE, *sorted(folder.glob(_ANY_SHARD))]:  # the index before its shards
        if path.name not in files:
            path.unlink(missing_ok=True)


def write_tensors(file: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write arrays and metadata into one safetensors file; OSError if it cannot be written."""
    try:
        save_file({name: np.ascontiguousarray(x) for name, x in tensors.items()}, file, metadata=dict(metadata))
    except SafetensorError as error:
        raise OSError(f"{file} could not be written: {error}") from None


def read_tensors(file: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Read all arrays and the metadata of a safetensors file; ValueError if it is damaged or truncated."""
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing, so the folder is incomplete; copy or download it again")
    opened = _safe_open(file)
    names = opened.keys()
    return {name: opened.get_tensor(name) for name in names}, opened.metadata() or {}


def _shards(index: Path, open_file: Callable[[Path], _Stores]) -> _Stores:
    try:
        files = dict(json.loads(index.read_text(encoding="utf-8"))["weight_map"].items())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{index} is not an index of shards ({error}); copy or download it again") from None
    for file in files.values():
        if not isinstance(file, str) or file in ("", ".", "..") or any(mark in file for mark in "/\\:\0"):
            raise ValueError(f"{index} names {str(file)[:100]!r}, which is not a file name; do not trust this folder")
    opened = {}
    for file in sorted(set(files.values())):
        if not (index.parent / file).is_file():
            raise FileNotFoundError(f"{index.parent / file} is missing, but {index.name} names it; add the file")
        opened[file] = open_file(index.parent / file)
    for name, file in files.items():
        if name not in opened[file]:
            raise ValueError(f"{index.parent / file} lacks the tensor {name} of the index; copy or download it again")
    return {name: opened[file][name] for name, file in files.items()}


def _safe_open(path: Path) -> Any:
    try:
        return safe_open(path, "np")
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or truncated ({error}); copy or download it again") from None


def _safetensors(path: Path) -> _Stores:
    """The tensors of a mapped file, which a save in the meantime does not change. The library checks the header."""
    names = _safe_open(path).keys()
    with path.open("rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    begin = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:begin])

    def read(name: str) -> np.ndarray:
        entry = header[name]
        if entry["dtype"] not in _DTYPES:
            raise ValueError(f"{path} holds {name} as {entry['dtype']}; save it again as F32, F16 or BF16")
        shape, start = entry["shape"], begin + entry["data_offsets"][0]
        tensor = np.frombuffer(data, _DTYPES[entry["dtype"]], math.prod(shape), start).reshape(shape).copy()
        if tensor.nbytes and hasattr(data, "madvise"):  # pages that stay mapped count as memory of the process
            page = start // mmap.PAGESIZE * mmap.PAGESIZE
            data.madvise(mmap.MADV_DONTNEED, page, start + tensor.nbytes - page)
        return tensor

    return {name: _Stored(tuple(header[name]["shape"]), partial(read, name)) for name in names}


def _torch(path: Path) -> _Stores:
    tensors = read_torch(path)
    return {name: _Stored(tensor.shape, partial(tensors.__getitem__, name)) for name, tensor in tensors.items()}
