"""ELECTRA: a generator fills masks, a discriminator finds what it replaced; narrow embeddings in the small sizes.

Clark et al. 2020, arXiv:2003.10555. Both are BERT's encoder.
"""

import dataclasses
from typing import Any

from jaxencoder.families.bert import BERT
from jaxencoder.families.family import (
    About,
    Family,
    Heads,
    Release,
    Settings,
    head,
    labels,
    plain_heads,
    sizes,
    transform_head,
)
from jaxencoder.families.tables import Weight, linear, moved, norm
from jaxencoder.model.config import EncoderConfig
from jaxencoder.model.heads import HeadConfig

# How its multiple-choice head makes one vector of a text.
_SUMMARY = {"summary_type": "first", "summary_use_proj": True, "summary_activation": "gelu"}


def narrow_bert(c: Settings) -> EncoderConfig:
    """BERT's architecture with embeddings that are projected where they are narrower or wider than the layers."""
    config = BERT.encoder_config(c)
    width = c.get("embedding_size") or config.hidden_size
    return dataclasses.replace(config, embedding_size=0 if width == config.hidden_size else width)


def _encoder_config(c: Settings) -> EncoderConfig:
    config = narrow_bert({"embedding_size": 128} | dict(c))
    return dataclasses.replace(config, head_activation="same" if config.activation == "gelu" else "gelu")


def _settings(c: EncoderConfig) -> dict[str, Any]:
    return BERT.settings(c) | {"embedding_size": c.embedding_width}


def _encoder(c: EncoderConfig) -> list[Weight]:
    return narrow_encoder(c, "electra.")


def narrow_encoder(c: EncoderConfig, prefix: str) -> list[Weight]:
    """BERT's rows under another prefix, and the projection of the embeddings if there is one."""
    rows = moved(BERT.encoder(c), "bert.", prefix)
    if c.embedding_size:
        rows += linear(f"{prefix}embeddings_project", "encoder/embeddings/projection", bias=True)
    return rows


def _mlm_head(c: EncoderConfig) -> list[Weight]:
    return [
        *linear("generator_predictions.dense", "mlm_head/dense", bias=True),
        *norm("generator_predictions.LayerNorm", "mlm_head/norm", True),
        Weight("generator_lm_head.bias", ("mlm_head/bias",)),
    ]


def _heads(c: EncoderConfig, settings: Settings) -> Heads:
    heads = {
        "rtd_head": head(
            "rtd_head",
            HeadConfig("tokens", 1, c.activation),
            "discriminator_predictions.dense",
            "discriminator_predictions.dense_prediction",
        ),
        "sequence_head": transform_head("sequence_head", HeadConfig("cls", labels(settings), "gelu")),
        **plain_heads(settings, "token_head", "span_head"),
    }
    if all(settings.get(name, value) == value for name, value in _SUMMARY.items()):
        config = HeadConfig("cls", 1, "gelu")
        heads["choice_head"] = head("choice_head", config, "sequence_summary.summary", "classifier")
    return heads


ELECTRA = Family(
    model_type="electra",
    name="Electra",
    prefix="electra.",
    encoder_config=_encoder_config,
    settings=_settings,
    encoder=_encoder,
    mlm_head=_mlm_head,
    heads=_heads,
    tied="generator_lm_head.weight",
    about=About(
        title="ELECTRA",
        choose_for="fine-tuning a small English model: every token teaches it something, not only the masked ones",
        tokenizer="WordPiece, in lower case",
        objective="replaced-token detection",
        text="English: books, Wikipedia, news and the web",
        papers={"ELECTRA": "2003.10555"},
        releases=(
            Release("google/electra-small-discriminator", sizes(12, 256, 1024, 4, 30522, embedding_size=128)),
            Release("google/electra-base-discriminator", sizes(12, 768, 3072, 12, 30522, embedding_size=768)),
            Release("google/electra-large-discriminator", sizes(24, 1024, 4096, 16, 30522, embedding_size=1024)),
        ),
    ),
    fixed=BERT.fixed,
)
