"""MPNet: masked and permuted pretraining; relative position biases beside learned positions, no token types.

Song et al. 2020, arXiv:2004.09297.
"""

import dataclasses
from typing import Any

from jaxencoder.families.family import (
    About,
    Family,
    Heads,
    Release,
    Settings,
    labels,
    plain_heads,
    pooler,
    sizes,
    transform_head,
)
from jaxencoder.families.roberta import ROBERTA, behind_padding
from jaxencoder.families.tables import LAYER, Weight, linear, norm, table
from jaxencoder.model.config import EncoderConfig
from jaxencoder.model.heads import HeadConfig

_BUCKETS = 32  # whatever config.json says, transformers computes this many


def _encoder_config(c: Settings) -> EncoderConfig:
    return dataclasses.replace(ROBERTA.encoder_config(c), token_types=0, relative_bias_buckets=_BUCKETS)


def _settings(c: EncoderConfig) -> dict[str, Any]:
    settings = ROBERTA.settings(dataclasses.replace(c, token_types=1))
    del settings["type_vocab_size"]
    return settings | {"relative_attention_num_buckets": _BUCKETS}


def _encoder(c: EncoderConfig) -> list[Weight]:
    theirs, ours = f"mpnet.encoder.layer.{LAYER}", "encoder/layer"
    return behind_padding(
        [
            *table("mpnet.embeddings.word_embeddings", "encoder/embeddings/token_embedding"),
            *table("mpnet.embeddings.position_embeddings", "encoder/embeddings/position_embedding"),
            *norm("mpnet.embeddings.LayerNorm", "encoder/embeddings/norm", True),
            *table("mpnet.encoder.relative_attention_bias", "encoder/relative_bias/table"),
            *linear(f"{theirs}.attention.attn.q", f"{ours}/attention/query", bias=True),
            *linear(f"{theirs}.attention.attn.k", f"{ours}/attention/key", bias=True),
            *linear(f"{theirs}.attention.attn.v", f"{ours}/attention/value", bias=True),
            *linear(f"{theirs}.attention.attn.o", f"{ours}/attention/output", bias=True),
            *norm(f"{theirs}.attention.LayerNorm", f"{ours}/attention_norm", True),
            *linear(f"{theirs}.intermediate.dense", f"{ours}/mlp/up", bias=True),
            *linear(f"{theirs}.output.dense", f"{ours}/mlp/down", bias=True),
            *norm(f"{theirs}.output.LayerNorm", f"{ours}/mlp_norm", True),
        ]
    )


def _heads(c: EncoderConfig, settings: Settings) -> Heads:
    return {
        **plain_heads(settings),
        "pooler": pooler("mpnet.pooler.dense"),
        "sequence_head": transform_head("sequence_head", HeadConfig("cls", labels(settings), "tanh")),
    }


_SIZES = sizes(12, 768, 3072, 12, 30527, max_position_embeddings=514, layer_norm_eps=1e-5)
MPNET = Family(
    model_type="mpnet",
    name="MPNet",
    prefix="mpnet.",
    encoder_config=_encoder_config,
    settings=_settings,
    encoder=_encoder,
    mlm_head=ROBERTA.mlm_head,
    heads=_heads,
    tied=ROBERTA.tied,
    about=About(
        title="MPNet",
        choose_for="sentence embeddings in English: all-mpnet-base-v2 and its like are made from it",
        tokenizer="WordPiece, in lower case",
        objective="masked words, predicted in a random order",
        text="160 GB of English",
        papers={"MPNet": "2004.09297"},
        releases=(
            Release("microsoft/mpnet-base", _SIZES),
            Release("sentence-transformers/all-mpnet-base-v2", _SIZES),
        ),
    ),
    fixed=ROBERTA.fixed | {"relative_attention_num_buckets": _BUCKETS},
)
