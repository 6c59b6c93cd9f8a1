"""RoBERTa, XLM-RoBERTa and CamemBERT: BERT with other tokenizers, and positions counted from behind the padding id.

Liu et al. 2019, arXiv:1907.11692; Conneau et al. 2020, arXiv:1911.02116; Martin et al. 2020, arXiv:1911.03894.
"""

import dataclasses
from typing import Any

from jaxencoder.families.bert import BERT
from jaxencoder.families.family import Family, Heads, Settings, labels, plain_heads, pooler, transform_head
from jaxencoder.families.tables import Weight, linear, moved, norm
from jaxencoder.model.config import EncoderConfig
from jaxencoder.model.heads import HeadConfig

_PAD = 1  # of every published model; the first token has the position after it


def _encoder_config(c: Settings) -> EncoderConfig:
    config = BERT.encoder_config(c)
    return dataclasses.replace(config, max_length=config.max_length - _PAD - 1)


def _settings(c: EncoderConfig) -> dict[str, Any]:
    return BERT.settings(c) | {"max_position_embeddings": c.max_length + _PAD + 1, "pad_token_id": _PAD}


def _encoder(c: EncoderConfig) -> list[Weight]:
    return behind_padding(moved(BERT.encoder(c), "bert.", "roberta."))


def behind_padding(weights: list[Weight]) -> list[Weight]:
    """The rows with a position table whose first positions nothing reads."""
    return [w._replace(skip=_PAD + 1) if w.theirs.endswith(".position_embeddings.weight") else w for w in weights]


def _mlm_head(c: EncoderConfig) -> list[Weight]:
    return [
        *linear("lm_head.dense", "mlm_head/dense", bias=True),
        *norm("lm_head.layer_norm", "mlm_head/norm", True),
        Weight("lm_head.bias", ("mlm_head/bias",)),
    ]


def _heads(c: EncoderConfig, settings: Settings) -> Heads:
    return {
        **plain_heads(settings),
        "pooler": pooler("roberta.pooler.dense"),
        "sequence_head": transform_head("sequence_head", HeadConfig("cls", labels(settings), "tanh")),
    }


ROBERTA = Family(
    model_type="roberta",
    name="Roberta",
    prefix="roberta.",
    encoder_config=_encoder_config,
    settings=_settings,
    encoder=_encoder,
    mlm_head=_mlm_head,
    heads=_heads,
    tied="lm_head.decoder.weight",
    # The head's activation is gelu whatever hidden_act says.
    fixed=BERT.fixed | {"pad_token_id": _PAD, "hidden_act": "gelu"},
)
XLM_ROBERTA = dataclasses.replace(ROBERTA, model_type="xlm-roberta", name="XLMRoberta")
CAMEMBERT = dataclasses.replace(ROBERTA, model_type="camembert", name="Camembert")
