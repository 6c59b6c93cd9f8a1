"""A model for longer texts than it was trained on, without training, by the methods that its positions allow.

docs/studies/length.md measures the methods and their costs. Some steps of training at the new length (recipe
`extend_length`) matter more than the choice of method.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from jaxencoder.checkpoints.changed import M, Written, changed, write_changed
from jaxencoder.checkpoints.convert import check_new
from jaxencoder.checkpoints.opening import open_checkpoint
from jaxencoder.model.config import EncoderConfig
from jaxencoder.model.positions import interpolate_positions, ntk_theta, repeat_positions

Method = Literal["interpolate", "tile", "linear", "ntk", "dynamic", "yarn", "none"]

# Kind of positions -> the methods that fit; for the other kinds see `_check`.
_METHODS = {"learned": ("interpolate", "tile"), "rotary": ("linear", "ntk", "dynamic", "yarn", "none")}
_TABLES = {"interpolate": interpolate_positions, "tile": repeat_positions}


def extend(
    source: str | Path,
    folder: str | Path,
    max_length: int,
    method: Method,
    factor: float | None = None,
    window: int = 0,
    global_tokens: bool = False,
) -> Written:
    """Write a model for longer texts; the other arguments are those of `extended`.

    Args:
        source: a folder of any kind, or a name on the Hugging Face hub.
        folder: the folder to write; empty or missing.

    Returns:
        The format: that of the source if it is published and a family can hold the new architecture, else a run.
    """
    folder = Path(folder)
    check_new(folder)
    return write_changed(extended(open_checkpoint(source), max_length, method, factor, window, global_tokens), folder)


def extended(
    model: M, max_length: int, method: Method, factor: float | None = None, window: int = 0, global_tokens: bool = False
) -> M:
    """Extend a model to longer texts.

    Args:
        model: a run, or a published model.
        max_length: tokens of a text, more than in training.
        method: for learned positions `interpolate` (new rows between the old ones) or `tile` (copies of them); for
            rotary ones `linear`, `dynamic`, `yarn` (see `EncoderConfig.rope_scaling`), `ntk` (a larger base) or `none`
            (unchanged); for ALiBi and relative positions `none`, and `interpolate` if far distances share buckets that
            grow (DeBERTa-v2), which then reach further.
        factor: of rotary scaling and of the buckets; None: max_length over the length of training.
        window: tokens to either side for the layers with full attention; 0: they keep full attention.
        global_tokens: with windows in all layers, add projections for tokens with global attention, initialized as
            copies of the others (Longformer: Beltagy et al. 2020, arXiv:2004.05150, section 5).

    Returns:
        The model, published if a family can hold it; see `changed`.

    Raises:
        ValueError: a method that does not fit the model (the message names those that do), a model that is scaled
            already, or a length, factor or window out of range.
    """
    config = model.config
    longest = max(part.data.text_limit for part in config.phase_configs)
    # Tokens of the longest text in training; for a published model, those of its config.json.
    trained = config.model.max_length if model.published else min(config.model.max_length, longest)
    if max_length <= trained:
        raise ValueError(f"max_length is {max_length}, but the model was trained on {trained} tokens; give more")
    _check(config.model, method, factor)
    architecture = dataclasses.replace(config.model, max_length=max_length)
    if window:
        architecture = _with_window(architecture, window)
    architecture = _with_method(architecture, method, max_length / trained if factor is None else factor, trained)
    encoder = model.params["encoder"]
    if architecture.positions == "learned":
        embeddings = encoder["embeddings"]
        table = np.asarray(embeddings["position_embedding"])[:trained]  # later rows were never trained
        encoder = encoder | {"embeddings": embeddings | {"position_embedding": _TABLES[method](table, max_length)}}
    if global_tokens and not architecture.global_tokens:
        architecture = dataclasses.replace(architecture, global_tokens=True)
        encoder = _with_global_projections(encoder)
    return changed(model, architecture, encoder, max_length)


def _check(config: EncoderConfig, method: str, factor: float | None) -> None:
    if method not in get_args(Method):
        raise ValueError(f"method {method!r} is unknown; give one of {', '.join(get_args(Method))}")
    relative = ("none", "interpolate") if config.max_distance else ("none",)
    if method not in (fit := _METHODS.get(config.positions, relative)):
        kind = {"none": "relative positions only"}.get(config.positions, f"{config.positions} positions")
        raise ValueError(f"the model has {kind}, which {method} does not extend; give {' or '.join(fit)}")
    if config.rope_scaling != "none" and method != "none":
        raise ValueError(f"the model is scaled already ({config.rope_scaling}); give none, or extend its original")
    scaled = method in ("linear", "ntk", "dynamic", "yarn") or (method == "interpolate" and config.max_distance)
    if factor is not None and not scaled:
        raise ValueError(f"factor is {factor}, but {method} takes none here; leave it out")
    if factor is not None and not factor >= 1:
        raise ValueError(f"factor is {factor}; give at least 1")


def _with_method(c: EncoderConfig, method: Method, factor: float, trained: int) -> EncoderConfig:
    """The architecture with its rotary positions or distance buckets scaled."""
    if method in ("linear", "dynamic", "yarn"):
        original = 0 if method == "linear" else trained
        return dataclasses.replace(c, rope_scaling=method, rope_factor=float(factor), rope_original_length=original)
    if method == "ntk":
        return dataclasses.replace(c, rope_theta=ntk_theta(c.rope_theta, c.head_size, factor))
    if method == "interpolate" and c.max_distance:
        return dataclasses.replace(c, max_distance=round(c.max_distance * factor))
    return c


def _with_window(c: EncoderConfig, window: int) -> EncoderConfig:
    if all(c.windows) or window < 0:
        raise ValueError(f"window is {window}, for layers with full attention, but model.windows is {c.windows}")
    scaled = c.rope_scaling != "none"
    same_angles = c.rope_theta == c.rope_theta_local and scaled == c.rope_scaling_local
    if c.positions == "rotary" and any(c.windows) and not same_angles:
        raise ValueError(
            f"layers with full attention rotate by other angles (rope_theta {c.rope_theta:g}) than layers with a "
            f"window ({c.rope_theta_local:g}), so they cannot get one; leave window out"
        )
    windows = tuple(side or window for side in c.windows)
    return dataclasses.replace(c, windows=windows, rope_theta_local=c.rope_theta, rope_scaling_local=scaled)


def _with_global_projections(params: Mapping[str, Any]) -> dict[str, Any]:
    """Each attention with copies of its projections for global tokens."""
    copy = {name: _with_global_projections(x) if isinstance(x, Mapping) else x for name, x in params.items()}
    if attention := copy.get("attention"):
        copy["attention"] = attention | {f"global_{name}": attention[name] for name in ("query", "key", "value")}
    return copy
