"""The pickle of torch.save, read without running anything that it asks for.

Python's own reader in Python, restricted in three ways: it supports only the opcodes of a state dict, it maps the few
globals of a state dict to functions and dtypes of this module and imports nothing, and it stops after a number of
steps. The reader in C is not used: it reserves memory for an index in the file, and hashes keys of nested tuples, which
may take forever.
"""

import pickle
import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

_MAX_STEPS = 4_000_000  # a tensor takes about 40
_MAX_AXES = 64  # the limit of numpy and torch
_DTYPES = {
    "Double": "<f8", "Float": "<f4", "Half": "<f2", "BFloat16": ml_dtypes.bfloat16, "Long": "<i8", "Int": "<i4",
    "Short": "<i2", "Char": "i1", "Byte": "u1", "Bool": "?",
}  # fmt: skip


class Refusal(ValueError):
    """A request of a file that is refused. The message continues a sentence that begins with the file's name."""


@dataclass(frozen=True, slots=True)
class Storage:
    """A row of `count` numbers, which the file holds under `key`."""

    key: str
    dtype: np.dtype
    count: int


@dataclass(frozen=True, slots=True)
class Tensor:
    """A view of a storage: offset, shape and strides in elements, not yet checked against the storage's length."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def state_dict(value: Any) -> dict[str, Tensor]:
    """The result of `unpickle` if it maps names to tensors that agree on their storages; else Refusal."""
    if not isinstance(value, dict):
        raise Refusal("holds no state dict; save model.state_dict()")
    storages: dict[str, Storage] = {}
    for name, tensor in value.items():
        if not isinstance(tensor, Tensor):
            raise Refusal(f"holds {shown(name)}, which is not a tensor; save model.state_dict()")
        if storages.setdefault(tensor.storage.key, tensor.storage) != tensor.storage:
            raise Refusal(f"describes the storage of {shown(name)} in two ways; do not trust this file")
    return value


def unpickle(stream: Any) -> Any:
    """Read the pickle at the position of a stream, and leave the stream behind it.

    The stream's `read` must not allocate more than the file holds. The result is None, a bool, int, float, str, tuple,
    list, dict with strings for keys, a dtype, Storage or Tensor. A pickle that asks for anything else, or takes too
    many steps, raises a Refusal; a damaged one raises one of `torch_file._DAMAGE`.
    """
    return _Unpickler(stream).load()


def shown(name: str) -> str:
    """A name from a file, on one line and not too long."""
    return repr(name[:100])[1:-1]


class _Unpickler(pickle._Unpickler):
    stack: list[Any]  # of the base class, whose types are not published
    append: Callable[[Any], None]
    pop_mark: Callable[[], list[Any]]
    dispatch: Any

    def __init__(self, stream: Any):
        super().__init__(stream, encoding="latin-1")  # of the strings of Python 2
        self.steps = 0
        self.dispatch = self  # where `load` looks each opcode up, in `__getitem__`

    def __getitem__(self, code: int) -> Callable[[Any], None]:
        self.count(1)
        opcode = _OPCODE_NAMES[code]
        if opcode not in _READERS:
            raise Refusal(f"uses the pickle opcode {opcode}, which no tensor needs; do not trust this file")
        return _READERS[opcode]

    def count(self, steps: int) -> None:
        self.steps += steps
        if self.steps > _MAX_STEPS:
            raise Refusal(f"has a pickle of more than {_MAX_STEPS} steps; split it into shards")

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _GLOBALS:
            asked = shown(f"{module}.{name}")
            raise Refusal(f"asks for {asked}, which no tensor needs; use safetensors, or save model.state_dict()")
        return _GLOBALS[module, name]

    def persistent_load(self, pid: Any) -> Storage:
        if not isinstance(pid, tuple) or len(pid) not in (5, 6) or pid[0] != "storage":
            raise Refusal("asks for a persistent object that is not a storage; do not trust this file")
        _, dtype, key, _, count, *view = pid
        if view not in ([], [None]):
            raise Refusal("has a storage that is a view of another; save it again with a newer torch")
        if not (isinstance(dtype, np.dtype) and isinstance(key, str) and _is_length(count)):
            raise Refusal("describes a storage as torch does not; do not trust this file")
        return Storage(key, dtype, count)

    def load_reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if not any(function is allowed for allowed in _FUNCTIONS) or not isinstance(arguments, tuple):
            raise Refusal("calls something other than torch's functions of tensors; do not trust this file")
        # A short pickle can ask for many copies of a long list.
        self.count(sum(len(argument) for argument in arguments if isinstance(argument, list | tuple)))
        self.append(function(*arguments))

    def load_build(self) -> None:
        """Skip the _metadata of a state dict: versions of modules, which are not needed."""
        self.stack.pop()
        if not isinstance(self.stack[-1], dict):
            raise Refusal("sets the state of an object that is not a dict; do not trust this file")

    def load_setitem(self) -> None:
        value, name = self.stack.pop(), self.stack.pop()
        _set_items(self.stack[-1], [(name, value)])

    def load_setitems(self) -> None:
        items = self.pop_mark()
        _set_items(self.stack[-1], zip(items[::2], items[1::2], strict=True))


def _set_items(target: Any, items: Any) -> None:
    if type(target) is not dict:
        raise EOFError("a pickle sets an item of an object that is not a dict")
    for name, value in items:
        # Hashing a tuple of tuples of ... may take forever; a string is hashed once.
        if not isinstance(name, str):
            raise Refusal(f"has a dict with a key of type {type(name).__name__}; save model.state_dict()")
        target[name] = value


def _is_length(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**56


def _rebuild_tensor(
    storage: Any, offset: Any, shape: Any, strides: Any, requires_grad: Any, hooks: Any, metadata: Any = None
) -> Tensor:
    is_tensor = isinstance(storage, Storage) and isinstance(shape, tuple) and isinstance(strides, tuple)
    if not is_tensor or not len(shape) == len(strides) <= _MAX_AXES:
        raise Refusal("describes a tensor as torch does not; do not trust this file")
    if not all(map(_is_length, (offset, *shape, *strides))):
        raise Refusal("has a tensor with an offset, shape or strides that are not lengths; do not trust this file")
    if metadata:
        raise Refusal("has a tensor that is negated or conjugated only when it is read; save it resolved")
    return Tensor(storage, offset, shape, strides)


def _rebuild_parameter(tensor: Any, requires_grad: Any, hooks: Any) -> Tensor:
    if not isinstance(tensor, Tensor):
        raise Refusal("has a parameter that is not a tensor; do not trust this file")
    return tensor


def _ordered_dict(pairs: Any = ()) -> dict[str, Any]:
    is_pairs = isinstance(pairs, list | tuple) and all(isinstance(p, list | tuple) and len(p) == 2 for p in pairs)
    if not is_pairs:
        raise Refusal("makes an OrderedDict of an object that is not a list of pairs; do not trust this file")
    items: dict[str, Any] = {}
    _set_items(items, pairs)
    return items


_FUNCTIONS = (_rebuild_tensor, _rebuild_parameter, _ordered_dict)
_GLOBALS = {
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("collections", "OrderedDict"): _ordered_dict,
} | {
    # Old files that were saved on a GPU name its storages.
    (module, f"{name}Storage"): np.dtype(dtype)
    for name, dtype in _DTYPES.items()
    for module in ("torch", "torch.cuda")
}
# The opcodes of protocols 1 to 5 that a state dict needs -> how they are read, here or by Python. Absent are those
# that make objects, copy or drop values, or reserve memory for a length in the file.
_PYTHON = (
    *("PROTO", "FRAME", "STOP", "NONE", "NEWTRUE", "NEWFALSE", "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1"),
    *("BINFLOAT", "BINSTRING", "SHORT_BINSTRING", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("EMPTY_TUPLE", "EMPTY_LIST", "EMPTY_DICT", "MARK", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "APPEND", "APPENDS"),
    *("BINPUT", "LONG_BINPUT", "MEMOIZE", "BINGET", "LONG_BINGET", "GLOBAL", "STACK_GLOBAL", "BINPERSID"),
)
_OPCODE_NAMES = {ord(opcode.code): opcode.name for opcode in pickletools.opcodes}
_READERS = {name: pickle._Unpickler.dispatch[code] for code, name in _OPCODE_NAMES.items() if name in _PYTHON} | {
    "REDUCE": _Unpickler.load_reduce,
    "BUILD": _Unpickler.load_build,
    "SETITEM": _Unpickler.load_setitem,
    "SETITEMS": _Unpickler.load_setitems,
}
