"""Rules for elementwise operations, reductions and products.

A rule takes the graph, the equation of jax and its inputs, and returns the output. Values are broadcast as late as ONNX
allows: an elementwise node broadcasts by itself, so that most copies are never made.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from jaxencoder.export.onnx_graph import Graph, Value
from jaxencoder.export.onnx_values import (
    as_numbers,
    cast,
    common_shape,
    expanded,
    expanded_along,
    reshaped,
    transposed,
)

Rule = Callable[..., Value | list[Value]]

_NODES = {
    "abs": "Abs", "add": "Add", "add_any": "Add", "ceil": "Ceil", "cos": "Cos", "eq": "Equal",
    "erf": "Erf", "exp": "Exp", "floor": "Floor", "ge": "GreaterOrEqual", "gt": "Greater", "le": "LessOrEqual",
    "log": "Log", "logistic": "Sigmoid", "lt": "Less", "min": "Min", "mul": "Mul", "neg": "Neg",
    "pow": "Pow", "sign": "Sign", "sin": "Sin", "sqrt": "Sqrt", "sub": "Sub", "tanh": "Tanh",
}  # fmt: skip


def _node(op: str, graph: Graph, eqn: Any, *inputs: Value) -> Value:
    return graph.add(op, *inputs, shape=common_shape(inputs), dtype=eqn.outvars[0].aval.dtype)


def _logical(op: str, graph: Graph, eqn: Any, *inputs: Value) -> Value:
    if any(x.dtype != np.bool_ for x in inputs):
        raise NotImplementedError(f"{op.lower()} of the bits of numbers")
    return _node(op, graph, eqn, *inputs)


def _not_equal(graph: Graph, eqn: Any, *inputs: Value) -> Value:
    return graph.like("Not", graph.add("Equal", *inputs, shape=common_shape(inputs), dtype=np.bool_))


def _reciprocal_root(graph: Graph, eqn: Any, x: Value) -> Value:
    return graph.like("Reciprocal", graph.like("Sqrt", x))


def _square(graph: Graph, eqn: Any, x: Value) -> Value:
    return graph.like("Mul", x, x)


def _integer_power(graph: Graph, eqn: Any, x: Value) -> Value:
    return graph.like("Pow", x, np.array(eqn.params["y"], x.dtype))


def _log_of_one_more(graph: Graph, eqn: Any, x: Value) -> Value:
    return graph.like("Log", graph.like("Add", x, np.array(1, x.dtype)))


def _complementary_erf(graph: Graph, eqn: Any, x: Value) -> Value:
    y = graph.like("Erf", x)
    return graph.add("Sub", np.array(1, x.dtype), y, shape=x.shape, dtype=x.dtype)


def _choice(graph: Graph, eqn: Any, which: Value, *cases: Value) -> Value:
    if which.dtype != np.bool_:
        raise NotImplementedError(f"a choice of one of {len(cases)}")
    return graph.add("Where", which, *cases[::-1], shape=common_shape([which, *cases]), dtype=cases[0].dtype)


def _clamp(graph: Graph, eqn: Any, low: Value, x: Value, high: Value) -> Value:
    y = graph.add("Max", x, low, shape=common_shape([x, low]), dtype=x.dtype)
    return graph.add("Min", y, high, shape=common_shape([y, high]), dtype=x.dtype)


def _maximum(graph: Graph, eqn: Any, x: Value, y: Value) -> Value:
    if isinstance(x, np.ndarray) and x.ndim == 0 and x == -np.inf:  # where the maximum of a softmax starts
        return y
    return _node("Max", graph, eqn, x, y)


def _quotient(graph: Graph, eqn: Any, x: Value, y: Value) -> Value:
    """A quotient, or the softmax that it ends: exp(x - max(x)) / sum(exp(x - max(x)))."""
    if (softmax := _softmax(graph, graph.name(x), graph.name(y))) is not None:
        scores, axis = softmax
        return graph.add("Softmax", scores, shape=x.shape, dtype=x.dtype, axis=axis)
    return _node("Div", graph, eqn, x, y)


def _softmax(graph: Graph, numerator: str, denominator: str) -> tuple[str, int] | None:
    """The scores and the axis of a softmax, if that is what a quotient is; None if not."""
    (exponent,) = graph.inputs_of("Exp", numerator) or ("",)
    scores, maximum = graph.inputs_of("Sub", exponent) or ("", "")
    summed, axes = _reduced(graph, "ReduceSum", denominator)
    largest, same_axes = _reduced(graph, "ReduceMax", maximum)
    if not scores or largest != scores or summed != numerator or axes != same_axes or graph.array(axes).size > 1:
        return None
    return scores, int(graph.array(axes).item())


def _reduced(graph: Graph, op: str, name: str) -> tuple[str, str]:
    """What a value is a sum or maximum of, with the axes kept, and the name of the axes; "" for another value."""
    kept, same_axes = graph.inputs_of("Unsqueeze", name) or ("", "")
    source, axes = graph.inputs_of(op, kept) or ("", "")
    return (source, axes) if axes == same_axes else ("", "")


def _reduction(op: str, graph: Graph, eqn: Any, x: Value) -> Value:
    axes = eqn.params["axes"]
    x = as_numbers(graph, expanded_along(graph, x, eqn.invars[0].aval.shape, axes))
    shape = tuple(dim for axis, dim in enumerate(x.shape) if axis not in axes)
    y = graph.add(op, x, np.array(axes, np.int64), shape=shape, dtype=x.dtype, keepdims=0)
    return cast(graph, y, eqn.outvars[0].aval.dtype)


def _index_of(op: str, graph: Graph, eqn: Any, x: Value) -> Value:
    (axis,) = eqn.params["axes"]
    x = as_numbers(graph, expanded_along(graph, x, eqn.invars[0].aval.shape, [axis]))
    shape = x.shape[:axis] + x.shape[axis + 1 :]
    y = graph.add(op, x, shape=shape, dtype=np.int64, axis=axis, keepdims=0)
    return cast(graph, y, eqn.params["index_dtype"])


def _cumulative_sum(graph: Graph, eqn: Any, x: Value) -> Value:
    axis = eqn.params["axis"]
    x = expanded_along(graph, x, eqn.invars[0].aval.shape, [axis])
    return graph.like("CumSum", x, np.array(axis), reverse=int(eqn.params["reverse"]))


def _cast(graph: Graph, eqn: Any, x: Value) -> Value:
    return cast(graph, x, eqn.params["new_dtype"])


def _product(graph: Graph, eqn: Any, a: Value, b: Value) -> Value:
    """A MatMul [..., M, K] x [..., K, N]; all but the last of the left factor's free axes are batch axes."""
    (a_sums, b_sums), (a_batch, b_batch) = eqn.params["dimension_numbers"]
    a, b = (expanded(graph, x, var.aval.shape) for x, var in zip((a, b), eqn.invars, strict=True))
    a_free = [axis for axis in range(len(a.shape)) if axis not in (*a_sums, *a_batch)]
    b_free = [axis for axis in range(len(b.shape)) if axis not in (*b_sums, *b_batch)]
    a, b = transposed(graph, a, (*a_batch, *a_free, *a_sums)), transposed(graph, b, (*b_batch, *b_sums, *b_free))
    batches, frees, sums = len(a_batch), len(a_free), len(a_sums)
    batch, rows = a.shape[:batches], a.shape[batches : batches + frees]
    columns, summed = b.shape[batches + sums :], math.prod(b.shape[batches : batches + sums])
    a = reshaped(graph, a, (*batch, *(rows or (1,)), summed))
    shared = (1,) * (frees - 1) if batches else ()  # without a batch, ONNX shares the right factor by itself
    b = reshaped(graph, b, (*batch, *shared, summed, math.prod(columns)))
    shape = (*batch, *(rows or (1,)), math.prod(columns))
    y = graph.add("MatMul", a, b, shape=shape, dtype=eqn.outvars[0].aval.dtype)
    return reshaped(graph, y, (*batch, *rows, *columns))


ELEMENTWISE: dict[str, Rule] = {
    **{name: partial(_node, op) for name, op in _NODES.items()},
    **{op.lower(): partial(_logical, op) for op in ("And", "Not", "Or")},
    "clamp": _clamp,
    "convert_element_type": _cast,
    "div": _quotient,
    "erfc": _complementary_erf,
    "integer_pow": _integer_power,
    "log1p": _log_of_one_more,
    "max": _maximum,
    "ne": _not_equal,
    "rsqrt": _reciprocal_root,
    "select_n": _choice,
    "square": _square,
}
REDUCTIONS: dict[str, Rule] = {  # and products, which are sums
    "argmax": partial(_index_of, "ArgMax"),
    "argmin": partial(_index_of, "ArgMin"),
    "cumsum": _cumulative_sum,
    "dot_general": _product,
    "reduce_and": partial(_reduction, "ReduceMin"),
    "reduce_max": partial(_reduction, "ReduceMax"),
    "reduce_min": partial(_reduction, "ReduceMin"),
    "reduce_or": partial(_reduction, "ReduceMax"),
    "reduce_sum": partial(_reduction, "ReduceSum"),
}
