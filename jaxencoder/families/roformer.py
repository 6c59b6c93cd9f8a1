"""RoFormer: BERT with rotary positions, the pairs side by side. Su et al. 2021, arXiv:2104.09864."""

import dataclasses
from typing import Any

from jaxencoder.families.bert import BERT
from jaxencoder.families.electra import narrow_bert, narrow_encoder
from jaxencoder.families.family import (
    About,
    Family,
    Heads,
    Release,
    Settings,
    labels,
    plain_heads,
    sizes,
    transform_head,
)
from jaxencoder.families.tables import Weight
from jaxencoder.model.config import EncoderConfig
from jaxencoder.model.heads import HeadConfig


def _encoder_config(c: Settings) -> EncoderConfig:
    config = narrow_bert({"max_position_embeddings": 1536} | dict(c))
    return dataclasses.replace(config, positions="rotary", rotary_values=c.get("rotary_value", False))


def _settings(c: EncoderConfig) -> dict[str, Any]:
    return BERT.settings(c) | {"embedding_size": c.embedding_width, "rotary_value": c.rotary_values}


def _encoder(c: EncoderConfig) -> list[Weight]:
    turned = ("query", "key", "value", "output") if c.rotary_values else ("query", "key")
    rows = []
    for row in narrow_encoder(c, "roformer."):
        *_, module, leaf = row.ours[0].split("/")
        inside = "/attention/" in row.ours[0] and module in turned
        rows.append(row._replace(interleaved=inside and (module, leaf) != ("output", "bias")))
    return [row for row in rows if row.ours != ("encoder/embeddings/position_embedding",)]


def _heads(c: EncoderConfig, settings: Settings) -> Heads:
    return {
        "sequence_head": transform_head("sequence_head", HeadConfig("cls", labels(settings), c.activation)),
        **plain_heads(settings, "token_head", "span_head"),
    }


ROFORMER = Family(
    model_type="roformer",
    name="RoFormer",
    prefix="roformer.",
    encoder_config=_encoder_config,
    settings=_settings,
    encoder=_encoder,
    mlm_head=BERT.mlm_head,
    heads=_heads,
    tied=BERT.tied,
    about=About(
        title="RoFormer",
        choose_for="Chinese, and for the study of rotary positions, which it introduced",
        tokenizer="WordPiece, of Chinese words or characters",
        objective="masked words",
        text="Chinese",
        papers={"RoFormer": "2104.09864"},
        releases=(
            Release("junnyu/roformer_chinese_small", sizes(6, 384, 1536, 6, 50000)),
            Release("junnyu/roformer_chinese_char_base", sizes(12, 768, 3072, 12, 12000, max_position_embeddings=512)),
            Release("junnyu/roformer_chinese_base", sizes(12, 768, 3072, 12, 50000)),
        ),
    ),
    fixed=BERT.fixed,
)
