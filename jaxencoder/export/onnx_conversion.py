"""A traced function as a graph of ONNX.

Loops over layers are unrolled, with each layer's own constants; what depends on parameters alone is computed here.
Norms and GELU become the one node that runtimes have for each.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import onnx
from jax.extend.core import Jaxpr, Literal

from jaxencoder.export.onnx_arithmetic import ELEMENTWISE, REDUCTIONS
from jaxencoder.export.onnx_graph import Graph, Shape, Tensor, Value
from jaxencoder.export.onnx_movement import MOVEMENT
from jaxencoder.export.onnx_values import cast, expanded, is_known, unsqueezed
from jaxencoder.version import __version__

_RULES = ELEMENTWISE | REDUCTIONS | MOVEMENT
# Primitives that call a traced function -> the parameter that holds it.
_CALLS = {name: "call_jaxpr" for name in ("closed_call", "custom_jvp_call", "custom_vjp_call")} | {"jit": "jaxpr"}
_IDENTITIES = {"copy", "name", "optimization_barrier", "sharding_constraint", "stop_gradient"}


def convert(function: Callable[..., Mapping[str, jax.Array]], inputs: Mapping[str, Shape]) -> onnx.ModelProto:
    """The graph of a function.

    Args:
        function: of int32 arrays, one for each of `inputs` in order; it returns arrays by name.
        inputs: name -> shape, with symbolic sizes (`jax.export.symbolic_shape`). They are int64 in the graph.

    Raises:
        ValueError: the function does what has no rule here.
    """
    arguments = [jax.ShapeDtypeStruct(shape, np.int32) for shape in inputs.values()]
    closed, names = jax.make_jaxpr(function, return_shape=True)(*arguments)
    graph = Graph(inputs.items())
    try:
        values = _evaluated(graph, closed.jaxpr, closed.consts, [cast(graph, x, np.int32) for x in graph.inputs])
    except NotImplementedError as error:
        raise ValueError(f"this model cannot be exported to ONNX: {error} has no form there") from error
    outputs = {}
    for name, x, aval in zip(sorted(names), values, closed.out_avals, strict=True):  # jax sorts the names of a mapping
        outputs[name] = expanded(graph, x, aval.shape)
    return graph.model({name: outputs[name] for name in names}, ("jaxencoder", __version__))


def _evaluated(graph: Graph, jaxpr: Jaxpr, constants: Any, arguments: list[Value]) -> list[Value]:
    """The values of a traced function's outputs."""
    values: dict[Any, Value] = dict(zip(jaxpr.invars, arguments, strict=True))
    values |= {var: _known(x) for var, x in zip(jaxpr.constvars, constants, strict=True)}

    def read(atom: Any) -> Value:
        aval: Any = atom.aval
        return np.asarray(atom.val, aval.dtype) if isinstance(atom, Literal) else values[atom]

    for eqn in jaxpr.eqns:
        results = _results(graph, eqn, [read(x) for x in eqn.invars])
        values.update(zip(eqn.outvars, results, strict=True))
    return [read(x) for x in jaxpr.outvars]


def _results(graph: Graph, eqn: Any, inputs: list[Value]) -> list[Value]:
    name = eqn.primitive.name
    if name in _IDENTITIES:
        return inputs
    if name == "scan":
        return _unrolled(graph, eqn, inputs)
    if name in _CALLS:
        inner = eqn.params[_CALLS[name]]
        is_fused = name == "custom_vjp_call" and inputs and isinstance(inputs[0], Tensor)
        rule = _FUNCTIONS.get(getattr(inner.jaxpr.debug_info, "func_name", "")) if is_fused else None
        result = rule(graph, inner.jaxpr, *inputs) if rule else None
        return _evaluated(graph, inner.jaxpr, inner.consts, inputs) if result is None else [result]
    if not any(isinstance(x, Tensor) for x in inputs) and (computed := _computed(eqn, inputs)) is not None:
        return computed
    if name not in _RULES:
        raise NotImplementedError(name)
    result = _RULES[name](graph, eqn, *inputs)
    return result if isinstance(result, list) else [result]


def _computed(eqn: Any, inputs: list[Any]) -> list[Any] | None:
    """The results of an operation on constants; None if a size in it is not known."""
    if eqn.primitive.name in ELEMENTWISE:
        inputs = list(np.broadcast_arrays(*inputs))
    else:
        shapes = [getattr(var.aval, "shape", ()) for var in (*eqn.invars, *eqn.outvars)]
        if eqn.primitive.name == "dim_as_value" or not all(map(is_known, shapes)):
            return None
        # Broadcast now, if that was still to be done; keys of random numbers never are.
        is_array = [isinstance(x, np.ndarray) for x in inputs]
        inputs = [np.broadcast_to(x, shape) if a else x for x, shape, a in zip(inputs, shapes, is_array, strict=False)]
    results = eqn.primitive.bind(*inputs, **eqn.params)
    return [_known(x) for x in (results if eqn.primitive.multiple_results else [results])]


def _known(x: Any) -> Any:
    """An array of numpy; keys of random numbers, of dropout that never runs, stay with jax."""
    if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        return x
    return np.asarray(x)


def _unrolled(graph: Graph, eqn: Any, inputs: list[Value]) -> list[Value]:
    """The results of a loop, one iteration after another."""
    p, body = eqn.params, eqn.params["jaxpr"]
    consts, carries = p["num_consts"], p["num_carry"]
    fixed, carry, stacks = inputs[:consts], inputs[consts : consts + carries], inputs[consts + carries :]
    collected: list[list[Value]] = []
    step = -1 if p["reverse"] else 1
    for i in range(p["length"])[::step]:
        items = [_item(graph, x, i) for x in stacks]
        results = _evaluated(graph, body.jaxpr, body.consts, [*fixed, *carry, *items])
        carry = results[:carries]
        collected.append(results[carries:])
    columns = zip(*collected[::step], strict=True)
    return [*carry, *(_stack(graph, x, var.aval) for x, var in zip(columns, eqn.outvars[carries:], strict=False))]


def _item(graph: Graph, x: Any, i: int) -> Any:
    """An item of a stack, whose first axis may still be broadcast."""
    i = 0 if x.shape[0] == 1 else i
    if not isinstance(x, Tensor):
        return x[i]
    return graph.add("Gather", x, np.array(i), shape=x.shape[1:], dtype=x.dtype, axis=0)


def _stack(graph: Graph, items: tuple[Value, ...], aval: Any) -> Value:
    parts = [unsqueezed(graph, expanded(graph, x, aval.shape[1:]), [0]) for x in items]
    return graph.add("Concat", *parts, shape=aval.shape, dtype=aval.dtype, axis=0)


# Functions with a node of their own, told by their names: without it, their operations are converted.


def _layer_norm(graph: Graph, jaxpr: Jaxpr, x: Tensor, *weights: Value) -> Value | None:
    """`jaxencoder.kernels.gradients.normalize`; None for an RMS norm, which begins with a square."""
    if jaxpr.eqns[0].primitive.name != "reduce_sum":
        return None
    sums = [eqn.invars[1] for eqn in jaxpr.eqns if eqn.primitive.name == "add"]
    epsilon = next(x.val for x in sums if isinstance(x, Literal))
    return graph.like("LayerNormalization", x, *weights, epsilon=float(epsilon))


def _gelu(graph: Graph, jaxpr: Jaxpr, x: Tensor) -> Value:
    return graph.like("Gelu", x)


_FUNCTIONS: dict[str, Callable[..., Value | None]] = {"normalize": _layer_norm, "gelu": _gelu}
