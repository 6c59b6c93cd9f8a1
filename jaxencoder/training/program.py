"""The cost of a jitted function before it runs: FLOPs of its matrix products, and bytes of its compiled form.

XLA's own `cost_analysis` counts the body of a loop once, so that a scan over 12 layers has the FLOPs of one. Here
products are counted in the jaxpr, where a scan's length is known.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.extend import core

_ON_CPU = {
    # A product that is fused with a softmax into one library call keeps the scores where XLA's memory analysis misses
    # them: 27 MiB instead of 149 for the scores and weights of 4 heads and 2,048 tokens.
    "xla_cpu_experimental_ynn_fusion_type": "",
    # LLVM's optimizations change no buffer, and take 40% of the compile time.
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
}


class Program(NamedTuple):
    """A compiled function: FLOPs of the matrix products on all devices, and bytes per device."""

    flops: float  # two for a multiplication and an addition; recomputed products count again
    arguments: int
    outputs: int  # including those that reuse a donated argument
    temporaries: int  # on a CPU without the fusion of products


def program(function: Callable, *arguments: Any) -> Program:
    """Trace and compile a function of `jax.jit` for arguments, arrays or their shapes, without running it."""
    traced = function.trace(*arguments)
    options = _ON_CPU if jax.default_backend() == "cpu" else None
    memory = traced.lower().compile(options).memory_analysis()
    sizes = memory.argument_size_in_bytes, memory.output_size_in_bytes, memory.temp_size_in_bytes
    return Program(product_flops(traced.jaxpr.jaxpr), *sizes)


def product_flops(jaxpr: core.Jaxpr) -> float:
    """FLOPs of the matrix products and convolutions of a jaxpr.

    The body of a scan counts once per iteration, of a `shard_map` once per device, and of a kernel once per point of
    its grid, unless the kernel has its own cost estimate. Of branches the most expensive counts. The body of a `while`
    counts once, as the number of iterations depends on the data.
    """
    return sum(map(_flops, jaxpr.eqns))


def _flops(equation: Any) -> float:  # a JaxprEqn: jax's types have no shapes of its operands
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        shape = equation.invars[0].aval.shape
        return 2.0 * equation.outvars[0].aval.size * math.prod(shape[axis] for axis in contracted)
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval
        products = kernel.size // kernel.shape[params["dimension_numbers"].rhs_spec[0]]
        return 2.0 * equation.outvars[0].aval.size * products
    if name == "pallas_call" and params.get("cost_estimate") is not None:
        return float(params["cost_estimate"].flops)
    inner = [product_flops(jaxpr) for jaxpr in core.jaxprs_in_params(params)]
    if name == "cond":
        return max(inner)
    return repetitions(name, params) * sum(inner)


def repetitions(name: str, params: dict[str, Any]) -> int:
    """How many times the body of an equation runs."""
    if name == "scan":
        return params["length"]
    if name == "shard_map":
        return math.prod(params["mesh"].shape[axis] for axis in params["newly_manual_axes"])
    if name == "pallas_call":
        return math.prod(size for size in params["grid_mapping"].grid if isinstance(size, int))
    return 1
