"""Values of a graph in other shapes and types. What is known already is computed by numpy, without a node."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxencoder.export.onnx_graph import Dim, Graph, Shape, Tensor, Value, element_type

_ZERO_AXIS = np.array([0], np.int64)


def same_size(a: Dim, b: Dim) -> bool:
    """Whether two sizes are equal for every row."""
    return a == b if isinstance(a, int) and isinstance(b, int) else str(a) == str(b)


def same_shape(a: Shape, b: Shape) -> bool:
    """Whether two shapes are equal for every row."""
    return len(a) == len(b) and all(map(same_size, a, b))


def common_shape(values: Sequence[Value]) -> Shape:
    """The shape to which ONNX broadcasts values."""
    rank = max(len(x.shape) for x in values)
    shapes = [(1,) * (rank - len(x.shape)) + tuple(x.shape) for x in values]
    return tuple(next((dim for dim in dims if not same_size(dim, 1)), 1) for dims in zip(*shapes, strict=True))


def expanded(graph: Graph, x: Value, shape: Shape) -> Value:
    """A value in the shape that it has in jax."""
    if same_shape(x.shape, shape):
        return x
    if isinstance(x, np.ndarray) and is_known(shape):
        return np.broadcast_to(x, shape)
    return graph.add("Expand", x, graph.sizes(shape), shape=shape, dtype=x.dtype)


def expanded_along(graph: Graph, x: Value, shape: Shape, axes: Sequence[int]) -> Value:
    """A value that has the size which it has in jax along some axes."""
    sizes = [shape[axis] if axis in axes else dim for axis, dim in enumerate(x.shape)]
    return expanded(graph, x, tuple(sizes))


def is_known(shape: Shape) -> bool:
    """Whether no size is symbolic."""
    return all(isinstance(dim, int) for dim in shape)


def cast(graph: Graph, x: Value, dtype: Any) -> Value:
    """A value of another type."""
    if x.dtype == np.dtype(dtype):
        return x
    if isinstance(x, np.ndarray):
        return x.astype(dtype)
    return graph.add("Cast", x, shape=x.shape, dtype=dtype, to=element_type(dtype))


def as_numbers(graph: Graph, x: Value) -> Value:
    """int32 in place of bool, which reductions do not take."""
    return cast(graph, x, np.int32) if x.dtype == np.bool_ else x


def squeezed(graph: Graph, x: Value, axes: Sequence[int]) -> Value:
    """A value without some axes of size 1."""
    shape = tuple(dim for axis, dim in enumerate(x.shape) if axis not in axes)
    if isinstance(x, np.ndarray):
        return x.reshape(shape)
    return graph.add("Squeeze", x, np.array(axes, np.int64), shape=shape, dtype=x.dtype)


def unsqueezed(graph: Graph, x: Value, axes: Sequence[int]) -> Value:
    """A value with more axes of size 1, which are these axes of the result."""
    sizes = iter(x.shape)
    shape = tuple(1 if axis in axes else next(sizes) for axis in range(len(x.shape) + len(axes)))
    if isinstance(x, np.ndarray) or not axes:
        return x.reshape(shape) if isinstance(x, np.ndarray) else x
    return graph.add("Unsqueeze", x, np.array(axes, np.int64), shape=shape, dtype=x.dtype)


def reshaped(graph: Graph, x: Value, shape: Shape) -> Value:
    """A value in another shape; sizes that stay, and the only unknown one, need not be computed."""
    if same_shape(x.shape, shape):
        return x
    if isinstance(x, np.ndarray) and is_known(shape):
        return x.reshape(shape)
    stays = [axis < len(x.shape) and same_size(dim, x.shape[axis]) for axis, dim in enumerate(shape)]
    sizes = [0 if stay else dim for stay, dim in zip(stays, shape, strict=True)]  # 0 says: as it is
    unknown = [axis for axis, dim in enumerate(sizes) if not isinstance(dim, int)]
    if len(unknown) == 1:
        sizes[unknown[0]] = -1
    return graph.add("Reshape", x, graph.sizes(sizes), shape=shape, dtype=x.dtype)


def transposed(graph: Graph, x: Value, axes: Sequence[int]) -> Value:
    """A value with its axes in another order."""
    if list(axes) == sorted(axes):
        return x
    if isinstance(x, np.ndarray):
        return np.transpose(x, axes)
    return graph.add("Transpose", x, shape=tuple(x.shape[axis] for axis in axes), dtype=x.dtype, perm=list(axes))


def scalar_size(graph: Graph, dim: Dim) -> Tensor:
    """A symbolic size as an int64 without axes."""
    return Tensor(graph.node("Squeeze", graph.sizes([dim]), _ZERO_AXIS)[0], (), np.dtype(np.int64))


def counted(graph: Graph, size: Dim) -> Value:
    """0, 1, ..., size - 1, int64."""
    if isinstance(size, int):
        return np.arange(size)
    return graph.add("Range", np.array(0), scalar_size(graph, size), np.array(1), shape=(size,), dtype=np.int64)
