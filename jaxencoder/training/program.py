"""What a jitted function takes, told before it runs: matrix products of its traced form, bytes of its compiled form.

XLA's own count of FLOPs (`cost_analysis`) takes the body of a loop once, however often it runs: a scan over 12 layers
has those of one. So the products are counted in the jaxpr, where a scan's length is known. They are those of any
platform; bytes are of the one that it is compiled for.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
from jax.extend import core

_ON_CPU = {
    # A product fused with a softmax into one call of a library keeps the scores where XLA's account of memory does not
    # see them: 27 MiB instead of 149 for the scores and weights of 4 heads and 2,048 tokens.
    "xla_cpu_experimental_ynn_fusion_type": "",
    # What LLVM makes of the compiled loops changes no buffer, and is 40% of the time to compile.
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
}


class Program(NamedTuple):
    """A compiled function.

    Attributes:
        flops: of its matrix products on all devices, two for a multiplication and an addition; what is recomputed
            counts again. Elementwise work, sums and lookups are left out.
        arguments: bytes of its arguments, on one device.
        outputs: bytes of its results, likewise; those that take the place of a donated argument are counted too.
        temporaries: bytes that XLA sets aside for everything in between, likewise; on a CPU as if no products were
            fused with what follows them.
    """

    flops: float
    arguments: int
    outputs: int
    temporaries: int


def program(function: Callable, *arguments: Any) -> Program:
    """Trace and compile a function of `jax.jit`, without running it.

    Args:
        function: what `jax.jit` returned.
        arguments: arrays or ShapeDtypeStructs.
    """
    traced = function.trace(*arguments)
    options = _ON_CPU if jax.default_backend() == "cpu" else None
    memory = traced.lower().compile(options).memory_analysis()
    return Program(
        product_flops(traced.jaxpr.jaxpr),
        memory.argument_size_in_bytes,
        memory.output_size_in_bytes,
        memory.temp_size_in_bytes,
    )


def product_flops(jaxpr: core.Jaxpr) -> float:
    """FLOPs of the matrix products and convolutions of a jaxpr.

    The body of a scan counts as often as it runs, that of a `shard_map` on each of its devices, and that of a kernel
    at each place of its grid, unless the kernel says itself what it takes; of branches the dearest counts. The body of
    a `while`, whose rounds only the data tells, counts once.
    """
    return sum(map(_flops, jaxpr.eqns))


def _flops(equation: core.JaxprEqn) -> float:
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
    inner = [product_flops(jaxpr) for jaxpr in _inner(params)]
    if name == "cond":
        return max(inner)
    return _times(name, params) * sum(inner)


def _times(name: str, params: dict[str, Any]) -> int:
    """How often the body of an equation runs."""
    if name == "scan":
        return params["length"]
    if name == "shard_map":
        return math.prod(params["mesh"].shape[axis] for axis in params["newly_manual_axes"])
    if name == "pallas_call":
        return math.prod(size for size in params["grid_mapping"].grid if isinstance(size, int))
    return 1


def _inner(params: dict[str, Any]) -> Iterator[core.Jaxpr]:
    for value in params.values():
        for part in value if isinstance(value, tuple | list) else (value,):
            if isinstance(part, core.ClosedJaxpr):
                yield part.jaxpr
            elif isinstance(part, core.Jaxpr):
                yield part
