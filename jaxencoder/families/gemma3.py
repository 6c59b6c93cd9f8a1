"""Gemma 3, text only: norms around each sublayer, windows in five of six layers; bidirectional as EmbeddingGemma.

Gemma Team 2025, arXiv:2503.19786; Vera et al. 2025 (EmbeddingGemma), arXiv:2509.20354.
"""

import dataclasses
from typing import Any

from jaxencoder.families.decoder import COMMON, ENCODER, HEADS, QK_NORMS, score_head
from jaxencoder.families.eurobert import EUROBERT
from jaxencoder.families.family import About, Family
from jaxencoder.families.layer_types import GLOBAL, LOCAL, layer_types, layer_windows
from jaxencoder.families.rotary import rope_parameters, rotary_fields, rotary_settings
from jaxencoder.families.settings import (
    ACTIVATIONS,
    SIZES,
    Entry,
    Fields,
    Settings,
    choice,
    head_size,
    read_number,
    read_object,
    read_value,
    same,
    sizes,
)
from jaxencoder.model.config import EncoderConfig

_ARCHITECTURE = dataclasses.replace(
    EUROBERT.architecture, max_length=131_072, num_kv_heads=4, head_dim=256, rope_theta=1_000_000.0, causal=True,
    qk_norm=True, norm_placement="sandwich", norm_epsilon=1e-6, norm_unit_offset=True, scaled_embeddings=True,
    activation="gelu_tanh", tied_output=True,
)  # fmt: skip


def _read_causal(settings: Settings, fields: Fields) -> Fields:
    if settings.get("use_bidirectional_attention") is None:
        return {"causal": True}
    return {"causal": not read_value(settings, "use_bidirectional_attention", bool)}


def _read_rotary(settings: Settings, fields: Fields) -> Fields:
    """Rotary positions of each kind of layer. The older rope_scaling is that of the global layers alone."""
    kinds = read_object(settings, "rope_parameters")

    def rotary(kind: str, theta_name: str, theta: float, scaling: Settings) -> dict[str, Any]:
        rope = {**read_object(kinds, kind), **scaling}
        return rotary_fields(rope, read_number(settings, theta_name) or theta, fields)

    global_layers = rotary(GLOBAL, "rope_theta", fields["rope_theta"], read_object(settings, "rope_scaling"))
    local_layers = rotary(LOCAL, "rope_local_base_freq", fields["rope_theta_local"], {})
    if "rope_scaling" in local_layers:
        raise ValueError(f"config.json scales the positions of {LOCAL}; only default can be loaded")
    return global_layers | {"rope_theta_local": local_layers["rope_theta"]}


def _write_rotary(c: EncoderConfig) -> Settings:
    if c.rope_scaling != "none" and c.rope_scaling_local:
        raise ValueError("model.rope_scaling_local is true; config.json of Gemma 3 scales global layers alone")
    thetas = {"rope_theta": c.rope_theta, "rope_local_base_freq": c.rope_theta_local}
    return thetas | rotary_settings(c, {GLOBAL: rope_parameters(c), LOCAL: rope_parameters(c, local=True)})


def _read_windows(settings: Settings, fields: Fields) -> Fields:
    """A bidirectional window counts both sides, rounded down to an even number; a causal one the token itself."""
    every = read_value(settings, "sliding_window_pattern", int, settings.get("_sliding_window_pattern") or 6)
    if every < 1:
        raise ValueError(f"config.json has sliding_window_pattern {every}; an integer of at least 1 is needed")
    kinds = [LOCAL if i % every else GLOBAL for i in range(1, fields["num_layers"] + 1)]
    width = read_value(settings, "sliding_window", int, 4096)
    return layer_windows(settings, fields, kinds, width - 1 if fields["causal"] else width // 2)


def _write_windows(c: EncoderConfig) -> Settings:
    side = max(c.windows)
    width = (side + 1 if c.causal else 2 * side) if side else 4096
    return {"sliding_window": width, "layer_types": layer_types(c)}


def _read_scale(settings: Settings, fields: Fields) -> Fields:
    scalar = read_value(settings, "query_pre_attn_scalar", float, 256)
    if scalar <= 0:
        raise ValueError(f"config.json has query_pre_attn_scalar {scalar}; a number above 0 is needed")
    return {"attention_scale": 0.0 if scalar == head_size(fields) else scalar**-0.5}


def _write_scale(c: EncoderConfig) -> Settings:
    scalar = c.attention_scale**-2 if c.attention_scale else c.head_size
    if abs(scalar - round(scalar)) > 1e-6 * scalar:
        raise ValueError(f"model.attention_scale is {c.attention_scale}; Gemma's is 1 / the root of an integer")
    return {"query_pre_attn_scalar": round(scalar)}


GEMMA3 = Family(
    model_type="gemma3_text",
    name="Gemma3Text",
    prefix="model.",
    architecture=_ARCHITECTURE,
    settings_table=(
        *SIZES,
        *HEADS,
        *COMMON,
        Entry(_read_causal, lambda c: {"use_bidirectional_attention": not c.causal}),
        Entry(_read_rotary, _write_rotary),
        Entry(_read_windows, _write_windows),
        Entry(_read_scale, _write_scale),
        same("attention_bias"),
        choice("hidden_activation", "activation", {"gelu_pytorch_tanh": "gelu_tanh"} | ACTIVATIONS),
    ),
    encoder_table={
        **{name: ours for name, ours in ENCODER.items() if "layernorm" not in name},
        **QK_NORMS,
        "model.layers.{layer}.input_layernorm": "encoder/layer/attention_norm",
        "model.layers.{layer}.post_attention_layernorm": "encoder/layer/attention_output_norm",
        "model.layers.{layer}.pre_feedforward_layernorm": "encoder/layer/mlp_norm",
        "model.layers.{layer}.post_feedforward_layernorm": "encoder/layer/mlp_output_norm",
    },
    mlm_head_table={},
    heads=lambda c, s: score_head(s, 0),
    tied="lm_head.weight",
    about=About(
        title="EmbeddingGemma",
        choose_for="embeddings of 100 languages from a model of 300M parameters, most of them embeddings of its large "
        "vocabulary, with vectors that can be truncated to fewer dimensions (Matryoshka)",
        tokenizer="SentencePiece BPE, cased",
        objective="the next token, then as an encoder of an encoder-decoder; contrastive, on pairs of texts",
        text="more than 2T tokens of 100 languages and code",
        papers={"EmbeddingGemma": "2509.20354", "Gemma 3": "2503.19786"},
        releases={
            "google/embeddinggemma-300m": sizes(24, 768, 1152, 3, 262144, num_key_value_heads=1, sliding_window=512)
            | {"max_position_embeddings": 2048, "use_bidirectional_attention": True},
        },
    ),
    # transformers would widen sliding windows by one with is_causal false; EmbeddingGemma says it by the other name.
    fixed={"attn_logit_softcapping": None, "final_logit_softcapping": None, "is_causal": True},
    classes={"Model": "Gemma3TextModel", "ForMaskedLM": "Gemma3ForCausalLM"},
)
