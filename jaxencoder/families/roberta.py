"""RoBERTa, XLM-RoBERTa and CamemBERT: BERT with other tokenizers, and positions counted from behind the padding id.

Liu et al. 2019, arXiv:1907.11692; Conneau et al. 2020, arXiv:1911.02116; Martin et al. 2020, arXiv:1911.03894.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

from jaxencoder.families.bert import BERT
from jaxencoder.families.family import Family, Settings
from jaxencoder.families.tables import Weight, linear, norm
from jaxencoder.model.config import EncoderConfig

_PAD = 1  # of every published model; the first token has the position after it
_POSITIONS = "roberta.embeddings.position_embeddings.weight"


def _encoder_config(c: Settings) -> EncoderConfig:
    config = BERT.encoder_config(c)
    return dataclasses.replace(config, max_length=config.max_length - _PAD - 1)


def _settings(c: EncoderConfig) -> dict[str, Any]:
    return BERT.settings(c) | {"max_position_embeddings": c.max_length + _PAD + 1, "pad_token_id": _PAD}


def _encoder(c: EncoderConfig) -> list[Weight]:
    return list(_renamed(BERT.encoder(c)))


def _renamed(weights: list[Weight]) -> Iterator[Weight]:
    for weight in weights:
        name = "roberta." + weight.theirs.removeprefix("bert.")
        yield weight._replace(theirs=name, skip=_PAD + 1 if name == _POSITIONS else 0)


def _mlm_head(c: EncoderConfig) -> list[Weight]:
    return [
        *linear("lm_head.dense", "mlm_head/dense", bias=True),
        *norm("lm_head.layer_norm", "mlm_head/norm", True),
        Weight("lm_head.bias", ("mlm_head/bias",)),
    ]


ROBERTA = Family(
    model_type="roberta",
    prefix="roberta.",
    masked_lm="RobertaForMaskedLM",
    encoder_config=_encoder_config,
    settings=_settings,
    encoder=_encoder,
    mlm_head=_mlm_head,
    tied="lm_head.decoder.weight",
    # The head's activation is gelu whatever hidden_act says.
    fixed=BERT.fixed | {"pad_token_id": _PAD, "hidden_act": "gelu"},
)
XLM_ROBERTA = dataclasses.replace(ROBERTA, model_type="xlm-roberta", masked_lm="XLMRobertaForMaskedLM")
CAMEMBERT = dataclasses.replace(ROBERTA, model_type="camembert", masked_lm="CamembertForMaskedLM")
