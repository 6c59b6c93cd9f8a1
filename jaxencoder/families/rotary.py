"""Rotary positions in config.json, and how they are scaled for longer texts, both ways: rope_parameters."""

import math
from collections.abc import Mapping
from typing import Any

from jaxencoder.families.family import Settings
from jaxencoder.model.config import EncoderConfig
from jaxencoder.model.positions import ntk_theta

_KINDS = ("default", "linear", "ntk", "dynamic", "yarn")


def rotary_choices(rope: Settings | None, theta: float, max_length: int, head_size: int) -> dict[str, Any]:
    """The choices of an EncoderConfig that rotary positions make, from config.json's rope_parameters.

    Args:
        rope: rope_parameters or rope_scaling; None: neither is there.
        theta: the base, where `rope` does not say it.
        max_length: max_position_embeddings. Of `dynamic` it is the length of pretraining, and `factor` times that is
            how far the model reaches; of the others it is how far.
        head_size: H.

    Raises:
        ValueError: a kind or a setting that cannot be loaded. KeyError: one that is missing.
    """
    rope = rope or {}
    if not isinstance(rope, Mapping):
        raise ValueError(f"config.json has {rope!r} for rope_parameters or rope_scaling; only an object can be loaded")
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind not in _KINDS:
        raise ValueError(f"config.json has rope_type {kind!r}; only {', '.join(_KINDS)} can be loaded")
    if (part := rope.get("partial_rotary_factor", 1.0)) != 1:
        raise ValueError(f"config.json has partial_rotary_factor {part}; only 1 can be loaded")
    theta = float(rope.get("rope_theta") or theta)
    found = {"rope_theta": theta, "max_length": max_length}
    if kind == "default":
        return found
    original = rope.get("original_max_position_embeddings") or max_length
    factor = rope["factor"] if kind != "yarn" or "factor" in rope else max_length / original
    if kind == "ntk":
        if not factor >= 1:
            raise ValueError(f"config.json has factor {factor} for rope_type 'ntk'; it must be at least 1")
        return found | {"rope_theta": ntk_theta(theta, head_size, factor)}
    found |= {"rope_scaling": kind, "rope_factor": float(factor)}
    if kind == "dynamic":
        if original != max_length:
            raise ValueError(
                f"config.json has original_max_position_embeddings {original}, but max_position_embeddings "
                f"{max_length}, from which rope_type 'dynamic' counts; make them equal"
            )
        return found | {"rope_original_length": original, "max_length": max(max_length, round(original * factor))}
    return found if kind == "linear" else found | _yarn(rope, factor, original)


def _yarn(rope: Settings, factor: float, original: int) -> dict[str, Any]:
    if not rope.get("truncate", True):
        raise ValueError("config.json has truncate false for rope_type 'yarn'; only true can be loaded")
    attention = rope.get("attention_factor") or 0.0
    scales = rope.get("mscale"), rope.get("mscale_all_dim")
    if not attention and all(scales):
        above, below = (0.1 * scale * math.log(factor) + 1 for scale in scales)
        attention = above / below
    betas = float(rope.get("beta_fast") or 32), float(rope.get("beta_slow") or 1)
    return {"rope_original_length": original, "rope_betas": betas, "rope_attention_factor": float(attention)}


def rotary_settings(c: EncoderConfig, local: bool = False) -> dict[str, Any]:
    """rope_parameters of the layers with a window (`local`) or of those without; see `reach` for the length."""
    theta = c.rope_theta_local if local else c.rope_theta
    if c.rope_scaling == "none" or (local and not c.rope_scaling_local):
        return {"rope_type": "default", "rope_theta": theta}
    found = {"rope_type": c.rope_scaling, "rope_theta": theta, "factor": c.rope_factor}
    if c.rope_scaling == "yarn":
        found |= {"original_max_position_embeddings": c.rope_original_length}
        found |= dict(zip(("beta_fast", "beta_slow"), c.rope_betas, strict=True))
        found |= {"attention_factor": c.rope_attention_factor} if c.rope_attention_factor else {}
    return found


def reach(c: EncoderConfig) -> int:
    """max_position_embeddings, which with `dynamic` is the length of pretraining."""
    return c.rope_original_length if c.rope_scaling == "dynamic" else c.max_length
