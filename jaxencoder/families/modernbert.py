"""ModernBERT: pre-norm, rotary, GeGLU, global attention every third layer. Warner et al. 2024, arXiv:2412.13663."""

from typing import Any

from jaxencoder.families.family import (
    PUBLISHED,
    About,
    Family,
    Heads,
    Release,
    Settings,
    activation,
    head,
    head_activation,
    labels,
    pattern,
    sizes,
)
from jaxencoder.families.rotary import reach, rotary_choices, rotary_settings
from jaxencoder.families.tables import LAYER, Weight, linear, norm, table
from jaxencoder.model.config import EncoderConfig
from jaxencoder.model.heads import HeadConfig

_GLOBAL, _LOCAL = "full_attention", "sliding_attention"
_OLD_NAMES = {_GLOBAL: "global_rope_theta", _LOCAL: "local_rope_theta"}
_THETAS = {_GLOBAL: 160_000.0, _LOCAL: 10_000.0}


def _encoder_config(c: Settings) -> EncoderConfig:
    return EncoderConfig(
        vocab_size=c["vocab_size"],
        num_layers=c["num_hidden_layers"],
        hidden_size=c["hidden_size"],
        mlp_size=c["intermediate_size"],
        num_heads=c["num_attention_heads"],
        positions="rotary",
        **_rotary(c),
        windows=_windows(c),
        token_types=0,
        norm_placement="pre",
        norm_epsilon=c.get("norm_eps", 1e-5),
        first_attention_norm=False,
        attention_bias=c.get("attention_bias", False),
        mlp_bias=c.get("mlp_bias", False),
        norm_bias=c.get("norm_bias", False),
        activation=activation(c, "hidden_activation"),
        gated_mlp=True,
        head_activation=head_activation(c, "classifier_activation", "hidden_activation"),
        head_bias=c.get("classifier_bias", False),
        output_bias=c.get("decoder_bias", True),
        dropout=c.get("mlp_dropout", 0.0),
        attention_dropout=c.get("attention_dropout", 0.0),
        initializer_std=c.get("initializer_range", 0.02),
    )


def _rotary(c: Settings) -> dict[str, Any]:
    """Of both kinds of layers; the older name, rope_scaling, is for both alike."""
    length, head_size = c.get("max_position_embeddings", 8192), c["hidden_size"] // c["num_attention_heads"]

    def choices(kind: str) -> dict[str, Any]:
        rope = (c.get("rope_parameters") or {}).get(kind) or {}
        theta = c.get(_OLD_NAMES[kind]) or _THETAS[kind]
        return rotary_choices({**rope, **(c.get("rope_scaling") or {})}, theta, length, head_size)

    found, local = choices(_GLOBAL), choices(_LOCAL)
    theta = local.pop("rope_theta")
    scaled = "rope_scaling" in local
    if scaled and local != {name: value for name, value in found.items() if name != "rope_theta"}:
        raise ValueError(f"config.json scales {_LOCAL} otherwise than {_GLOBAL}; only alike, or not, can be loaded")
    return found | {"rope_theta_local": theta, "rope_scaling_local": scaled}


def _windows(c: Settings) -> tuple[int, ...]:
    """Published windows count both sides."""
    every, side = c.get("global_attn_every_n_layers", 3), c.get("local_attention", 128) // 2
    kinds = c.get("layer_types") or [_LOCAL if i % every else _GLOBAL for i in range(c["num_hidden_layers"])]
    if unknown := set(kinds) - {_GLOBAL, _LOCAL}:
        raise ValueError(f"config.json has layer_types {sorted(unknown)}; known are {_GLOBAL} and {_LOCAL}")
    return pattern([0 if kind == _GLOBAL else side for kind in kinds])


def _settings(c: EncoderConfig) -> dict[str, Any]:
    sides = set(c.windows) - {0}
    if len(sides) > 1:
        raise ValueError(f"model.windows {c.windows} has several sizes; ModernBERT's config.json has room for one")
    kinds = [_LOCAL if c.windows[i % len(c.windows)] else _GLOBAL for i in range(c.num_layers)]
    return {
        "vocab_size": c.vocab_size,
        "num_hidden_layers": c.num_layers,
        "hidden_size": c.hidden_size,
        "intermediate_size": c.mlp_size,
        "num_attention_heads": c.num_heads,
        "max_position_embeddings": reach(c),
        "local_attention": 2 * max(sides, default=64),
        "layer_types": kinds,
        "rope_parameters": {_GLOBAL: rotary_settings(c), _LOCAL: rotary_settings(c, local=True)},
        "rope_scaling": None,  # an older name, which would count
        "norm_eps": c.norm_epsilon,
        "norm_bias": c.norm_bias,
        "attention_bias": c.attention_bias,
        "mlp_bias": c.mlp_bias,
        "hidden_activation": PUBLISHED[c.activation],
        "classifier_activation": PUBLISHED[c.activation if c.head_activation == "same" else c.head_activation],
        "classifier_bias": c.head_bias,
        "decoder_bias": c.output_bias,
        "mlp_dropout": c.dropout,
        "embedding_dropout": c.dropout,
        "attention_dropout": c.attention_dropout,
        "initializer_range": c.initializer_std,
    }


def _encoder(c: EncoderConfig) -> list[Weight]:
    theirs, ours = f"model.layers.{LAYER}", "encoder/layer"
    heads = (f"{ours}/attention/{name}" for name in ("query", "key", "value"))
    return [
        *table("model.embeddings.tok_embeddings", "encoder/embeddings/token_embedding"),
        *norm("model.embeddings.norm", "encoder/embeddings/norm", c.norm_bias),
        *linear(f"{theirs}.attn.Wqkv", *heads, bias=c.attention_bias),
        *linear(f"{theirs}.attn.Wo", f"{ours}/attention/output", bias=c.attention_bias),
        *norm(f"{theirs}.attn_norm", f"{ours}/attention_norm", c.norm_bias, first_layer=1),
        *linear(f"{theirs}.mlp.Wi", f"{ours}/mlp/gate", f"{ours}/mlp/up", bias=c.mlp_bias),
        *linear(f"{theirs}.mlp.Wo", f"{ours}/mlp/down", bias=c.mlp_bias),
        *norm(f"{theirs}.mlp_norm", f"{ours}/mlp_norm", c.norm_bias),
        *norm("model.final_norm", "encoder/final_norm", c.norm_bias),
    ]


def _mlm_head(c: EncoderConfig) -> list[Weight]:
    return [
        *linear("head.dense", "mlm_head/dense", bias=c.head_bias),
        *norm("head.norm", "mlm_head/norm", c.norm_bias),
        *([Weight("decoder.bias", ("mlm_head/bias",))] if c.output_bias else ()),
    ]


def _heads(c: EncoderConfig, settings: Settings) -> Heads:
    pooling = settings.get("classifier_pooling", "cls")
    if pooling not in ("cls", "mean"):
        raise ValueError(f"config.json has classifier_pooling {pooling!r}; known are cls and mean")

    def table(name: str, inputs: str, outputs: int):
        act = c.activation if c.head_activation == "same" else c.head_activation
        config = HeadConfig(inputs, outputs, act, c.head_bias, norm=True)
        return head(name, config, "head.dense", "classifier", "head.norm", c.norm_bias)

    return {
        "sequence_head": table("sequence_head", pooling, labels(settings)),
        "choice_head": table("choice_head", pooling, 1),
        "token_head": table("token_head", "tokens", labels(settings)),
        "span_head": table("span_head", "tokens", 2),
    }


_ETTIN = {"max_position_embeddings": 7999, "local_rope_theta": 160_000.0}
MODERNBERT = Family(
    model_type="modernbert",
    name="ModernBert",
    prefix="model.",
    encoder_config=_encoder_config,
    settings=_settings,
    encoder=_encoder,
    mlm_head=_mlm_head,
    heads=_heads,
    tied="decoder.weight",
    about=About(
        title="ModernBERT",
        choose_for="nearly everything new in English or code, and for long texts; Ettin has it from 17M parameters, "
        "mmBERT in 1,800 languages",
        tokenizer="byte-level BPE, cased (mmBERT: SentencePiece BPE)",
        objective="masked words (30%)",
        text="2T tokens of English and code; mmBERT: 3T tokens, 1,800 languages",
        papers={"ModernBERT": "2412.13663", "Ettin": "2507.11412", "mmBERT": "2509.06888"},
        releases=(
            Release("jhu-clsp/ettin-encoder-17m", sizes(7, 256, 384, 4, 50368, **_ETTIN)),
            Release("jhu-clsp/ettin-encoder-68m", sizes(19, 512, 768, 8, 50368, **_ETTIN)),
            Release("jhu-clsp/mmBERT-small", sizes(22, 384, 1152, 6, 256000, local_rope_theta=160_000.0)),
            Release("answerdotai/ModernBERT-base", sizes(22, 768, 1152, 12, 50368)),
            Release("jhu-clsp/mmBERT-base", sizes(22, 768, 1152, 12, 256000, local_rope_theta=160_000.0)),
            Release("answerdotai/ModernBERT-large", sizes(28, 1024, 2624, 16, 50368)),
        ),
    ),
)
