"""ModernBERT: pre-norm, rotary, GeGLU, global attention every third layer. Warner et al. 2024, arXiv:2412.13663."""

from typing import Any

from jaxencoder.families.family import About, Family, Heads, Settings, head
from jaxencoder.families.labels import labels
from jaxencoder.families.layer_types import GLOBAL, LOCAL, layer_types, layer_windows
from jaxencoder.families.rotary import rope_parameters, rotary_fields, rotary_settings
from jaxencoder.families.settings import (
    SIZES,
    Entry,
    Fields,
    choice,
    read_choice,
    read_number,
    read_object,
    read_value,
    same,
    sizes,
    written,
)
from jaxencoder.families.tables import QKV, Weight, mlm_head
from jaxencoder.model.config import EncoderConfig
from jaxencoder.model.heads import HeadConfig, HeadInputs

_ARCHITECTURE = EncoderConfig(
    max_length=8192, positions="rotary", rope_theta=160_000.0, rope_theta_local=10_000.0, token_types=0,
    norm_placement="pre", norm_epsilon=1e-5, norm_bias=False, first_attention_norm=False,
    attention_bias=False, mlp_bias=False, gated_mlp=True, dropout=0.0, attention_dropout=0.0,
    head_activation="gelu", head_bias=False,
)  # fmt: skip


def _read_rotary(settings: Settings, fields: Fields) -> Fields:
    """Rotary settings of global and local layers. The older rope_scaling applies to both and takes precedence."""

    def rotary(kind: str, theta_name: str, theta: float) -> dict[str, Any]:
        rope = read_object(read_object(settings, "rope_parameters"), kind)
        rope = {**rope, **read_object(settings, "rope_scaling")}
        return rotary_fields(rope, read_number(settings, theta_name) or theta, fields)

    global_layers = rotary(GLOBAL, "global_rope_theta", fields["rope_theta"])
    # null is the base of the global layers, as in the published code; only a missing one is the default.
    is_shared = settings.get("local_rope_theta", 0) is None
    theta = global_layers["rope_theta"] if is_shared else fields["rope_theta_local"]
    local_layers = rotary(LOCAL, "local_rope_theta", theta)
    return of_both_kinds(global_layers, local_layers)


def of_both_kinds(global_layers: Fields, local_layers: Fields) -> Fields:
    """The fields of rotary positions for both kinds of layers, from `rotary_fields` of each; ValueError if they are
    scaled differently."""

    def without_theta(fields: Fields) -> dict[str, Any]:
        return {name: x for name, x in fields.items() if name != "rope_theta"}

    is_scaled = "rope_scaling" in local_layers
    if is_scaled and without_theta(local_layers) != without_theta(global_layers):
        raise ValueError(
            f"config.json scales {LOCAL} differently from {GLOBAL}; only equal scaling, or none for {LOCAL}, can be "
            "loaded"
        )
    return dict(global_layers) | {"rope_theta_local": local_layers["rope_theta"], "rope_scaling_local": is_scaled}


def _write_rotary(c: EncoderConfig) -> Settings:
    return rotary_settings(c, {GLOBAL: rope_parameters(c), LOCAL: rope_parameters(c, local=True)})


def _at_least(minimum: int, settings: Settings, name: str, default: int | None = None) -> int:
    if (value := read_value(settings, name, int, default)) < minimum:
        raise ValueError(f"config.json has {name} {value}; at least {minimum} is needed")
    return value


def _read_windows(settings: Settings, fields: Fields) -> Fields:
    """local_attention counts both sides (128: 64 tokens to either side); our windows and sliding_window count one."""
    every = _at_least(1, settings, "global_attn_every_n_layers", 3)
    if settings.get("sliding_window") is None:
        side = _at_least(2, settings, "local_attention", 128) // 2
    else:
        side = _at_least(1, settings, "sliding_window")
    kinds = [LOCAL if i % every else GLOBAL for i in range(fields["num_layers"])]
    return layer_windows(settings, fields, kinds, side)


def _write_windows(c: EncoderConfig) -> Settings:
    side = max(c.windows) or 64  # the default without local layers
    return {"local_attention": 2 * side, "sliding_window": side, "layer_types": layer_types(c)}


def _heads(c: EncoderConfig, settings: Settings) -> Heads:
    pooling = read_choice(settings, "classifier_pooling", "cls", {"cls": "cls", "mean": "mean"})

    def classifier(name: str, inputs: HeadInputs, outputs: int) -> Heads:
        activation = c.activation if c.head_activation == "same" else c.head_activation
        config = HeadConfig(inputs, outputs, activation, c.head_bias, norm=True)
        return head(name, config, "head.dense", "classifier", "head.norm", c.norm_bias)

    heads = classifier("sequence_head", pooling, labels(settings)) | classifier("choice_head", pooling, 1)
    return heads | classifier("token_head", "tokens", labels(settings)) | classifier("span_head", "tokens", 2)


_ETTIN = {"max_position_embeddings": 7999, "local_rope_theta": 160_000.0}  # local layers have the global theta
MODERNBERT = Family(
    model_type="modernbert",
    name="ModernBert",
    prefix="model.",
    architecture=_ARCHITECTURE,
    settings_table=(
        *SIZES,
        same("max_position_embeddings", "max_length"),
        Entry(_read_rotary, _write_rotary),
        Entry(_read_windows, _write_windows),
        same("norm_eps", "norm_epsilon"),
        same("norm_bias"),
        same("attention_bias"),
        same("mlp_bias"),
        choice("hidden_activation", "activation"),
        choice("classifier_activation", "head_activation"),
        same("classifier_bias", "head_bias"),
        same("decoder_bias", "output_bias"),
        same("mlp_dropout", "dropout"),
        written("embedding_dropout", lambda c: c.dropout),
        same("attention_dropout"),
        same("initializer_range", "initializer_std"),
    ),
    encoder_table={
        "model.embeddings.tok_embeddings": "encoder/embeddings/token_embedding",
        "model.embeddings.norm": "encoder/embeddings/norm",
        "model.layers.{layer}.attn.Wqkv": Weight(QKV),
        "model.layers.{layer}.attn.Wo": "encoder/layer/attention/output",
        "model.layers.{layer}.attn_norm": Weight(("encoder/layer/attention_norm",), first_layer=1),  # layer 0 has none
        "model.layers.{layer}.mlp.Wi": Weight(("encoder/layer/mlp/gate", "encoder/layer/mlp/up")),
        "model.layers.{layer}.mlp.Wo": "encoder/layer/mlp/down",
        "model.layers.{layer}.mlp_norm": "encoder/layer/mlp_norm",
        "model.final_norm": "encoder/final_norm",
    },
    mlm_head_table=mlm_head("head.dense", "head.norm", "decoder.bias"),
    heads=_heads,
    tied="decoder.weight",
    about=About(
        title="ModernBERT",
        choose_for="most new work in English or code, and long texts; Ettin has sizes from 17M parameters, mmBERT "
        "1,800 languages",
        tokenizer="byte-level BPE, cased (mmBERT: SentencePiece BPE)",
        objective="masked words (30%)",
        text="2T tokens of English and code; mmBERT: 3T tokens, 1,800 languages",
        papers={"ModernBERT": "2412.13663", "Ettin": "2507.11412", "mmBERT": "2509.06888"},
        releases={
            "jhu-clsp/ettin-encoder-17m": sizes(7, 256, 384, 4, 50368, **_ETTIN),
            "jhu-clsp/ettin-encoder-68m": sizes(19, 512, 768, 8, 50368, **_ETTIN),
            "jhu-clsp/mmBERT-small": sizes(22, 384, 1152, 6, 256000, local_rope_theta=160_000.0),
            "answerdotai/ModernBERT-base": sizes(22, 768, 1152, 12, 50368),
            "jhu-clsp/mmBERT-base": sizes(22, 768, 1152, 12, 256000, local_rope_theta=160_000.0),
            "answerdotai/ModernBERT-large": sizes(28, 1024, 2624, 16, 50368),
        },
    ),
)
