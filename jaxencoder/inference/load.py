"""Opening a model on disk for use on this process's devices."""

import dataclasses
from pathlib import Path
from typing import Any, Literal

import jax

from jaxencoder.checkpoints.checkpoint import Checkpoint
from jaxencoder.checkpoints.opening import open_checkpoint
from jaxencoder.inference.model import OpenedModel
from jaxencoder.kernels.platform import before_ampere
from jaxencoder.model.config import ComputeConfig


def load(
    path: str | Path,
    dtype: Literal["float32", "bfloat16"] | None = None,
    step: int | Literal["latest", "best"] = "latest",
    revision: str | None = None,
    kind: type[OpenedModel] = OpenedModel,
) -> OpenedModel:
    """Open a model as a `kind`; see `jaxencoder.api.load`."""
    return opened_checkpoint(open_checkpoint(path, step, revision), dtype, kind)


def opened_checkpoint(
    checkpoint: Checkpoint,
    dtype: Literal["float32", "bfloat16"] | None = None,
    kind: type[OpenedModel] = OpenedModel,
) -> OpenedModel:
    """A checkpoint in memory, opened as by `load`."""
    config = (checkpoint.base or checkpoint).config
    if dtype is None:
        dtype = "float32" if jax.default_backend() == "cpu" or before_ampere() else config.compute.dtype
    if dtype not in ("float32", "bfloat16"):
        raise ValueError(f"dtype is {dtype!r}; give float32 or bfloat16")
    return _opened(checkpoint, dataclasses.replace(config.compute, dtype=dtype, remat="none"), kind)


def opened(model: str | Path | OpenedModel) -> OpenedModel:
    """The model itself, or the model of a folder or name."""
    return model if isinstance(model, OpenedModel) else load(model)


def _opened(checkpoint: Checkpoint, compute: ComputeConfig, kind: type[OpenedModel]) -> OpenedModel:
    values: dict[str, Any] = {field.name: getattr(checkpoint, field.name) for field in dataclasses.fields(checkpoint)}
    values |= {name: _opened(x, compute, kind) for name, x in values.items() if isinstance(x, Checkpoint)}
    return kind(**values, compute=compute)
