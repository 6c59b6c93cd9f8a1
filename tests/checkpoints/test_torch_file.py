"""Files of torch.save: parity with torch, and pickles made by hand that must run nothing and read nothing outside."""

import json
import os
import random
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import jaxencoder
from jaxencoder.checkpoints import torch_pickle
from jaxencoder.checkpoints.torch_file import read_torch
from jaxencoder.checkpoints.weights import open_weights

FLOATS = np.arange(6, dtype="<f4")
DATA = FLOATS.tobytes()


# A writer of pickles, opcode by opcode


class Raw(bytes):
    """Opcodes that leave one value."""


def op(value) -> bytes:
    if isinstance(value, Raw):
        return value
    if value is None or isinstance(value, bool):
        return {None: b"N", True: b"\x88", False: b"\x89"}[value]
    if isinstance(value, int):
        data = value.to_bytes(16, "little", signed=True)
        return b"\x8a\x10" + data
    if isinstance(value, str):
        return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
    if isinstance(value, tuple):
        return b"(" + b"".join(map(op, value)) + b"t"
    if isinstance(value, list):
        return b"](" + b"".join(map(op, value)) + b"e"
    return b"}(" + b"".join(op(name) + op(item) for name, item in value.items()) + b"u"


def glob(module: str, name: str) -> Raw:
    return Raw(f"c{module}\n{name}\n".encode())


def call(function: Raw, *arguments) -> Raw:
    return Raw(function + op(arguments) + b"R")


def pickled(value) -> bytes:
    return b"\x80\x02" + op(value) + b"."


def storage(key="0", count=6, kind="FloatStorage", *view) -> Raw:
    return Raw(op(("storage", glob("torch", kind), key, "cpu", count, *view)) + b"Q")


ORDERED = glob("collections", "OrderedDict")


def tensor(of: Raw | None = None, offset=0, shape=(2, 3), strides=(3, 1), *more) -> Raw:
    of = storage() if of is None else of
    return call(glob("torch._utils", "_rebuild_tensor_v2"), of, offset, shape, strides, False, call(ORDERED), *more)


def write(path: Path, pickle: bytes, method: int = zipfile.ZIP_STORED, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("archive/data.pkl", pickle)
        for name, data in ({"data/0": DATA, "byteorder": b"little"} | members).items():
            archive.writestr(f"archive/{name}", data)
    return path


def write_rows(path: Path, state: bytes, keys=("0",), counts=(6,), data=DATA, little=True) -> Path:
    head = pickled(0x1950A86A20F9469CFC6C) + pickled(1001) + pickled({"little_endian": little})
    storages = b"".join(struct.pack("<q", count) + data for count in counts)
    path.write_bytes(head + state + pickled(list(keys)) + storages)
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pytorch_model.bin"


def refused(path: Path, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        read_torch(path)
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value) and error.value.__cause__ is None


# What is read


@pytest.mark.parametrize("writer", [write, write_rows])
def test_tensors_made_by_hand(path: Path, writer: Callable) -> None:
    parameter = call(glob("torch._utils", "_rebuild_parameter"), tensor(), True, call(ORDERED))
    rows = [["a", tensor()], ["b", parameter], ["c", tensor(None, 5, (), ())], ["d", tensor(None, 1, (3, 2), (1, 2))]]
    rows += [["e", tensor(None, 2, (4, 2), (0, 3), None)], ["f", tensor(None, 0, (0, 7), (7, 1), {})]]
    rows += [["g", tensor(None, 4, (1, 2), (2**50, 1))]]
    state = call(ORDERED, rows)  # as Python 2 wrote it
    metadata = {"_metadata": {"": {"version": 1}}}
    found = read_torch(writer(path, pickled(Raw(state + op(metadata) + b"b"))))
    assert list(found) == list("abcdefg") and len(found) == 7 and "z" not in found
    expected = {"a": [[0, 1, 2], [3, 4, 5]], "c": 5, "d": [[1, 3], [2, 4], [3, 5]], "e": [[2, 5]] * 4, "g": [[4, 5]]}
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value)
        assert found[name].dtype == np.float32 and not found[name].flags.writeable
    assert found["f"].shape == (0, 7)
    assert np.shares_memory(found["a"], found["b"])  # mapped once, however many tensors share it


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "rows"])
@pytest.mark.parametrize("protocol", [2, 4])
def test_equals_torch(path: Path, legacy: bool, protocol: int) -> None:
    torch = pytest.importorskip("torch")
    base = torch.arange(60).reshape(3, 4, 5)
    kinds = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16]
    state = OrderedDict((str(kind), base.to(kind)) for kind in [*kinds, torch.int8, torch.uint8])
    floats = torch.randn(8, 9)
    state |= {
        "bool": base > 7, "transposed": floats.T, "view": floats[2:5, ::3], "row": floats[-1], "scalar": floats[3, 3],
        "expanded": floats[:1].expand(4, 9), "strided": torch.as_strided(floats, (3, 3), (1, 2), 5),
        "empty": torch.zeros(0, 3), "tied": floats, "parameter": torch.nn.Parameter(floats),
    }  # fmt: skip
    torch.save(state, path, _use_new_zipfile_serialization=not legacy, pickle_protocol=protocol)
    found = read_torch(path)
    assert list(found) == list(state)
    for name, value in state.items():
        value = value.detach()
        if value.dtype is torch.bfloat16:
            assert found[name].dtype == ml_dtypes.bfloat16
            np.testing.assert_array_equal(found[name].astype(np.float32), value.float().numpy())
        else:
            assert found[name].dtype == value.numpy().dtype
            np.testing.assert_array_equal(found[name], value.numpy())
    assert np.shares_memory(found["tied"], found["parameter"])


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "rows"])
def test_what_torch_saves_and_we_refuse(path: Path, legacy: bool) -> None:
    torch = pytest.importorskip("torch")
    for value, message in [
        ({"a": torch.nn.Linear(1, 1)}, r"asks for torch\.nn\.modules\.linear\.Linear"),
        ({"a": torch.zeros(1), "epoch": 3}, "holds epoch, which is not a tensor"),
        ([torch.zeros(1)], "holds no state dict"),
        ({1: torch.zeros(1)}, "has a dict with a key of type int"),
        ({"a": torch.float32}, r"asks for torch\.float32"),
    ]:
        torch.save(value, path, _use_new_zipfile_serialization=not legacy)
        refused(path, message)


@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "rows"])
def test_a_model_saved_by_torch_equals_its_safetensors(tmp_path: Path, legacy: bool, shards: int) -> None:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    sizes = dict(vocab_size=67, hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=40)
    model = transformers.BertForMaskedLM(transformers.BertConfig(**sizes)).eval()
    model.save_pretrained(tmp_path / "safe")
    (tmp_path / "torch").mkdir()
    model.config.save_pretrained(tmp_path / "torch")
    state = list(model.state_dict().items())
    files = {"pytorch_model.bin": state}
    if shards == 2:
        files = {"pytorch_model-00001-of-00002.bin": state[:9], "pytorch_model-00002-of-00002.bin": state[9:]}
        index = {"weight_map": {name: file for file, part in files.items() for name, _ in part}}
        (tmp_path / "torch" / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    for file, part in files.items():
        torch.save(OrderedDict(part), tmp_path / "torch" / file, _use_new_zipfile_serialization=not legacy)
    ids = np.arange(1, 13).reshape(2, 6)
    safe, pickle = (jaxencoder.load(tmp_path / name, dtype="float32")(ids) for name in ("safe", "torch"))
    np.testing.assert_array_equal(safe["mlm_logits"], pickle["mlm_logits"])
    with torch.no_grad():
        theirs = model(torch.tensor(ids)).logits
    np.testing.assert_allclose(pickle["mlm_logits"], theirs, atol=1e-5)


# What is refused


class Ran(Exception):
    pass


@pytest.fixture
def alarm(monkeypatch) -> None:
    """os.system and its like raise what no reader turns into a ValueError."""

    def ring(*_, **__):
        raise Ran

    for name in ("system", "popen", "getpid"):
        monkeypatch.setattr(os, name, ring)
    monkeypatch.setattr("builtins.eval", ring)


SYSTEM = glob("os", "system")
ATTACKS = {
    "reduce": (call(SYSTEM, "true"), r"asks for os\.system, which no tensor needs"),
    "global only": (SYSTEM, r"asks for os\.system"),
    "posix": (call(glob("posix", "system"), "true"), r"asks for posix\.system"),
    "stack global": (Raw(op("os") + op("system") + b"\x93" + op(("true",)) + b"R"), r"asks for os\.system"),
    "stack global of no names": (Raw(op(1) + op(("os",)) + b"\x93"), "STACK_GLOBAL requires str"),
    "inst": (Raw(b"(" + op("true") + b"ios\nsystem\n"), "the pickle opcode INST"),
    "inst of an allowed global": (Raw(b"(icollections\nOrderedDict\n"), "the pickle opcode INST"),
    "obj": (Raw(b"(" + SYSTEM + op("true") + b"o"), r"asks for os\.system"),
    "obj of an allowed global": (Raw(b"(" + ORDERED + op("true") + b"o"), "the pickle opcode OBJ"),
    "newobj": (Raw(ORDERED + op(()) + b"\x81"), "the pickle opcode NEWOBJ"),
    "newobj_ex": (Raw(ORDERED + op(()) + b"}\x92"), "the pickle opcode NEWOBJ_EX"),
    "ext1": (Raw(b"\x82\x01"), "the pickle opcode EXT1"),
    "ext2": (Raw(b"\x83\x01\x00"), "the pickle opcode EXT2"),
    "ext4": (Raw(b"\x84\x01\x00\x00\x00"), "the pickle opcode EXT4"),
    "persistent id as text": (Raw(b"Pos.system\n"), "the pickle opcode PERSID"),
    "persistent id that is no storage": (Raw(op(("module", ORDERED, "x", "y", 1)) + b"Q"), "a persistent object"),
    "persistent id that is a string": (Raw(op("../../etc/passwd") + b"Q"), "a persistent object"),
    "persistent id with a function": (Raw(op(("storage", ORDERED, "0", "cpu", 6)) + b"Q"), "describes a storage as"),
    "build on a function": (Raw(ORDERED + op((None, {"__defaults__": ()})) + b"b"), "sets the state of an object that"),
    "build on a dtype": (Raw(glob("torch", "FloatStorage") + op({"__setstate__": SYSTEM}) + b"b"), r"os\.system"),
    "build with __setstate__": (Raw(call(ORDERED) + op({"__setstate__": SYSTEM}) + b"b"), r"asks for os\.system"),
    "getattr": (call(call(glob("builtins", "getattr"), glob("os", ""), "system"), "x"), r"asks for builtins\.getattr"),
    "dotted name": (glob("collections", "OrderedDict.__init__.__globals__"), "asks for collections.OrderedDict.__init"),
    "old builtins": (glob("__builtin__", "eval"), "asks for __builtin__.eval"),
    "eval": (call(glob("builtins", "eval"), "1"), r"asks for builtins\.eval"),
    "torch.load": (call(glob("torch", "load"), "other.bin"), r"asks for torch\.load"),
    "torch.hub": (glob("torch.hub", "load"), r"asks for torch\.hub\.load"),
    "a type of torch": (glob("torch._utils", "_rebuild_wrapper_subclass"), "torch._utils._rebuild_wrapper_subclass"),
    "torch's own os": (glob("torch.serialization", "os.system"), r"asks for torch\.serialization\.os\.system"),
    "calls a storage": (call(glob("torch", "FloatStorage"), 3), "calls something other than torch's functions"),
    "calls a string": (call(Raw(op("_rebuild_tensor")), 3), "calls something other than torch's functions"),
    "calls with a list": (Raw(ORDERED + op([]) + b"R"), "calls something other than torch's functions"),
    "a key that is never hashed": (Raw(b"})" + b"2\x86" * 3 + b"Ns"), "the pickle opcode DUP"),
    "a key of nested tuples": (Raw(b"})" + b"q\x00h\x00\x86" * 60 + b"Ns"), "a key of type tuple"),
    "an escaped name": (Raw(b"ccollections\nOrdered\\x44ict\n"), r"asks for collections\.Ordered\\"),
    "a long name": (glob("o" * 5000, "x"), "asks for o{100}, which"),
    "lines in a name": (Raw(op("a\nb\x1b[2J") + op("c") + b"\x93"), r"asks for a\\nb\\x1b\[2J\.c"),
    "bytes of any length": (Raw(b"\x8e" + b"\xff" * 7 + b"\x7f"), "the pickle opcode BINBYTES8"),
    "a bytearray of any length": (Raw(b"\x96" + b"\xff" * 7 + b"\x7f"), "the pickle opcode BYTEARRAY8"),
    "a buffer": (Raw(b"\x97"), "the pickle opcode NEXT_BUFFER"),
    "ordered dict of a string": (call(ORDERED, "abc"), "not a list of pairs"),
    "ordered dict of strings": (call(ORDERED, ["ab", "cd"]), "not a list of pairs"),
}  # fmt: skip


@pytest.mark.parametrize("writer", [write, write_rows])
@pytest.mark.parametrize(("attack", "message"), ATTACKS.values(), ids=ATTACKS)
def test_nothing_but_tensors_is_made(path: Path, writer: Callable, attack: Raw, message: str, alarm) -> None:
    refused(writer(path, pickled({"a": attack})), message)
    refused(writer(path, pickled(Raw(op(attack) + b"0" + tensor()))), f"{message}|opcode POP")


def test_a_bare_pickle_runs_nothing(path: Path, alarm) -> None:
    path.write_bytes(pickled(call(SYSTEM, "true")))
    refused(path, r"asks for os\.system")


OUTSIDE = {
    "behind the storage": ((storage(), 1, (2, 3), (3, 1)), "reaches outside its storage"),
    "by a stride": ((storage(), 0, (2, 3), (4, 1)), "reaches outside its storage"),
    "offset alone": ((storage(), 6, (), ()), "reaches outside its storage"),
    "huge stride": ((storage(), 0, (2,), (2**55,)), "reaches outside its storage"),
    "stride that wraps": ((storage(), 0, (2,), (2**62,)), "are not lengths"),
    "offset that wraps": ((storage(), 2**64, (1,), (1,)), "are not lengths"),
    "negative offset": ((storage(), -1, (2,), (1,)), "are not lengths"),
    "negative stride": ((storage(), 5, (6,), (-1,)), "are not lengths"),
    "negative size": ((storage(), 0, (-2, -3), (3, 1)), "are not lengths"),
    "a size of True": ((storage(), 0, (True,), (1,)), "are not lengths"),
    "a size that is text": ((storage(), 0, ("6",), (1,)), "are not lengths"),
    "fewer strides": ((storage(), 0, (2, 3), (1,)), "describes a tensor as torch does not"),
    "many axes": ((storage(), 0, (1,) * 65, (1,) * 65), "describes a tensor as torch does not"),
    "a list for a shape": ((storage(), 0, [6], (1,)), "describes a tensor as torch does not"),
    "no storage": ((Raw(op("0")), 0, (6,), (1,)), "describes a tensor as torch does not"),
    "repeated without end": ((storage(), 0, (2**40,), (0,)), "beyond its own size"),
    "empty, but wide": ((storage(), 0, (0, 2**40), (1, 1)), "beyond its own size"),
    "a storage with a greater count": ((storage("0", 7),), "has 24 bytes for a, which asks for 28"),
    "a storage of wider numbers": ((storage("0", 6, "DoubleStorage"),), "has 24 bytes for a, which asks for 48"),
    "a storage without end": ((storage("0", 2**60),), "describes a storage as torch does not"),
    "a storage that is not there": ((storage("1"),), "lacks the storage 1 of a"),
    "a storage by a path": ((storage("../byteorder"),), "lacks the storage ../byteorder of a"),
    "a view of a storage": ((storage("0", 6, "FloatStorage", ("1", 0, 6)),), "a view of another"),
    "an unknown storage": ((storage("0", 6, "OtherStorage"),), r"asks for torch\.OtherStorage"),
    "negated when read": ((storage(), 0, (6,), (1,), {"neg": True}), "negated or conjugated"),
}


@pytest.mark.parametrize(("arguments", "message"), OUTSIDE.values(), ids=OUTSIDE)
def test_nothing_outside_a_storage_is_read(path: Path, arguments: tuple, message: str) -> None:
    refused(write(path, pickled({"a": tensor(*arguments)})), message)


def test_two_tensors_that_disagree_on_their_storage(path: Path) -> None:
    halves = tensor(storage("0", 12, "HalfStorage"))
    refused(write(path, pickled({"a": tensor(), "b": halves})), "in two ways")


GOOD = pickled({"a": tensor()})


def test_archives_that_torch_does_not_write(path: Path) -> None:
    refused(write(path, GOOD, zipfile.ZIP_DEFLATED), r"holds archive/data\.pkl compressed")
    refused(write(path, GOOD, byteorder=b"big"), "big-endian machine")
    refused(write_rows(path, GOOD, little=False), "big-endian machine")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data.txt", "x")
    refused(path, "is a zip with 0 data.pkl")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", GOOD)
        archive.writestr("b/data.pkl", GOOD)
    refused(path, "is a zip with 2 data.pkl")
    with zipfile.ZipFile(path, "w") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("a/data.pkl", GOOD)
        archive.writestr("a/data.pkl", GOOD)
    refused(path, r"holds a/data\.pkl twice")


@pytest.mark.parametrize(
    "wrong",
    [
        dict(keys=("1",)), dict(keys=("0", "0"), counts=(6, 6)), dict(counts=(2**62,)), dict(counts=(-1,)),
        dict(keys=()), dict(counts=()), dict(data=b""), dict(keys=(Raw(b")" + b"q\x00h\x00\x86" * 60),)),
    ],
)  # fmt: skip
def test_storages_behind_a_pickle_that_do_not_fit(path: Path, wrong: dict) -> None:
    refused(write_rows(path, GOOD, **wrong), "is damaged, truncated or not from torch.save")


@pytest.mark.parametrize(
    "content",
    [
        b"", b"PK\x03\x04", b"version https://git-lfs.github.com/spec/v1\n", b"\x80\x02", b"\x80\x02K\x01.", b"(" * 99,
        b"\x80\x02X\xff\xff\xff\xffa", b"\x80\x04\x8d" + b"\xff" * 8, b".", b"t", b"\x86.",
        b"\x80\x02Nr\xff\xff\xff\xff.",
    ],
)  # fmt: skip
def test_files_that_are_something_else(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    refused(path, "is damaged, truncated or not from torch.save")


def test_a_pickle_that_never_seems_to_end(path: Path, monkeypatch) -> None:
    monkeypatch.setattr(torch_pickle, "_MAX_STEPS", 10_000)
    refused(write(path, b"\x80\x02" + b"]" * 10_001), "more than 10000 steps")
    pairs = Raw(op([("a", 1)] * 1000) + b"q\x00")
    again = Raw(ORDERED + b"h\x00\x85R")  # one byte or two each, a thousand pairs copied
    refused(write(path, pickled((pairs, *[again] * 500))), "more than 10000 steps")


@pytest.mark.parametrize("writer", [write, write_rows])
def test_damage_is_refused_or_harmless(path: Path, writer: Callable) -> None:
    """Cut anywhere, or with any bytes changed: a ValueError, or tensors that can be read."""
    good = writer(path, pickled({"a": tensor(), "b": tensor(None, 1, (2,), (3,))})).read_bytes()
    rng = random.Random(0)
    damaged = [good[:length] for length in range(0, len(good), 3)]
    for _ in range(2000):
        other = bytearray(good)
        for _ in range(rng.choice((1, 1, 2, 8))):
            other[rng.randrange(len(other))] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))
        damaged.append(bytes(other))
    refusals = 0
    for content in damaged:
        path.write_bytes(content)
        try:
            for value in read_torch(path).values():
                assert len(value.tobytes()) == value.nbytes
        except ValueError as error:
            assert str(error).startswith(str(path))
            refusals += 1
    assert refusals > len(damaged) // 3


def test_a_tensor_outlives_its_file(path: Path) -> None:
    write(path, GOOD)
    value = open_weights(path.parent)["a"]
    path.unlink()
    np.testing.assert_array_equal(value, FLOATS.reshape(2, 3))
