"""Which backend computes a layer's attention: by what the layer is, how long its rows are, and where it runs."""

import logging
from functools import cache
from typing import Literal, get_args

from jaxencoder.kernels.banded import band_size
from jaxencoder.kernels.platform import platform

log = logging.getLogger(__name__)

Name = Literal["dense", "banded", "chunked", "splash", "tiled", "triton"]
Backend = Literal["auto", Name]

LOCAL = {"dense", "banded", "splash"}  # those that a layer with a window can be forced to
GLOBAL = {"dense", "chunked", "splash", "tiled", "triton"}
KERNELS = {"splash", "tiled", "triton"}  # written for one kind of device: XLA cannot split them over a mesh by itself
_PLAIN = {"splash", "triton"}  # without scores by distance and without dropout
# Tokens of a row up to which all scores in memory are as fast: without and with scores by distance.
_SHORT, _SHORT_RELATIVE = 256, 128


def choose_backend(
    backend: Backend,
    T: int,
    window: int = 0,
    *,
    relative: bool = False,
    dropout: float = 0.0,
    global_tokens: bool = False,
    split: int = 1,
    tiles: bool = True,
    triton: bool = True,
) -> Name:
    """The backend of a layer for rows of T tokens.

    Args:
        backend: what is asked for; it holds for the layers that it is meant for, and others are chosen as by `auto`:
            `banded` is for layers with a window, `chunked`, `tiled` and `triton` for those without one.
        window: of the layer; 0: it sees the whole document.
        relative: distances add to its scores.
        dropout: of its weights.
        global_tokens: it has some, beside its window.
        split: devices that share the length of a row.
        tiles: tiled attention has room for the row (`tiled.fits`).
        triton: the kernel for GPUs runs on those in use (`triton.runs`).

    Raises:
        ValueError: a backend that is meant for this layer and lacks what it needs, or that there is not.
    """
    if backend not in get_args(Backend):
        raise ValueError(f"The attention backend is {backend!r}; give auto, {', '.join(get_args(Name))}.")
    if global_tokens:
        return "dense" if backend == "dense" or (backend == "auto" and band_size(window) >= T) else "banded"
    if backend in (LOCAL if window else GLOBAL):
        if backend in _PLAIN and (relative or dropout):
            what = "scores by distance" if relative else f"dropout {dropout} of attention weights"
            raise ValueError(f"The attention backend {backend!r} has no {what}; use auto.")
        if backend == "triton" and split > 1:
            raise ValueError(f"The attention backend 'triton' takes whole rows, but mesh.context is {split}; use auto.")
        if backend == "triton" and not triton:
            raise ValueError(
                "The attention backend 'triton' needs NVIDIA GPUs of compute capability 8.0 (Ampere) or more, and a "
                "jax that has it; use auto."
            )
        return backend
    short = band_size(window) if window else _SHORT_RELATIVE if relative else _SHORT
    if short >= T:
        return "dense"
    device, plain = platform(), not relative and not dropout
    if device == "tpu":
        if plain:
            return "splash"
        if not window and tiles:
            return "tiled"
        why = "splash attention has neither dropout nor scores by distance"
        _slower("banded" if window else "chunked", why if window else "the row is too long for tiled attention")
    if device == "gpu" and not window:
        if plain and split == 1 and triton:
            return "triton"
        lacks = "dropout or scores by distance" if not plain else "rows split over devices" if split > 1 else "these"
        _slower("chunked", f"the kernel for GPUs is not made for {lacks}")
    return "banded" if window else "chunked"


@cache
def _slower(backend: Name, why: str) -> None:
    log.warning("Attention is computed by the slower backend %r: %s.", backend, why)
