"""Pallas kernels of a traced program: how often they run on a device, and the FLOPs of their products."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from jax.extend import core

from jaxencoder.describe.plan.devices import Topology
from jaxencoder.training.program import product_flops, repetitions


class KernelCall(NamedTuple):
    """Calls of a kernel in one place of a program.

    Attributes:
        count: on one device.
        flops: of the products of all these calls.
        masks: whether it computes a mask from positions, as for windows, which takes long.
    """

    name: str
    count: int
    flops: float
    masks: bool


def kernel_calls(jaxpr: core.Jaxpr, count: int = 1) -> Iterator[KernelCall]:
    """The kernels of a program for `count` runs of it on one device."""
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        if name == "pallas_call":
            flops = product_flops(jaxpr.replace(eqns=[equation]))
            title = params["name"] or params["name_and_src_info"].name
            yield KernelCall(title, count, count * flops, "iota" in _primitives(params["jaxpr"]))
            continue
        times = 1 if name == "shard_map" else repetitions(name, params)
        for inner in core.jaxprs_in_params(params):
            yield from kernel_calls(inner, count * times)


def _primitives(jaxpr: core.Jaxpr) -> set[str]:
    """Names of all primitives of a jaxpr."""
    names = {equation.primitive.name for equation in jaxpr.eqns}
    inner = [x for equation in jaxpr.eqns for x in core.jaxprs_in_params(equation.params)]
    return names.union(*map(_primitives, inner))


# Share of a chip's peak that the products of a kernel reach, by the compiler's own schedule of its instructions, for
# heads of 64: benchmarks/kernel_schedules.py, whose table is in benchmarks/README.md. The peak of a v5p is that of its
# two cores, of which some kernels use one.
_SHARES = {
    "v5e": {
        "single_pass_global_forward": 0.77, "single_pass_global_backward": 0.90,
        "single_pass_local_forward": 0.76, "single_pass_local_backward": 0.78,
        "splash_mha_fwd": 0.32, "splash_mha_dkv": 0.49, "splash_mha_dq": 0.50,
        "splash_mha_fwd, masked": 0.16, "splash_mha_dkv, masked": 0.38, "splash_mha_dq, masked": 0.31,
        "tiled_forward": 0.31, "tiled_backward": 0.42,
    },
    "v5p": {
        "single_pass_global_forward": 0.80, "single_pass_global_backward": 0.90,
        "single_pass_local_forward": 0.67, "single_pass_local_backward": 0.37,
        "splash_mha_fwd": 0.31, "splash_mha_dkv": 0.24, "splash_mha_dq": 0.25,
        "splash_mha_fwd, masked": 0.13, "splash_mha_dkv, masked": 0.16, "splash_mha_dq, masked": 0.14,
        "tiled_forward": 0.15, "tiled_backward": 0.20,
    },
    "v6e": {
        "single_pass_global_forward": 0.34, "single_pass_global_backward": 0.39,
        "single_pass_local_forward": 0.30, "single_pass_local_backward": 0.23,
        "splash_mha_fwd": 0.12, "splash_mha_dkv": 0.20, "splash_mha_dq": 0.19,
        "splash_mha_fwd, masked": 0.05, "splash_mha_dkv, masked": 0.11, "splash_mha_dq, masked": 0.09,
        "tiled_forward": 0.10, "tiled_backward": 0.15,
    },
}  # fmt: skip
_ASSUMED = 0.15  # of kernels and chips that are not in the table


def kernel_seconds(jaxpr: core.Jaxpr, place: Topology) -> dict[str, float]:
    """Seconds of one call of each kernel by name, averaged over the places where it is called."""
    seconds: dict[str, float] = defaultdict(float)
    counts: Counter[str] = Counter()
    for call in kernel_calls(jaxpr):
        seconds[call.name] += call.flops / (place.chip.peak * _share(call, place.name.partition(":")[0]))
        counts[call.name] += call.count
    return {name: number / counts[name] for name, number in seconds.items()}


def _share(call: KernelCall, generation: str) -> float:
    shares = _SHARES.get(generation, {})
    name = next((name for name in shares if name in call.name), call.name)
    return shares.get(f"{name}, masked" if call.masks else name, shares.get(name, _ASSUMED))
