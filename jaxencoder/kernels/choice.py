"""Choice of the backend that computes a layer's attention, by the layer, the length of its rows and the device."""

import logging
from functools import cache
from typing import get_args

from jaxencoder.kernels.banded import band_size
from jaxencoder.kernels.inputs import AttentionOptions, Backend, Name
from jaxencoder.kernels.platform import platform
from jaxencoder.kernels.single_pass import unfit

log = logging.getLogger(__name__)

LOCAL: set[Name] = {"dense", "banded", "single_pass", "splash"}  # backends that a layer with a window can request
GLOBAL: set[Name] = {"dense", "chunked", "single_pass", "splash", "tiled", "triton"}
# Pallas kernels, fastest first, and their platforms; XLA's partitioner cannot split them over a mesh.
KERNELS: dict[Name, str] = {"single_pass": "tpu", "splash": "tpu", "tiled": "tpu", "triton": "gpu"}
# Row lengths up to which all scores in memory are as fast: without and with terms by distance.
_SHORT, _SHORT_RELATIVE = 256, 128


def choose_backend(
    options: AttentionOptions,
    T: int,
    *,
    relative: bool = False,
    global_tokens: bool = False,
    hidden_keys: bool = False,
    length_shards: int = 1,
    tiled_fits: bool = True,
    triton_runs: bool = True,
) -> Name:
    """The backend of a layer for rows of T tokens.

    A requested backend holds for the layers that support it (see `LOCAL` and `GLOBAL`); for others the choice is that
    of `auto`. ValueError for an unknown backend, or one that does not support what else the layer has.

    Args:
        relative: whether the scores have terms by distance.
        global_tokens: whether some tokens see the whole document in spite of the window.
        hidden_keys: whether no query sees some tokens.
        length_shards: devices that share the length of a row.
        tiled_fits, triton_runs: whether `tiled.fits` the row, and `triton.runs` on the GPUs in use.
    """
    backend, window = options.backend, options.window
    if backend not in get_args(Backend):
        raise ValueError(f"The attention backend is {backend!r}; use auto, {', '.join(get_args(Name))}.")
    if global_tokens:
        return "dense" if backend == "dense" or (backend == "auto" and band_size(window) >= T) else "banded"

    def unsupported(name: Name, length: str = "this long") -> str:  # empty if a backend supports all of the layer
        if name in ("single_pass", "splash", "triton") and (relative or options.dropout):
            return "terms by distance" if relative else f"dropout {options.dropout} of attention weights"
        if name == "tiled" and options.causal:
            return "causal attention"
        if name in ("single_pass", "triton") and length_shards > 1:
            return f"rows that {length_shards} devices share"
        if name == "single_pass" and (reason := unfit(T, window)):
            return reason
        if name == "splash" and options.causal and not window and length_shards > 1:
            return f"causal attention over rows that {length_shards} devices share"  # its masks are static
        if name == "triton" and hidden_keys:
            return "tokens that no token attends to"
        if name == "triton" and not triton_runs:
            return "these GPUs or this jax version: it needs compute capability 8.0 (Ampere) or higher"
        return f"rows {length}" if name == "tiled" and not tiled_fits else ""

    if backend in (supporting := LOCAL if window else GLOBAL):
        if missing := unsupported(backend, f"of {T} tokens"):
            raise ValueError(f"The attention backend {backend!r} does not support {missing}; use auto.")
        return backend
    if (band_size(window) if window else _SHORT_RELATIVE if relative else _SHORT) >= T:
        return "dense"
    kernels: list[Name] = [name for name, kind in KERNELS.items() if kind == platform() and name in supporting]
    for name in kernels:
        if not unsupported(name):
            return name
    slower: Name = "banded" if window else "chunked"
    if kernels:
        _warn_slower(slower, f"{kernels[-1]!r} does not support {unsupported(kernels[-1])}")
    return slower


@cache  # once for all layers, and for all row lengths
def _warn_slower(backend: Name, reason: str) -> None:
    log.warning("Attention is computed by the slower backend %r: %s.", backend, reason)
