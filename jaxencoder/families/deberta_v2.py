"""DeBERTa-v2, v3 and mDeBERTa: distances in buckets that grow, projected as contents are; v3 learns by replaced tokens.

He et al. 2021, arXiv:2006.03654 and arXiv:2111.09543.
"""

import dataclasses
from typing import Any

from jaxencoder.families import deberta
from jaxencoder.families.deberta import DEBERTA, deberta_config, deberta_encoder, deberta_settings, furthest
from jaxencoder.families.family import PUBLISHED, About, Heads, Release, Settings, head, known_activation, sizes
from jaxencoder.families.tables import LAYER, Weight, linear, norm
from jaxencoder.model.config import EncoderConfig
from jaxencoder.model.heads import HeadConfig

# What the published checkpoints have in common: v2 and v3, and v2's convolution.
_V3 = deberta.PUBLISHED | {"position_buckets": 256, "norm_rel_ebd": "layer_norm", "share_att_key": True}
_V2 = _V3 | {"conv_kernel_size": 3, "conv_act": "gelu"}


def _encoder_config(c: Settings) -> EncoderConfig:
    config, buckets = deberta_config(c), c.get("position_buckets", -1)
    norms = {kind.strip() for kind in c.get("norm_rel_ebd", "none").lower().split("|")}
    if unknown := norms - {"none", "layer_norm"}:
        raise ValueError(f"config.json has norm_rel_ebd {sorted(unknown)}; known are none and layer_norm")
    if config.disentangled:
        config = dataclasses.replace(
            config,
            position_buckets=buckets if buckets > 0 else config.position_buckets,
            max_distance=furthest(c) if buckets > 0 else 0,
            relative_embedding_norm="layer_norm" in norms,
            relative_projection="shared" if c.get("share_att_key", False) else "own",
        )
    return dataclasses.replace(
        config,
        conv_kernel_size=c.get("conv_kernel_size", 0),
        conv_groups=c.get("conv_groups", 1),
        conv_activation=known_activation(c.get("conv_act", "tanh"), "conv_act"),
    )


def _settings(c: EncoderConfig) -> dict[str, Any]:
    return deberta_settings(c) | {
        "position_buckets": c.position_buckets if c.max_distance else -1,
        "norm_rel_ebd": "layer_norm" if c.relative_embedding_norm else "none",
        "share_att_key": c.relative_projection == "shared",
        "conv_kernel_size": c.conv_kernel_size,
        "conv_groups": c.conv_groups,
        "conv_act": PUBLISHED[c.conv_activation],
        "legacy": True,  # the names of the masked-language-model head that every version of transformers knows
    }


def _encoder(c: EncoderConfig) -> list[Weight]:
    theirs, ours = f"deberta.encoder.layer.{LAYER}.attention.self", "encoder/layer/attention"
    rows = [
        row
        for name in ("query", "key", "value")
        for row in linear(f"{theirs}.{name}_proj", f"{ours}/{name}", bias=True)
    ]
    if c.relative_projection == "own":
        if "c2p" in c.disentangled:
            rows += linear(f"{theirs}.pos_key_proj", f"{ours}/distance_key", bias=True)
        if "p2c" in c.disentangled:
            rows += linear(f"{theirs}.pos_query_proj", f"{ours}/distance_query", bias=True)
    rows = deberta_encoder(c, rows)
    if c.relative_embedding_norm:
        rows += norm("deberta.encoder.LayerNorm", "encoder/distance_embedding/norm", True)
    if c.conv_kernel_size:
        rows += linear("deberta.encoder.conv.conv", "encoder/convolution", bias=True)
        rows += norm("deberta.encoder.conv.LayerNorm", "encoder/convolution/norm", True)
    return rows


def _heads(c: EncoderConfig, settings: Settings) -> Heads:
    replaced = HeadConfig("tokens", 1, c.activation, norm=True, add_first_token=True)
    where = "mask_predictions"
    return DEBERTA.heads(c, settings) | {
        "rtd_head": head("rtd_head", replaced, f"{where}.dense", f"{where}.classifier", f"{where}.LayerNorm")
    }


DEBERTA_V2 = dataclasses.replace(
    DEBERTA,
    model_type="deberta-v2",
    name="DebertaV2",
    encoder_config=_encoder_config,
    settings=_settings,
    encoder=_encoder,
    heads=_heads,
    about=About(
        title="DeBERTa-v2 and v3",
        choose_for="the best accuracy of a fine-tuned model of its size, in English or, as mDeBERTa, in 100 languages",
        tokenizer="SentencePiece",
        objective="masked words (v2), replaced-token detection with embeddings whose gradients are kept apart (v3)",
        text="English: books, Wikipedia, news, stories and the web; mDeBERTa: CommonCrawl in 100 languages",
        papers={"DeBERTa-v3": "2111.09543", "DeBERTa": "2006.03654"},
        releases=(
            Release("microsoft/deberta-v3-xsmall", sizes(12, 384, 1536, 6, 128100, **_V3)),
            Release("microsoft/deberta-v3-small", sizes(6, 768, 3072, 12, 128100, **_V3)),
            Release("microsoft/deberta-v3-base", sizes(12, 768, 3072, 12, 128100, **_V3)),
            Release("microsoft/mdeberta-v3-base", sizes(12, 768, 3072, 12, 251000, **_V3)),
            Release("microsoft/deberta-v3-large", sizes(24, 1024, 4096, 16, 128100, **_V3)),
            Release("microsoft/deberta-v2-xlarge", sizes(24, 1536, 6144, 24, 128100, **_V2)),
            Release("microsoft/deberta-v2-xxlarge", sizes(48, 1536, 6144, 24, 128100, **_V2)),
        ),
    ),
)
