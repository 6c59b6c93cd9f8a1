"""Choice of the backend that computes a layer's attention, by the layer, the length of its rows and the device."""

import logging
from functools import cache
from typing import get_args

from jaxencoder.kernels.banded import band_size
from jaxencoder.kernels.inputs import AttentionOptions, Backend, Name
from jaxencoder.kernels.platform import platform

log = logging.getLogger(__name__)

LOCAL: set[Name] = {"dense", "banded", "splash"}  # backends that a layer with a window can request
GLOBAL: set[Name] = {"dense", "chunked", "splash", "tiled", "triton"}
# Pallas kernels and their platforms; XLA's partitioner cannot split them over a mesh.
KERNELS = {"splash": "tpu", "tiled": "tpu", "triton": "gpu"}
_PLAIN = {"splash", "triton"}  # neither terms by distance nor dropout
# Row lengths up to which all scores in memory are as fast: without and with terms by distance.
_SHORT, _SHORT_RELATIVE = 256, 128


def choose_backend(
    options: AttentionOptions,
    T: int,
    *,
    relative: bool = False,
    global_tokens: bool = False,
    length_shards: int = 1,
    tiled_fits: bool = True,
    triton_runs: bool = True,
) -> Name:
    """The backend of a layer for rows of T tokens.

    A requested backend holds for the layers that support it; for other layers the choice is that of `auto`. `banded`
    is for layers with a window; `chunked`, `tiled` and `triton` for layers without one.

    Args:
        options: of the layer.
        T: tokens of a row.
        relative: whether its scores have terms by distance.
        global_tokens: whether some tokens see the whole document in spite of the window.
        length_shards: devices that share the length of a row.
        tiled_fits: whether tiled attention has room for the row (`tiled.fits`).
        triton_runs: whether the Triton kernel runs on the GPUs in use (`triton.runs`).

    Raises:
        ValueError: an unknown backend, or one that does not support this layer.
    """
    backend, window = options.backend, options.window
    if backend not in get_args(Backend):
        raise ValueError(f"The attention backend is {backend!r}; use auto, {', '.join(get_args(Name))}.")
    if global_tokens:
        return "dense" if backend == "dense" or (backend == "auto" and band_size(window) >= T) else "banded"
    if backend in (LOCAL if window else GLOBAL):
        _check_support(options, relative, length_shards, triton_runs)
        return backend
    short = band_size(window) if window else _SHORT_RELATIVE if relative else _SHORT
    if short >= T:
        return "dense"
    device, plain = platform(), not relative and not options.dropout
    if device == "tpu":
        if plain:
            return "splash"
        if not window and tiled_fits:
            return "tiled"
        reason = "splash attention has neither dropout nor terms by distance"
        _warn_slower("banded" if window else "chunked", reason if window else "the row is too long for tiled attention")
    if device == "gpu" and not window:
        if plain and length_shards == 1 and triton_runs:
            return "triton"
        missing = (
            "dropout or terms by distance"
            if not plain
            else "rows split over devices"
            if length_shards > 1
            else "these GPUs"
        )
        _warn_slower("chunked", f"the Triton kernel does not support {missing}")
    return "banded" if window else "chunked"


def _check_support(options: AttentionOptions, relative: bool, length_shards: int, triton_runs: bool) -> None:
    backend = options.backend
    if backend in _PLAIN and (relative or options.dropout):
        missing = "terms by distance" if relative else f"dropout {options.dropout} of attention weights"
        raise ValueError(f"The attention backend {backend!r} does not support {missing}; use auto.")
    if backend == "triton" and length_shards > 1:
        raise ValueError(f"The attention backend 'triton' needs whole rows, not {length_shards} parts; use auto.")
    if backend == "triton" and not triton_runs:
        raise ValueError(
            "The attention backend 'triton' needs NVIDIA GPUs of compute capability 8.0 (Ampere) or higher and a jax "
            "version that includes it; use auto."
        )


@cache
def _warn_slower(backend: Name, reason: str) -> None:
    log.warning("Attention is computed by the slower backend %r: %s.", backend, reason)
