"""Rotary positions in config.json, and their scaling for longer texts: rope_parameters, read in both directions."""

import math
from typing import Any

from jaxencoder.families.settings import Entry, Fields, Settings, head_size, read_number, read_object
from jaxencoder.model.config import EncoderConfig
from jaxencoder.model.positions import ntk_theta

_KINDS = ("default", "linear", "ntk", "dynamic", "yarn", "llama3")


def rotary_fields(rope: Settings, theta: float | None, fields: Fields) -> dict[str, Any]:
    """The fields of an EncoderConfig that describe rotary positions; ValueError for a setting that cannot be loaded.

    Args:
        rope: rope_parameters or rope_scaling of config.json; empty if it has neither.
        theta: the base, unless `rope` has it; None: that of `fields`.
        fields: the sizes, rope_theta, and max_length as in max_position_embeddings. For `dynamic` that is the length
            of pretraining, and the model reaches `factor` times as far; for the other kinds the model reaches that far.
    """
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind not in _KINDS:
        raise ValueError(f"config.json has rope_type {kind!r}; only {', '.join(_KINDS)} can be loaded")
    if (part := rope.get("partial_rotary_factor", 1.0)) != 1:
        raise ValueError(f"config.json has partial_rotary_factor {part}; only 1 can be loaded")
    theta = float(read_number(rope, "rope_theta") or theta or fields["rope_theta"])
    max_length = fields["max_length"]
    rotary = {"rope_theta": theta, "max_length": max_length}
    if kind == "default":
        return rotary
    original = read_number(rope, "original_max_position_embeddings") or max_length
    factor = read_number(rope, "factor", max_length / original if kind == "yarn" else None)
    if factor is None:
        raise ValueError(f"config.json has no factor for rope_type {kind!r}")
    if factor < 1:
        raise ValueError(f"config.json has factor {factor} for rope_type {kind!r}; it must be at least 1")
    if kind == "ntk":
        return rotary | {"rope_theta": ntk_theta(theta, head_size(fields), factor)}
    rotary |= {"rope_scaling": kind, "rope_factor": float(factor)}
    if kind == "dynamic":
        if original != max_length:
            raise ValueError(
                f"config.json has original_max_position_embeddings {original}, but max_position_embeddings "
                f"{max_length}, from which rope_type 'dynamic' counts; make them equal"
            )
        return rotary | {"rope_original_length": original, "max_length": max(max_length, round(original * factor))}
    if kind == "llama3":
        betas = float(read_number(rope, "high_freq_factor") or 4), float(read_number(rope, "low_freq_factor") or 1)
        return rotary | {"rope_original_length": original, "rope_betas": betas}
    return rotary if kind == "linear" else rotary | _yarn(rope, factor, original)


def _yarn(rope: Settings, factor: float, original: int) -> dict[str, Any]:
    if not rope.get("truncate", True):
        raise ValueError("config.json has truncate false for rope_type 'yarn'; only true can be loaded")
    attention = read_number(rope, "attention_factor", 0.0)
    above, below = read_number(rope, "mscale"), read_number(rope, "mscale_all_dim")
    if not attention and above and below:
        attention = (0.1 * above * math.log(factor) + 1) / (0.1 * below * math.log(factor) + 1)
    betas = float(read_number(rope, "beta_fast") or 32), float(read_number(rope, "beta_slow") or 1)
    return {"rope_original_length": original, "rope_betas": betas, "rope_attention_factor": float(attention)}


def rope_parameters(c: EncoderConfig, local: bool = False) -> dict[str, Any]:
    """rope_parameters of the layers with a window (`local`) or of those without."""
    theta = c.rope_theta_local if local else c.rope_theta
    if c.rope_scaling == "none" or (local and not c.rope_scaling_local):
        return {"rope_type": "default", "rope_theta": theta}
    rope = {"rope_type": c.rope_scaling, "rope_theta": theta, "factor": c.rope_factor}
    if c.rope_scaling == "llama3":
        rope |= {"original_max_position_embeddings": c.rope_original_length}
        rope |= dict(zip(("high_freq_factor", "low_freq_factor"), c.rope_betas, strict=True))
    if c.rope_scaling == "yarn":
        rope |= {"original_max_position_embeddings": c.rope_original_length}
        rope |= dict(zip(("beta_fast", "beta_slow"), c.rope_betas, strict=True))
        rope |= {"attention_factor": c.rope_attention_factor} if c.rope_attention_factor else {}
    return rope


def rotary_settings(c: EncoderConfig, rope: Settings | None = None) -> dict[str, Any]:
    """The settings of rotary positions; `rope` is given if layers differ in their rope_parameters."""
    return {
        # With `dynamic` this is the length of pretraining.
        "max_position_embeddings": c.rope_original_length if c.rope_scaling == "dynamic" else c.max_length,
        "rope_parameters": rope or rope_parameters(c),
        "rope_scaling": None,  # the older name, which would take precedence
    }


def rope_object(settings: Settings) -> Settings:
    """rope_scaling or, without it, rope_parameters of a config.json; empty if it has neither."""
    return read_object(settings, "rope_scaling") or read_object(settings, "rope_parameters")


# Follows the entries of max_length and of the sizes.
ROTARY = Entry(
    lambda c, fields: rotary_fields(rope_object(c), read_number(c, "rope_theta"), fields),
    rotary_settings,
)
