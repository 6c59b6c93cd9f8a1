"""DeBERTa: attention that compares contents with distances. He et al. 2021, arXiv:2006.03654."""

import dataclasses
from typing import Any

from jaxencoder.families.bert import BERT
from jaxencoder.families.family import (
    About,
    Family,
    Heads,
    Release,
    Settings,
    activation,
    plain_heads,
    pooler,
    sizes,
)
from jaxencoder.families.tables import LAYER, Weight, linear, norm, table
from jaxencoder.model.config import EncoderConfig

# What the published checkpoints have in common.
PUBLISHED = {"relative_attention": True, "position_biased_input": False, "pos_att_type": "c2p|p2c"}
# The original code's names of the masked-language-model head -> those of transformers' class.
ALIASES = {
    "lm_predictions.lm_head.bias": "cls.predictions.bias",
    "lm_predictions.lm_head.": "cls.predictions.transform.",
}


def deberta_config(c: Settings) -> EncoderConfig:
    """What the versions have in common: DeBERTa's own architecture, with a bias for keys."""
    config = BERT.encoder_config({"layer_norm_eps": 1e-7, "type_vocab_size": 0} | dict(c))
    for name in ("embedding_size", "pooler_hidden_size", "attention_head_size"):
        expected = config.head_size if name == "attention_head_size" else config.hidden_size
        if c.get(name, expected) != expected:
            raise ValueError(f"config.json has {name} {c[name]}; only {expected} can be loaded")
    kinds = c.get("pos_att_type") or ()
    kinds = kinds.lower().split("|") if isinstance(kinds, str) else kinds
    if unknown := set(kinds := [kind.strip() for kind in kinds]) - {"c2p", "p2c"}:
        raise ValueError(f"config.json has pos_att_type {sorted(unknown)}; known are c2p and p2c")
    if c.get("relative_attention", False) != bool(kinds):
        raise ValueError(
            f"config.json has relative_attention {c.get('relative_attention', False)} and pos_att_type {kinds}; "
            "only both or neither can be loaded"
        )
    return dataclasses.replace(
        config,
        positions="learned" if c.get("position_biased_input", True) else "none",
        disentangled=tuple(sorted(set(kinds))),
        position_buckets=furthest(c) if kinds else 0,
    )


def furthest(c: Settings) -> int:
    """The largest distance that relative positions tell apart."""
    span = c.get("max_relative_positions", -1)
    return span if span >= 1 else c.get("max_position_embeddings", 512)


def deberta_settings(c: EncoderConfig) -> dict[str, Any]:
    """The config.json of what the versions have in common."""
    return BERT.settings(dataclasses.replace(c, token_types=c.token_types or 1)) | {
        "type_vocab_size": c.token_types,
        "relative_attention": bool(c.disentangled),
        "pos_att_type": list(c.disentangled),
        "max_relative_positions": c.max_distance or c.position_buckets or -1,
        "position_biased_input": c.positions == "learned",
    }


def deberta_encoder(c: EncoderConfig, attention: list[Weight]) -> list[Weight]:
    """The rows of the encoder, given those of a layer's attention up to its output."""
    theirs, ours = f"deberta.encoder.layer.{LAYER}", "encoder/layer"
    embeddings = "deberta.embeddings"
    rows = table(f"{embeddings}.word_embeddings", "encoder/embeddings/token_embedding")
    if c.positions == "learned":
        rows += table(f"{embeddings}.position_embeddings", "encoder/embeddings/position_embedding")
    if c.token_types:
        rows += table(f"{embeddings}.token_type_embeddings", "encoder/embeddings/token_type_embedding")
    if c.disentangled:
        rows += table("deberta.encoder.rel_embeddings", "encoder/distance_embedding/table")
    return [
        *rows,
        *norm(f"{embeddings}.LayerNorm", "encoder/embeddings/norm", True),
        *attention,
        *linear(f"{theirs}.attention.output.dense", f"{ours}/attention/output", bias=True),
        *norm(f"{theirs}.attention.output.LayerNorm", f"{ours}/attention_norm", True),
        *linear(f"{theirs}.intermediate.dense", f"{ours}/mlp/up", bias=True),
        *linear(f"{theirs}.output.dense", f"{ours}/mlp/down", bias=True),
        *norm(f"{theirs}.output.LayerNorm", f"{ours}/mlp_norm", True),
    ]


def _encoder_config(c: Settings) -> EncoderConfig:
    return dataclasses.replace(deberta_config(c), key_bias=False)


def _encoder(c: EncoderConfig) -> list[Weight]:
    theirs, ours = f"deberta.encoder.layer.{LAYER}.attention.self", "encoder/layer/attention"
    heads = (f"{ours}/{name}" for name in ("query", "key", "value"))
    rows = [
        *linear(f"{theirs}.in_proj", *heads, bias=False, by_head=True),
        Weight(f"{theirs}.q_bias", (f"{ours}/query/bias",)),
        Weight(f"{theirs}.v_bias", (f"{ours}/value/bias",)),
    ]
    if "c2p" in c.disentangled:
        rows += linear(f"{theirs}.pos_proj", f"{ours}/distance_key", bias=False)
    if "p2c" in c.disentangled:
        rows += linear(f"{theirs}.pos_q_proj", f"{ours}/distance_query", bias=True)
    return deberta_encoder(c, rows)


def heads(c: EncoderConfig, settings: Settings) -> Heads:
    """The heads of transformers' classes: a pooler with an activation of its own, and single projections."""
    return {
        "pooler": pooler("pooler.dense", activation(settings, "pooler_hidden_act")),
        **plain_heads(settings),
    }


DEBERTA = Family(
    model_type="deberta",
    name="Deberta",
    prefix="deberta.",
    encoder_config=_encoder_config,
    settings=deberta_settings,
    encoder=_encoder,
    mlm_head=BERT.mlm_head,
    heads=heads,
    tied=BERT.tied,
    about=About(
        title="DeBERTa",
        choose_for="accurate English models that mind the case of letters; DeBERTa-v3 is better still",
        tokenizer="byte-level BPE (GPT-2's)",
        objective="masked words and spans",
        text="English: books, Wikipedia, stories and the web",
        papers={"DeBERTa": "2006.03654"},
        releases=(
            Release("microsoft/deberta-base", sizes(12, 768, 3072, 12, 50265, **PUBLISHED)),
            Release("microsoft/deberta-large", sizes(24, 1024, 4096, 16, 50265, **PUBLISHED)),
            Release("microsoft/deberta-xlarge", sizes(48, 1024, 4096, 16, 50265, **PUBLISHED)),
        ),
    ),
    fixed=BERT.fixed | {"talking_head": False},
    aliases=ALIASES,
    classifier={"pooler_hidden_act": "tanh"},
)
