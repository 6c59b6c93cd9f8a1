"""A model for longer texts than it was trained on, without training: what its way of knowing places allows.

Which way is best, and what each costs, is measured in docs/studies/length.md; some steps of training at the new length
(recipe `extend_length`) are worth more than the choice.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import numpy as np

from jaxencoder.checkpoints.checkpoint import Checkpoint
from jaxencoder.checkpoints.convert import check_new, write_run
from jaxencoder.checkpoints.save import save
from jaxencoder.families.longformer import LONGFORMER
from jaxencoder.families.published import Published, can_hold
from jaxencoder.families.roberta import CAMEMBERT, ROBERTA, XLM_ROBERTA
from jaxencoder.inference.load import load
from jaxencoder.model.config import EncoderConfig
from jaxencoder.model.positions import interpolate_positions, ntk_theta, repeat_positions
from jaxencoder.model.sentence import SentenceConfig
from jaxencoder.objectives.objective import Params

M = TypeVar("M", bound=Checkpoint)
Method = Literal["interpolate", "tile", "linear", "ntk", "dynamic", "yarn", "none"]
Written = Literal["hf", "sentence-transformers", "run"]

_TABLES = {"interpolate": interpolate_positions, "tile": repeat_positions}
_NEAR_LONGFORMER = (ROBERTA, XLM_ROBERTA, CAMEMBERT)  # whose heads and padding id are its own


def extend(
    source: str | Path,
    folder: str | Path,
    max_length: int,
    method: Method,
    factor: float | None = None,
    window: int = 0,
    global_tokens: bool = False,
) -> Written:
    """Write a model that reads longer texts; see `extended`.

    Args:
        source: anything that `load` takes.
        folder: to write; empty, or not there yet.

    Returns:
        As what: a folder of transformers or of sentence-transformers, where the source is one and a config.json can say
        the new architecture; else a run. `load` and `init_from` take each of them.

    Raises:
        ValueError: as `extended`; a folder that holds something; a run without a tokenizer.
        OSError: the source cannot be read, or the folder cannot be written.
    """
    folder = Path(folder)
    check_new(folder)
    model = extended(load(source), max_length, method, factor, window, global_tokens)
    if model.published is None:
        write_run(model, folder)
        return "run"
    form = "hf" if model.sentence == SentenceConfig() else "sentence-transformers"
    save(model, folder, form)
    return form


def extended(
    model: M,
    max_length: int,
    method: Method,
    factor: float | None = None,
    window: int = 0,
    global_tokens: bool = False,
) -> M:
    """A model that reads longer texts.

    Args:
        model: of a run, or published.
        max_length: tokens that it is to read, more than it was trained on.
        method: of learned positions `interpolate` (new rows between the old ones) or `tile` (copies of them); of rotary
            ones `linear`, `dynamic`, `yarn` (see `EncoderConfig.rope_scaling`), `ntk` (a larger base) or `none` (as
            they are); of ALiBi, biases and distances `none`, and `interpolate` where far distances share rows in
            ranges that grow (DeBERTa-v2): these then reach as much further.
        factor: of rotary scaling and of the ranges of distances; None: max_length over the length of training.
        window: tokens to either side that layers now see which saw the whole text; 0: as they are.
        global_tokens: with windows in all layers, projections for tokens that see all and are seen by all, which begin
            as copies of the others (Longformer: Beltagy et al. 2020, arXiv:2004.05150, section 5).

    Returns:
        The model, `published` only if its family's config.json (or, of RoBERTa's relatives with global tokens,
        Longformer's) can say it.

    Raises:
        ValueError: a method that does not fit the model, which names those that do; a model that is scaled already; a
            length, factor or window that makes no sense.
    """
    old = model.config.model
    trained = trained_length(model)
    if max_length <= trained:
        raise ValueError(f"max_length is {max_length}, but the model was trained on {trained} tokens; give more")
    _check(old, method, factor)
    architecture = dataclasses.replace(old, max_length=max_length)
    if window:
        architecture = _with_window(architecture, window)
    stretch = max_length / trained if factor is None else factor
    params = model.params
    if method in ("linear", "dynamic", "yarn"):
        original = 0 if method == "linear" else trained
        scaling = {"rope_scaling": method, "rope_factor": float(stretch), "rope_original_length": original}
        architecture = dataclasses.replace(architecture, **scaling)
    elif method == "ntk":
        theta = ntk_theta(old.rope_theta, old.head_size, stretch)
        architecture = dataclasses.replace(architecture, rope_theta=theta)
    if method == "interpolate" and old.max_distance:
        furthest = round(old.max_distance * stretch)
        architecture = dataclasses.replace(architecture, max_distance=furthest)
    if old.positions == "learned":
        params = _with_table(params, _TABLES[method], trained, max_length)
    if global_tokens and not old.global_tokens:
        architecture = dataclasses.replace(architecture, global_tokens=True)
        params = params | {"encoder": _with_global_projections(params["encoder"])}
    config = dataclasses.replace(
        model.config,
        model=architecture,
        data=dataclasses.replace(model.config.data, row_length=max_length),
        phases=(),
    )
    published = _published(model, architecture)
    return dataclasses.replace(model, config=config, params=params, published=published, generator=None, base=None)


def trained_length(model: Checkpoint) -> int:
    """Tokens of the longest row of its training; of a published model as its config.json has it."""
    length = model.config.model.max_length
    rows = max(part.data.row_length for part in model.config.phase_configs)
    return length if model.published else min(length, rows)


def methods(config: EncoderConfig) -> tuple[Method, ...]:
    """Those that fit an architecture."""
    if config.positions == "learned":
        return "interpolate", "tile"
    if config.positions == "rotary":
        return "linear", "ntk", "dynamic", "yarn", "none"
    return ("none", "interpolate") if config.max_distance else ("none",)


def _check(config: EncoderConfig, method: str, factor: float | None) -> None:
    if method not in get_args(Method):
        raise ValueError(f"method {method!r} is unknown; give one of {', '.join(get_args(Method))}")
    if method not in (fit := methods(config)):
        kind = {"none": "positions by distance alone"}.get(config.positions, f"{config.positions} positions")
        raise ValueError(f"the model has {kind}, which {method} does not extend; take {' or '.join(fit)}")
    if config.rope_scaling != "none" and method != "none":
        raise ValueError(f"the model is scaled already ({config.rope_scaling}); take none, or extend what it came from")
    scaled = method in ("linear", "ntk", "dynamic", "yarn") or (method == "interpolate" and config.max_distance)
    if factor is not None and not scaled:
        raise ValueError(f"factor is {factor}, but {method} takes none here; leave it out")
    if factor is not None and not factor >= 1:
        raise ValueError(f"factor is {factor}; give at least 1")


def _with_window(c: EncoderConfig, window: int) -> EncoderConfig:
    if all(c.windows) or window < 0:
        raise ValueError(f"window is {window}, for layers that see the whole text, but model.windows is {c.windows}")
    scaled = c.rope_scaling != "none"
    alike = c.rope_theta == c.rope_theta_local and scaled == c.rope_scaling_local
    if c.positions == "rotary" and any(c.windows) and not alike:
        raise ValueError(
            f"layers that see the whole text turn by other angles (rope_theta {c.rope_theta:g}) than those with a "
            f"window ({c.rope_theta_local:g}), so that these cannot become those; leave window out"
        )
    windows = tuple(side or window for side in c.windows)
    return dataclasses.replace(c, windows=windows, rope_theta_local=c.rope_theta, rope_scaling_local=scaled)


def _with_table(params: Params, stretched: Callable[..., np.ndarray], trained: int, length: int) -> Params:
    embeddings = params["encoder"]["embeddings"]
    table = np.asarray(embeddings["position_embedding"])[:trained]
    embeddings = embeddings | {"position_embedding": stretched(table, length)}
    return params | {"encoder": params["encoder"] | {"embeddings": embeddings}}


def _with_global_projections(params: Mapping[str, Any]) -> dict[str, Any]:
    """Each attention with copies of its projections for global tokens."""
    found = {
        name: _with_global_projections(part) if isinstance(part, Mapping) else part for name, part in params.items()
    }
    if "attention" in found:
        own = found["attention"]
        found["attention"] = own | {f"global_{name}": own[name] for name in ("query", "key", "value")}
    return found


def _published(model: Checkpoint, architecture: EncoderConfig) -> Published | None:
    """The family that can say the architecture, with its heads; None if there is none, or the model is a run's."""
    if model.published is None:
        return None
    own = model.published.family
    families = (own, LONGFORMER) if own in _NEAR_LONGFORMER else (own,)
    family = next((family for family in families if can_hold(family, architecture)), None)
    if family is None:
        return None
    settings = model.published.settings
    known = family.heads(architecture, {**settings, **family.settings(architecture)})
    heads = {name: known[name].config for name in model.published.heads if name in known}
    return Published(family, settings, heads)
