"""EuroBERT: a decoder's block (RMS norm, rotary, SwiGLU, shared keys) that sees both sides.

Boizard et al. 2025, arXiv:2503.05500.
"""

from typing import Any

from jaxencoder.families.family import (
    PUBLISHED,
    About,
    Family,
    Heads,
    Release,
    Settings,
    head,
    known_activation,
    labels,
    plain_heads,
    sizes,
)
from jaxencoder.families.rotary import reach, rotary_choices, rotary_settings
from jaxencoder.families.tables import LAYER, Weight, linear, norm, table
from jaxencoder.model.config import EncoderConfig
from jaxencoder.model.heads import HeadConfig

_POOLINGS = {"bos": ("cls", False), "mean": ("mean", False), "late": ("mean", True)}


def _encoder_config(c: Settings) -> EncoderConfig:
    heads, size = c["num_attention_heads"], c["hidden_size"]
    kv_heads = c.get("num_key_value_heads") or heads
    if (c.get("head_dim") or size // heads) != size // heads:
        raise ValueError(f"config.json has head_dim {c['head_dim']}; only hidden_size / num_attention_heads will do")
    rope = c.get("rope_scaling") or c.get("rope_parameters")
    return EncoderConfig(
        vocab_size=c["vocab_size"],
        num_layers=c["num_hidden_layers"],
        hidden_size=size,
        mlp_size=c["intermediate_size"],
        num_heads=heads,
        num_kv_heads=0 if kv_heads == heads else kv_heads,
        positions="rotary",
        **rotary_choices(rope, c.get("rope_theta") or 10_000.0, c.get("max_position_embeddings", 8192), size // heads),
        token_types=0,
        norm="rms",
        norm_placement="pre",
        norm_epsilon=c.get("rms_norm_eps", 1e-5),
        norm_bias=False,
        embedding_norm=False,
        attention_bias=c.get("attention_bias", False),
        mlp_bias=c.get("mlp_bias", False),
        activation=known_activation(c.get("hidden_act", "silu"), "hidden_act"),
        gated_mlp=True,
        head_transform=False,
        output_bias=c.get("mlp_bias", False),
        tied_output=False,
        dropout=0.0,
        attention_dropout=c.get("attention_dropout", 0.0),
        initializer_std=c.get("initializer_range", 0.02),
    )


def _settings(c: EncoderConfig) -> dict[str, Any]:
    return {
        "vocab_size": c.vocab_size,
        "num_hidden_layers": c.num_layers,
        "hidden_size": c.hidden_size,
        "intermediate_size": c.mlp_size,
        "num_attention_heads": c.num_heads,
        "num_key_value_heads": c.kv_heads,
        "max_position_embeddings": reach(c),
        "rope_parameters": rotary_settings(c),
        "rope_scaling": None,  # an older name, which would count
        "rms_norm_eps": c.norm_epsilon,
        "attention_bias": c.attention_bias,
        "mlp_bias": c.mlp_bias,
        "hidden_act": PUBLISHED[c.activation],
        "attention_dropout": c.attention_dropout,
        "initializer_range": c.initializer_std,
    }


def _encoder(c: EncoderConfig) -> list[Weight]:
    theirs, ours = f"model.layers.{LAYER}", "encoder/layer"
    return [
        *table("model.embed_tokens", "encoder/embeddings/token_embedding"),
        *linear(f"{theirs}.self_attn.q_proj", f"{ours}/attention/query", bias=c.attention_bias),
        *linear(f"{theirs}.self_attn.k_proj", f"{ours}/attention/key", bias=c.attention_bias),
        *linear(f"{theirs}.self_attn.v_proj", f"{ours}/attention/value", bias=c.attention_bias),
        *linear(f"{theirs}.self_attn.o_proj", f"{ours}/attention/output", bias=c.attention_bias),
        *norm(f"{theirs}.input_layernorm", f"{ours}/attention_norm", False),
        *linear(f"{theirs}.mlp.gate_proj", f"{ours}/mlp/gate", bias=c.mlp_bias),
        *linear(f"{theirs}.mlp.up_proj", f"{ours}/mlp/up", bias=c.mlp_bias),
        *linear(f"{theirs}.mlp.down_proj", f"{ours}/mlp/down", bias=c.mlp_bias),
        *norm(f"{theirs}.post_attention_layernorm", f"{ours}/mlp_norm", False),
        *norm("model.norm", "encoder/final_norm", False),
    ]


def _mlm_head(c: EncoderConfig) -> list[Weight]:
    return [Weight("lm_head.bias", ("mlm_head/bias",))] if c.output_bias else []


def _heads(c: EncoderConfig, settings: Settings) -> Heads:
    pooling = settings.get("classifier_pooling", "late")
    if pooling not in _POOLINGS:
        raise ValueError(f"config.json has classifier_pooling {pooling!r}; known are {', '.join(_POOLINGS)}")
    inputs, late = _POOLINGS[pooling]
    config = HeadConfig(inputs, labels(settings), "gelu", pool_after_transform=late)
    return {
        "sequence_head": head("sequence_head", config, "dense", "classifier"),
        **plain_heads(settings, "token_head"),
    }


_LARGER = {"num_key_value_heads": 6, "rope_theta": 250_000.0}
EUROBERT = Family(
    model_type="eurobert",
    name="EuroBert",
    prefix="model.",
    encoder_config=_encoder_config,
    settings=_settings,
    encoder=_encoder,
    mlm_head=_mlm_head,
    heads=_heads,
    tied="lm_head.weight",
    about=About(
        title="EuroBERT",
        choose_for="15 languages, European and other widely spoken ones, code and mathematics; for long texts, and "
        "where 2B parameters pay",
        tokenizer="byte-level BPE, cased",
        objective="masked words (50%, at the end 10%)",
        text="5T tokens of 15 languages, code and mathematics",
        papers={"EuroBERT": "2503.05500"},
        releases=(
            Release("EuroBERT/EuroBERT-210m", sizes(12, 768, 3072, 12, 128256, rope_theta=250_000.0)),
            Release("EuroBERT/EuroBERT-610m", sizes(26, 1152, 4096, 18, 128256, **_LARGER)),
            Release("EuroBERT/EuroBERT-2.1B", sizes(32, 2304, 6144, 18, 128256, **_LARGER)),
        ),
    ),
)
