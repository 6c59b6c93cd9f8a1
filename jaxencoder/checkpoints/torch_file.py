"""Files of torch.save, such as pytorch_model.bin, read without torch and without running anything that they ask for.

There are two layouts. Torch 1.6 and later writes a zip of data.pkl and one uncompressed member per storage; earlier
versions wrote several pickles and then the storages. See
https://github.com/pytorch/pytorch/blob/v2.4.0/torch/serialization.py.
"""

import io
import math
import mmap
import os
import struct
import zipfile
from collections.abc import Mapping
from pickle import UnpicklingError
from typing import Any

import numpy as np

from jaxencoder.checkpoints.torch_pickle import Refusal, Tensor, shown, state_dict, unpickle

_ZIP, _MAGIC, _VERSION = b"PK\x03\x04", 0x1950A86A20F9469CFC6C, 1001
_DAMAGE = (UnpicklingError, struct.error, ValueError, TypeError, LookupError, AttributeError, EOFError, OverflowError)
_Range = tuple[int, int]  # start and size in bytes


def read_torch(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Map the tensors of a state dict by name: read-only views of memory, read from disk only when they are used.

    Raises:
        ValueError: the pickle asks for anything but tensors, a tensor reaches outside its storage, a member is
            compressed or big-endian, or the file is damaged or truncated.
        OSError: the file cannot be read.
    """
    try:
        with open(path, "rb") as file:
            if not os.fstat(file.fileno()).st_size:
                raise EOFError("it is empty")
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            tensors, ranges = _read_zip(_members(file, data), data) if data[:4] == _ZIP else _read_rows(data)
        for name, tensor in tensors.items():
            _check(name, tensor, ranges, len(data))
        return {name: _view(tensor, ranges, data) for name, tensor in tensors.items()}
    except Refusal as refusal:
        raise ValueError(f"{path} {refusal}") from None
    except _DAMAGE as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path} is damaged, truncated or not from torch.save ({reason}); replace it") from None


def _view(tensor: Tensor, ranges: Mapping[str, _Range], data: mmap.mmap) -> np.ndarray:
    dtype = tensor.storage.dtype
    if 0 in tensor.shape:
        return np.zeros(tensor.shape, dtype)
    # The buffer ends where the storage does, so that numpy would refuse a tensor that `_check` had missed.
    start, size = ranges[tensor.storage.key]
    # An axis of one element may have any stride, even one that numpy cannot hold.
    strides = [dtype.itemsize * step if n > 1 else 0 for n, step in zip(tensor.shape, tensor.strides, strict=True)]
    buffer = memoryview(data)[start : start + size]
    return np.ndarray(tensor.shape, dtype, buffer, dtype.itemsize * tensor.offset, strides)


def _check(name: str, tensor: Tensor, ranges: Mapping[str, _Range], file_size: int) -> None:
    """Refuse a tensor that reaches outside its storage, or that has more elements than the file has bytes."""
    storage = tensor.storage
    if storage.key not in ranges:
        raise Refusal(f"lacks the storage {shown(storage.key)} of {shown(name)}; download it again")
    size = storage.count * storage.dtype.itemsize
    if ranges[storage.key][1] != size:
        raise Refusal(f"has {ranges[storage.key][1]} bytes for {shown(name)}, which asks for {size}; download it again")
    if math.prod(max(n, 1) for n in tensor.shape) > file_size:
        raise Refusal(f"repeats the elements of {shown(name)} beyond its own size; save a contiguous tensor")
    last = tensor.offset + sum((n - 1) * step for n, step in zip(tensor.shape, tensor.strides, strict=True))
    if 0 not in tensor.shape and last >= storage.count:
        raise Refusal(f"has a tensor {shown(name)} that reaches outside its storage; do not trust this file")


def _members(file: Any, data: mmap.mmap) -> dict[str, _Range]:
    try:
        with zipfile.ZipFile(file) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, OSError) as error:
        raise EOFError(error) from None
    ranges = {}
    for info in infos:
        start, name = info.header_offset, info.filename
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 or info.file_size != info.compress_size:
            raise Refusal(f"holds {shown(name)} compressed or encrypted, as torch.save never does; save it again")
        if name in ranges:
            raise Refusal(f"holds {shown(name)} twice; do not trust this file")
        if start < 0 or data[start : start + 4] != _ZIP:
            raise EOFError(f"no member at {start}")
        start += 30 + sum(struct.unpack_from("<HH", data, start + 26))
        if start + info.file_size > len(data):
            raise EOFError(f"{shown(name)} ends beyond the file")
        ranges[name] = (start, info.file_size)
    return ranges


def _read_zip(members: Mapping[str, _Range], data: mmap.mmap) -> tuple[dict[str, Tensor], dict[str, _Range]]:
    roots = [name.removesuffix("data.pkl") for name in members if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(roots) != 1:
        raise Refusal(f"is a zip with {len(roots)} data.pkl, not one, so it is not from torch.save; replace it")
    start, size = members.get(f"{roots[0]}byteorder", (0, 0))
    if data[start : start + size] not in (b"little", b""):
        raise Refusal("was written on a big-endian machine; save it again on a little-endian one")
    start, size = members[f"{roots[0]}data.pkl"]
    folder = f"{roots[0]}data/"
    ranges = {name.removeprefix(folder): place for name, place in members.items() if name.startswith(folder)}
    return state_dict(unpickle(io.BytesIO(data[start : start + size]))), ranges


def _read_rows(data: mmap.mmap) -> tuple[dict[str, Tensor], dict[str, _Range]]:
    if unpickle(data) != _MAGIC or unpickle(data) != _VERSION:
        raise EOFError("no magic number")
    if not unpickle(data)["little_endian"]:
        raise Refusal("was written on a big-endian machine; save it again on a little-endian one")
    tensors, keys = state_dict(unpickle(data)), unpickle(data)
    storages = {tensor.storage.key: tensor.storage for tensor in tensors.values()}
    listed = isinstance(keys, list) and all(isinstance(key, str) for key in keys)
    if not listed or set(keys) != set(storages) or len(keys) != len(storages):
        raise EOFError("its storages are not those of its tensors")
    ranges, start = {}, data.tell()
    for key in keys:
        (count,) = struct.unpack_from("<q", data, start)
        if count != storages[key].count:
            raise EOFError(f"storage {shown(key)} differs in length from its tensors")
        size = count * storages[key].dtype.itemsize
        ranges[key] = (start + 8, size)
        start += 8 + size
        if start > len(data):
            raise EOFError(f"storage {shown(key)} ends beyond the file")
    return tensors, ranges
