"""Rules for operations that move items: shapes, slices, tables and positions. See `onnx_arithmetic` for rules."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from jaxencoder.export.onnx_arithmetic import Rule
from jaxencoder.export.onnx_graph import Graph, Shape, Tensor, Value
from jaxencoder.export.onnx_values import (
    cast,
    counted,
    expanded,
    expanded_along,
    reshaped,
    same_size,
    scalar_size,
    squeezed,
    transposed,
    unsqueezed,
)


def _broadcast(graph: Graph, eqn: Any, x: Value, *_: Value) -> Value:
    kept = eqn.params["broadcast_dimensions"]
    return unsqueezed(graph, x, [axis for axis in range(len(eqn.params["shape"])) if axis not in kept])


def _squeeze(graph: Graph, eqn: Any, x: Value) -> Value:
    return squeezed(graph, x, eqn.params["dimensions"])


def _reshape(graph: Graph, eqn: Any, x: Value, *_: Value) -> Value:
    return reshaped(graph, expanded(graph, x, eqn.invars[0].aval.shape), eqn.params["new_sizes"])


def _transpose(graph: Graph, eqn: Any, x: Value) -> Value:
    return transposed(graph, x, eqn.params["permutation"])


def _concatenation(graph: Graph, eqn: Any, *inputs: Value) -> Value:
    aval = eqn.outvars[0].aval
    parts = _expanded_inputs(graph, eqn, inputs)
    return graph.add("Concat", *parts, shape=aval.shape, dtype=aval.dtype, axis=eqn.params["dimension"])


def _expanded_inputs(graph: Graph, eqn: Any, inputs: Sequence[Value]) -> list[Value]:
    return [expanded(graph, x, var.aval.shape) for x, var in zip(inputs, eqn.invars, strict=True)]


def _split(graph: Graph, eqn: Any, x: Value) -> list[Value]:
    axis, sizes = eqn.params["axis"], eqn.params["sizes"]
    x = expanded_along(graph, x, eqn.invars[0].aval.shape, [axis])
    names = graph.node("Split", x, np.array(sizes, np.int64), outputs=len(sizes), axis=axis)
    shapes = [(*x.shape[:axis], size, *x.shape[axis + 1 :]) for size in sizes]
    return [Tensor(name, shape, x.dtype) for name, shape in zip(names, shapes, strict=True)]


def _slice(graph: Graph, eqn: Any, x: Value) -> Value:
    shape = eqn.invars[0].aval.shape
    starts, ends = eqn.params["start_indices"], eqn.params["limit_indices"]
    steps = eqn.params["strides"] or (1,) * len(shape)

    def is_cut(axis: int) -> bool:
        return not (same_size(starts[axis], 0) and same_size(ends[axis], shape[axis]) and steps[axis] == 1)

    axes = list(filter(is_cut, range(len(shape))))
    x = expanded_along(graph, x, shape, axes)
    after = _cut_shape(x, eqn.outvars[0].aval.shape, axes)
    first, last = (graph.sizes([sizes[axis] for axis in axes]) for sizes in (starts, ends))
    step = np.array([steps[axis] for axis in axes], np.int64)
    return graph.add("Slice", x, first, last, np.array(axes, np.int64), step, shape=after, dtype=x.dtype) if axes else x


def _cut_shape(x: Value, shape: Shape, axes: Sequence[int]) -> Shape:
    """A value's shape, with the sizes of another along some axes."""
    return tuple(shape[axis] if axis in axes else dim for axis, dim in enumerate(x.shape))


def _reverse(graph: Graph, eqn: Any, x: Value) -> Value:
    axes = np.array(eqn.params["dimensions"], np.int64)
    first, last, step = (np.full(len(axes), number, np.int64) for number in (-1, np.iinfo(np.int64).min, -1))
    return graph.like("Slice", x, first, last, axes, step)


def _pad(graph: Graph, eqn: Any, x: Value, value: Value) -> Value:
    low, high, between = zip(*eqn.params["padding_config"], strict=True)
    if any(between):
        raise NotImplementedError("padding between items")
    aval = eqn.outvars[0].aval
    x = expanded(graph, x, eqn.invars[0].aval.shape)
    return graph.add("Pad", x, graph.sizes([*low, *high]), value, shape=aval.shape, dtype=aval.dtype)


def _positions(graph: Graph, eqn: Any) -> Value:
    axis, shape = eqn.params["dimension"], eqn.params["shape"]
    positions = cast(graph, counted(graph, shape[axis]), eqn.params["dtype"])
    return unsqueezed(graph, positions, [i for i in range(len(shape)) if i != axis])


def _size(graph: Graph, eqn: Any) -> Value:
    return cast(graph, scalar_size(graph, eqn.params["dim"]), eqn.outvars[0].aval.dtype)


def _gather(graph: Graph, eqn: Any, x: Value, indices: Value) -> Value:
    """Items along one axis: of a table, or of each row of a batch."""
    n, sizes, shape = eqn.params["dimension_numbers"], eqn.params["slice_sizes"], eqn.invars[0].aval.shape
    batch = tuple(range(len(n.operand_batching_dims)))
    (axis,) = n.start_index_map if len(n.start_index_map) == 1 else (-1,)
    rest = [i for i in range(len(shape)) if i != axis and i not in batch]
    is_simple = tuple(n.collapsed_slice_dims) == (axis,) and all(same_size(sizes[i], shape[i]) for i in rest)
    if not is_simple or tuple(n.operand_batching_dims) != batch or tuple(n.start_indices_batching_dims) != batch:
        raise NotImplementedError("a gather of parts, or along several axes")
    x, indices = _expanded_inputs(graph, eqn, (x, indices))
    if eqn.params["mode"] == jax.lax.GatherScatterMode.CLIP:
        indices = graph.like("Max", indices, np.array(0, indices.dtype))
        last = graph.like(
            "Sub", cast(graph, scalar_size(graph, shape[axis]), indices.dtype), np.array(1, indices.dtype)
        )
        indices = graph.like("Min", indices, last)
    if batch:
        x = transposed(graph, x, (*batch, axis, *rest))
        indices, first = cast(graph, indices, np.int64), 0
        after = (*indices.shape[:-1], *(shape[i] for i in rest))
        y = graph.add("GatherND", x, indices, shape=after, dtype=x.dtype, batch_dims=len(batch))
    else:
        indices, first = squeezed(graph, indices, [len(indices.shape) - 1]), axis
        after = (*shape[:axis], *indices.shape, *shape[axis + 1 :])
        y = graph.add("Gather", x, indices, shape=after, dtype=x.dtype, axis=axis)
    places = len(after) - len(rest)  # axes of the indices
    index_axes = iter(range(first, first + places))
    kept_axes = iter([i for i in range(len(after)) if not first <= i < first + places])
    return transposed(graph, y, [next(kept_axes if i in n.offset_dims else index_axes) for i in range(len(after))])


def _scatter(reduction: str, graph: Graph, eqn: Any, *inputs: Value) -> Value:
    """Items put along the first axis, or the first after a batch axis."""
    n, avals = eqn.params["dimension_numbers"], [var.aval for var in eqn.invars]
    batch = tuple(range(len(n.operand_batching_dims)))
    rank, axis = len(avals[1].shape) - 1, (len(batch),)
    is_simple = tuple(n.inserted_window_dims) == axis == tuple(n.scatter_dims_to_operand_dims)
    is_simple &= tuple(n.update_window_dims) == tuple(range(rank, len(avals[2].shape))) and len(batch) < 2
    if not is_simple or not tuple(n.operand_batching_dims) == tuple(n.scatter_indices_batching_dims) == batch:
        raise NotImplementedError("a scatter of parts, or along several axes")
    x, indices, updates = _expanded_inputs(graph, eqn, inputs)
    indices = cast(graph, indices, np.int64)
    if batch:  # of which ScatterND wants the index too
        rows = unsqueezed(graph, counted(graph, x.shape[0]), range(1, rank + 1))
        rows = expanded(graph, rows, (*indices.shape[:-1], 1))
        indices = graph.add("Concat", rows, indices, shape=(*indices.shape[:-1], 2), dtype=np.int64, axis=-1)
    return graph.like("ScatterND", x, indices, updates, reduction=reduction)


def _largest(graph: Graph, eqn: Any, x: Value) -> list[Value]:
    x, k = expanded(graph, x, eqn.invars[0].aval.shape), eqn.params["k"]
    values, indices = graph.node("TopK", x, np.array([k]), outputs=2, axis=-1)
    shape = (*x.shape[:-1], k)
    return [Tensor(values, shape, x.dtype), cast(graph, Tensor(indices, shape, np.dtype(np.int64)), np.int32)]


MOVEMENT: dict[str, Rule] = {
    "broadcast_in_dim": _broadcast,
    "concatenate": _concatenation,
    "dim_as_value": _size,
    "gather": _gather,
    "iota": _positions,
    "pad": _pad,
    "reshape": _reshape,
    "rev": _reverse,
    "scatter": partial(_scatter, "none"),
    "scatter-add": partial(_scatter, "add"),
    "scatter-max": partial(_scatter, "max"),
    "slice": _slice,
    "split": _split,
    "squeeze": _squeeze,
    "top_k": _largest,
    "transpose": _transpose,
}
