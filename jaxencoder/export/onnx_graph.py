"""A graph of ONNX in the making: nodes, constants, and sizes that are known only when it runs."""

import ast
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

Dim = Any  # an int, or an expression of symbolic sizes such as 2*T - 1 (`jax.export.symbolic_shape`)
Shape = tuple[Dim, ...]

# Gelu, and reductions with axes as an input; onnxruntime 1.18, and the servers that contain it, read these versions.
OPSET, IR_VERSION = 20, 10
_OPERATORS = {ast.Add: "Add", ast.Sub: "Sub", ast.Mult: "Mul", ast.Pow: "Pow"}
_FOLDED = {"Add": operator.add, "Sub": operator.sub, "Mul": operator.mul, "Pow": operator.pow}


@dataclass(frozen=True)
class Tensor:
    """A value of the graph. Its shape may have 1 where its value in jax is broadcast to more: ONNX broadcasts late."""

    name: str
    shape: Shape
    dtype: np.dtype


Value = Tensor | np.ndarray  # an array is known now


class Graph:
    """Nodes in the order of their evaluation."""

    def __init__(self, inputs: Iterable[tuple[str, Shape]]) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._producers: dict[str, onnx.NodeProto] = {}
        self._constants: dict[str, np.ndarray] = {}
        self._names: dict[Any, str] = {}  # of constants and sizes that exist
        self._kept: list[np.ndarray] = []  # whose id() is a key of `_names`
        self._inputs = [Tensor(name, shape, np.dtype(np.int64)) for name, shape in inputs]
        self._sizes = {str(dim): (x.name, axis) for x in self._inputs for axis, dim in enumerate(x.shape)}

    @property
    def inputs(self) -> list[Tensor]:
        """int64 tensors, the inputs of the graph."""
        return self._inputs

    def add(self, op: str, *inputs: Value | str, shape: Shape, dtype: Any, **attributes: Any) -> Tensor:
        """The output of a new node; an input is a value, or the name of one ("" for none)."""
        return Tensor(self.node(op, *inputs, **attributes)[0], tuple(shape), np.dtype(dtype))

    def like(self, op: str, x: Value, *inputs: Value, **attributes: Any) -> Tensor:
        """The output of a new node, with the shape and type of its first input."""
        return self.add(op, x, *inputs, shape=x.shape, dtype=x.dtype, **attributes)

    def node(self, op: str, *inputs: Value | str, outputs: int = 1, **attributes: Any) -> list[str]:
        """The names of the outputs of a new node."""
        names = [self.name(x) for x in inputs]
        made = [f"{op.lower()}_{len(self._nodes)}_{i}" for i in range(outputs)]
        node = helper.make_node(op, names, made, name=made[0], **attributes)
        self._nodes.append(node)
        self._producers |= dict.fromkeys(made, node)
        return made

    def inputs_of(self, op: str, name: str) -> list[str] | None:
        """The names of the inputs of the node that makes a value, if it is an `op`."""
        node = self._producers.get(name)
        return list(node.input) if node is not None and node.op_type == op else None

    def array(self, name: str) -> np.ndarray:
        """The constant of a name."""
        return self._constants[name]

    def name(self, value: Value | str) -> str:
        """The name of a value; an array becomes a constant."""
        if isinstance(value, str):
            return value
        if isinstance(value, Tensor):
            return value.name
        array = np.asarray(value)
        key = (array.dtype.str, array.shape, array.tobytes() if array.size <= 64 else id(array))
        if key not in self._names:
            self._names[key] = f"constant_{len(self._constants)}"
            self._constants[self._names[key]] = array
            self._kept.append(array)
        return self._names[key]

    def sizes(self, dims: Sequence[Dim]) -> np.ndarray | str:
        """An int64 vector of sizes: an array if they are known, or the name of a value."""
        if all(isinstance(dim, int) for dim in dims):
            return np.array(dims, np.int64)
        parts = [self._size(str(dim)) for dim in dims]
        return self._once(("sizes", *parts), partial(self.node, "Concat", *parts, axis=0))

    def _size(self, dim: str) -> str:
        """The name of a size, int64 [1]: symbolic ones are products and sums of the sizes of the inputs."""

        def evaluate(node: ast.expr) -> int | str:
            match node:
                case ast.Constant(value=int(number)):
                    return number
                case ast.Name(id=name):
                    source, axis = self._sizes[name]
                    make = partial(self.node, "Shape", source, start=axis, end=axis + 1)
                    return self._once(("size", name), make)
                case ast.UnaryOp(op=ast.USub()):
                    return combined("Mul", -1, evaluate(node.operand))
                case ast.BinOp() if type(node.op) in _OPERATORS:
                    return combined(_OPERATORS[type(node.op)], evaluate(node.left), evaluate(node.right))
            raise NotImplementedError(f"the size {dim}")

        def combined(op: str, a: int | str, b: int | str) -> int | str:
            if isinstance(a, int) and isinstance(b, int):
                return _FOLDED[op](a, b)
            parts = [self._vector(x) for x in (a, b)]
            return self._once((op, *parts), partial(self.node, op, *parts))

        return self._vector(evaluate(ast.parse(dim.replace("^", "**"), mode="eval").body))

    def _vector(self, size: int | str) -> str:
        return self.name(np.array([size], np.int64)) if isinstance(size, int) else size

    def _once(self, key: Any, make: Callable[[], list[str]]) -> str:
        """The name of the output of a node that is made once."""
        if key not in self._names:
            (self._names[key],) = make()
        return self._names[key]

    def model(self, outputs: Mapping[str, Value], producer: tuple[str, str]) -> onnx.ModelProto:
        """The finished model, with the nodes that its outputs need; `producer` is a name and a version."""
        for name, value in outputs.items():
            self._nodes.append(helper.make_node("Identity", [self.name(value)], [name], name=name))
        needed, nodes = set(outputs), []
        for node in reversed(self._nodes):
            if needed.intersection(node.output):
                needed.update(node.input)
                nodes.append(node)
        constants = [(name, x) for name, x in self._constants.items() if name in needed]
        graph = helper.make_graph(
            nodes[::-1],
            "encoder",
            [_info(x.name, x) for x in self._inputs],
            [_info(name, x) for name, x in outputs.items()],
            [numpy_helper.from_array(x.copy(order="C"), name) for name, x in constants],
        )
        opset = [helper.make_opsetid("", OPSET)]
        made = helper.make_model(graph, opset_imports=opset, producer_name=producer[0], producer_version=producer[1])
        made.ir_version = IR_VERSION
        return made


def element_type(dtype: Any) -> int:
    """The number of an element type in ONNX."""
    return helper.np_dtype_to_tensor_dtype(np.dtype(dtype))


def _info(name: str, value: Value) -> onnx.ValueInfoProto:
    names = {"B": "batch_size", "T": "sequence_length"}
    shape = [dim if isinstance(dim, int) else names.get(str(dim), str(dim)) for dim in value.shape]
    return helper.make_tensor_value_info(name, element_type(value.dtype), shape)
