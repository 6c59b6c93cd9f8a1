"""DeBERTa-v2, v3 and mDeBERTa: logarithmic distance buckets, projected like contents; v3 learns from replaced tokens.

He et al. 2021, arXiv:2006.03654 and arXiv:2111.09543.
"""

import dataclasses

from jaxencoder.families import deberta
from jaxencoder.families.deberta import COMMON, DEBERTA, max_relative_positions
from jaxencoder.families.family import About, Heads, head
from jaxencoder.families.settings import Entry, Fields, Settings, choice, read_value, same, sizes, written
from jaxencoder.model.config import EncoderConfig
from jaxencoder.model.heads import HeadConfig

# Settings of all published checkpoints of v3, and of v2, which has a convolution.
_V3 = deberta.PUBLISHED | {"position_buckets": 256, "norm_rel_ebd": "layer_norm", "share_att_key": True}
_V2 = _V3 | {"conv_kernel_size": 3, "conv_act": "gelu"}


def _read_distances(settings: Settings, fields: Fields) -> Fields:
    norms = {kind.strip() for kind in read_value(settings, "norm_rel_ebd", str, "none").lower().split("|")}
    if unknown := norms - {"none", "layer_norm"}:
        raise ValueError(f"config.json has norm_rel_ebd {sorted(unknown)}; known are none and layer_norm")
    if not fields["disentangled"]:
        return {}
    buckets = read_value(settings, "position_buckets", int, -1)
    bucketed = {"position_buckets": buckets, "max_distance": max_relative_positions(settings, fields)}
    return {
        "relative_embedding_norm": "layer_norm" in norms,
        "relative_projection": "shared" if read_value(settings, "share_att_key", bool, False) else "separate",
        **(bucketed if buckets > 0 else {}),
    }


def _write_distances(c: EncoderConfig) -> Settings:
    return {
        "position_buckets": c.position_buckets if c.max_distance else -1,
        "norm_rel_ebd": "layer_norm" if c.relative_embedding_norm else "none",
        "share_att_key": c.relative_projection == "shared",
    }


def _heads(c: EncoderConfig, settings: Settings) -> Heads:
    config = HeadConfig("tokens", 1, c.activation, norm=True, add_first_token=True)
    dense, output, norm = (f"mask_predictions.{part}" for part in ("dense", "classifier", "LayerNorm"))
    return DEBERTA.heads(c, settings) | head("rtd_head", config, dense, output, norm)


DEBERTA_V2 = dataclasses.replace(
    DEBERTA,
    model_type="deberta-v2",
    name="DebertaV2",
    architecture=dataclasses.replace(DEBERTA.architecture, key_bias=True),
    settings_table=(
        *DEBERTA.settings_table,
        Entry(_read_distances, _write_distances),
        same("conv_kernel_size"),
        same("conv_groups"),
        choice("conv_act", "conv_activation"),
        written("legacy", True),  # names of the masked-language-model head that every version of transformers reads
    ),
    encoder_table={
        **COMMON,
        "deberta.encoder.layer.{layer}.attention.self.query_proj": "encoder/layer/attention/query",
        "deberta.encoder.layer.{layer}.attention.self.key_proj": "encoder/layer/attention/key",
        "deberta.encoder.layer.{layer}.attention.self.value_proj": "encoder/layer/attention/value",
        "deberta.encoder.layer.{layer}.attention.self.pos_key_proj": "encoder/layer/attention/distance_key",
        "deberta.encoder.layer.{layer}.attention.self.pos_query_proj": "encoder/layer/attention/distance_query",
        "deberta.encoder.LayerNorm": "encoder/distance_embedding/norm",
        "deberta.encoder.conv.conv": "encoder/convolution",
        "deberta.encoder.conv.LayerNorm": "encoder/convolution/norm",
    },
    heads=_heads,
    about=About(
        title="DeBERTa-v2 and v3",
        choose_for="the best fine-tuned accuracy for its size, in English or, as mDeBERTa, in 100 languages",
        tokenizer="SentencePiece",
        objective="masked words (v2), replaced-token detection with gradient-disentangled embeddings (v3)",
        text="English: books, Wikipedia, news, stories and the web; mDeBERTa: CommonCrawl in 100 languages",
        papers={"DeBERTa-v3": "2111.09543", "DeBERTa": "2006.03654"},
        releases={
            "microsoft/deberta-v3-xsmall": sizes(12, 384, 1536, 6, 128100, **_V3),
            "microsoft/deberta-v3-small": sizes(6, 768, 3072, 12, 128100, **_V3),
            "microsoft/deberta-v3-base": sizes(12, 768, 3072, 12, 128100, **_V3),
            "microsoft/mdeberta-v3-base": sizes(12, 768, 3072, 12, 251000, **_V3),
            "microsoft/deberta-v3-large": sizes(24, 1024, 4096, 16, 128100, **_V3),
            "microsoft/deberta-v2-xlarge": sizes(24, 1536, 6144, 24, 128100, **_V2),
            "microsoft/deberta-v2-xxlarge": sizes(48, 1536, 6144, 24, 128100, **_V2),
        },
    ),
)
