"""What the pickle of torch.save says, without running anything that it asks for.

The pickle is not given to `pickle`, which finds and calls what it is told to, but to an interpreter of the few opcodes
that a state dict needs. It can make descriptions of tensors and containers, looks up no attribute, imports nothing and
stops after a number of steps.
"""

import pickletools
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

_MAX_STEPS = 4_000_000  # a tensor takes about 40
_MAX_AXES = 64  # numpy's and torch's limit
_DTYPES = {
    "Double": "<f8", "Float": "<f4", "Half": "<f2", "BFloat16": ml_dtypes.bfloat16, "Long": "<i8", "Int": "<i4",
    "Short": "<i2", "Char": "i1", "Byte": "u1", "Bool": "?",
}  # fmt: skip
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY = {"EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict}
_PLAIN = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
    "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
}  # fmt: skip


class Refusal(ValueError):
    """What a file asks for and does not get; the message follows the file's name."""


@dataclass(frozen=True, slots=True)
class Storage:
    """A row of `count` numbers, which the file holds under `key`."""

    key: str
    dtype: np.dtype
    count: int


@dataclass(frozen=True, slots=True)
class Tensor:
    """A view of a storage: offset, shape and strides in numbers, not yet compared with the storage's length."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def state_dict(value: Any) -> dict[str, Tensor]:
    """What `unpickle` has made, if it is tensors by name that agree on their storages; else Refusal."""
    if not isinstance(value, dict):
        raise Refusal("holds no state dict; save model.state_dict()")
    storages: dict[str, Storage] = {}
    for name, tensor in value.items():
        if not isinstance(tensor, Tensor):
            raise Refusal(f"holds {shown(name)}, which is no tensor; save model.state_dict()")
        if storages.setdefault(tensor.storage.key, tensor.storage) != tensor.storage:
            raise Refusal(f"says of the storage of {shown(name)} what another tensor denies; do not trust this file")
    return value


class _Plain:
    """A stream whose lines have no escapes: genops would decode them, and warn, where torch does not."""

    def __init__(self, stream: Any):
        self.read, self.tell, self._readline = stream.read, stream.tell, stream.readline

    def readline(self) -> bytes:
        line = self._readline()
        if b"\\" in line:
            raise Refusal(f"asks for {shown(str(line))}, which no tensor needs; do not trust this file")
        return line


def unpickle(stream: Any) -> Any:
    """What the pickle at the position of a stream makes; the stream then stands behind it.

    Args:
        stream: a BytesIO or a mapped file: its `read` must not take memory for more than there is.

    Returns:
        None, a bool, int, float, str, tuple, list, dict with strings for keys, a dtype, Storage or Tensor.

    Raises:
        Refusal: it asks for anything else, or takes too many steps.
        ValueError, TypeError, LookupError, EOFError, OverflowError, struct.error: it is damaged.
    """
    stack: list[Any] = []
    outer: list[list[Any]] = []
    memo: dict[int, Any] = {}
    steps = 0
    for opcode, value, _ in pickletools.genops(_Plain(stream)):
        steps += 1
        if steps > _MAX_STEPS:
            raise Refusal(f"has a pickle of more than {_MAX_STEPS} steps; split it into shards")
        code = opcode.name
        if code in _PLAIN:
            stack.append(value)
        elif code in _CONSTANTS:
            stack.append(_CONSTANTS[code])
        elif code in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo[len(memo) if code == "MEMOIZE" else value] = stack[-1]
        elif code in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[value])
        elif code in _EMPTY:
            stack.append(_EMPTY[code]())
        elif code in ("TUPLE1", "TUPLE2", "TUPLE3"):
            stack.append(tuple(_popped(stack, int(code[-1]))))
        elif code == "MARK":
            outer.append(stack)
            stack = []
        elif code in ("TUPLE", "LIST", "DICT", "APPENDS", "SETITEMS"):
            items, stack = stack, outer.pop()
            if code == "DICT":
                stack.append({})
            if code in ("TUPLE", "LIST"):
                stack.append(tuple(items) if code == "TUPLE" else items)
            else:
                _extend(stack[-1], items, code == "APPENDS")
        elif code in ("APPEND", "SETITEM"):
            items = _popped(stack, 1 if code == "APPEND" else 2)
            _extend(stack[-1], items, code == "APPEND")
        elif code in ("GLOBAL", "STACK_GLOBAL"):
            names = value.split(" ", 1) if code == "GLOBAL" else _popped(stack, 2)
            stack.append(_known(*names))
        elif code == "BINPERSID":
            stack.append(_storage(stack.pop()))
        elif code == "REDUCE":
            call, arguments = _popped(stack, 2)
            if not any(call is known for known in _CALLS) or not isinstance(arguments, tuple) or len(arguments) > 7:
                raise Refusal("calls what is no function of its tensors; do not trust this file")
            steps += sum(len(part) for part in arguments if isinstance(part, list | tuple))
            stack.append(call(*arguments))
        elif code == "BUILD":  # a state dict's _metadata: versions of modules, which nothing here needs
            _popped(stack, 1)
            if not isinstance(stack[-1], dict):
                raise Refusal("sets the state of what is no dict; do not trust this file")
        elif code == "STOP":
            return stack.pop()
        elif code == "INST":
            _known(*value.split(" ", 1))
            raise Refusal("uses the pickle opcode INST, which no tensor needs; do not trust this file")
        elif code not in ("PROTO", "FRAME"):
            raise Refusal(f"uses the pickle opcode {code}, which no tensor needs; do not trust this file")
    raise EOFError("a pickle without an end")


def shown(name: str) -> str:
    """A name from a file, on one line and not too long."""
    return repr(name[:100])[1:-1]


def _popped(stack: list[Any], count: int) -> list[Any]:
    if len(stack) < count:
        raise EOFError("a pickle takes more than it holds")
    items = stack[len(stack) - count :]
    del stack[len(stack) - count :]
    return items


def _extend(target: Any, items: list[Any], is_list: bool) -> None:
    if type(target) is not (list if is_list else dict):
        raise EOFError("a pickle fills what is no container")
    if is_list:
        target.extend(items)
        return
    for name, value in zip(items[::2], items[1::2], strict=True):
        # Hashing a tuple of tuples of ... may take forever; a string's hash is kept.
        if not isinstance(name, str):
            raise Refusal(f"has a dict with a key of type {type(name).__name__}; save model.state_dict()")
        target[name] = value


def _known(module: Any, name: Any) -> Any:
    """The function or dtype that stands for a global; nothing is imported."""
    if not (isinstance(module, str) and isinstance(name, str)):
        raise Refusal("asks for a global without a name; do not trust this file")
    if (module, name) not in _GLOBALS:
        asked = shown(f"{module}.{name}")
        raise Refusal(f"asks for {asked}, which no tensor needs; take safetensors, or save model.state_dict()")
    return _GLOBALS[module, name]


def _storage(identity: Any) -> Storage:
    if not isinstance(identity, tuple) or len(identity) not in (5, 6) or identity[0] != "storage":
        raise Refusal("asks for a persistent object that is no storage; do not trust this file")
    _, dtype, key, _, count, *view = identity
    if view not in ([], [None]):
        raise Refusal("has a storage that is a view of another; save it anew with a newer torch")
    if not (isinstance(dtype, np.dtype) and isinstance(key, str) and type(count) is int and 0 <= count < 2**56):
        raise Refusal("describes a storage as torch does not; do not trust this file")
    return Storage(key, dtype, count)


def _rebuild_tensor(
    storage: Any, offset: Any, shape: Any, strides: Any, requires_grad: Any, hooks: Any, metadata: Any = None
) -> Tensor:
    whole = isinstance(storage, Storage) and isinstance(shape, tuple) and isinstance(strides, tuple)
    if not whole or not len(shape) == len(strides) <= _MAX_AXES:
        raise Refusal("describes a tensor as torch does not; do not trust this file")
    if not all(type(number) is int and 0 <= number < 2**56 for number in (offset, *shape, *strides)):
        raise Refusal("has a tensor whose offset, shape or strides are no lengths; do not trust this file")
    if metadata:
        raise Refusal("has a tensor that is negated or conjugated only when it is read; save it resolved")
    return Tensor(storage, offset, shape, strides)


def _rebuild_parameter(tensor: Any, requires_grad: Any, hooks: Any) -> Tensor:
    if not isinstance(tensor, Tensor):
        raise Refusal("has a parameter that is no tensor; do not trust this file")
    return tensor


def _ordered_dict(pairs: Any = ()) -> dict[str, Any]:
    if not isinstance(pairs, list | tuple) or len(pairs) > _MAX_STEPS:
        raise Refusal("makes an OrderedDict of what is no list of pairs; do not trust this file")
    found: dict[str, Any] = {}
    for pair in pairs:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise Refusal("makes an OrderedDict of what is no list of pairs; do not trust this file")
        _extend(found, list(pair), False)
    return found


_CALLS = (_rebuild_tensor, _rebuild_parameter, _ordered_dict)
_GLOBALS = {
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("collections", "OrderedDict"): _ordered_dict,
} | {
    # Old files that were saved from a GPU name its storages.
    (module, f"{name}Storage"): np.dtype(dtype)
    for name, dtype in _DTYPES.items()
    for module in ("torch", "torch.cuda")
}
