"""RoBERTa, XLM-RoBERTa and CamemBERT: BERT with other tokenizers, and positions counted from behind the padding id.

Liu et al. 2019, arXiv:1907.11692; Conneau et al. 2020, arXiv:1911.02116; Martin et al. 2020, arXiv:1911.03894.
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
    labels,
    plain_heads,
    pooler,
    sizes,
    transform_head,
)
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


def _release(name: str, *shape: int, max_length: int = 512) -> Release:
    others = {"max_position_embeddings": max_length + _PAD + 1, "type_vocab_size": 1, "layer_norm_eps": 1e-5}
    return Release(name, sizes(*shape, **others))


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
    about=About(
        title="RoBERTa",
        choose_for="English: BERT's architecture, trained longer and on ten times the text",
        tokenizer="byte-level BPE, cased",
        objective="masked words (15%), drawn anew at every pass",
        text="160 GB of English",
        papers={"RoBERTa": "1907.11692", "distilling": "1910.01108"},
        releases=(
            _release("distilbert/distilroberta-base", 6, 768, 3072, 12, 50265),
            _release("FacebookAI/roberta-base", 12, 768, 3072, 12, 50265),
            _release("FacebookAI/roberta-large", 24, 1024, 4096, 16, 50265),
        ),
    ),
    # The head's activation is gelu whatever hidden_act says.
    fixed=BERT.fixed | {"pad_token_id": _PAD, "hidden_act": "gelu"},
)
XLM_ROBERTA = dataclasses.replace(
    ROBERTA,
    model_type="xlm-roberta",
    name="XLMRoberta",
    about=About(
        title="XLM-RoBERTa",
        choose_for="many languages at once, and for the many multilingual embedders and classifiers made from it; most "
        "of its parameters are the vocabulary's",
        tokenizer="SentencePiece unigram, cased",
        objective="masked words (15%)",
        text="2.5 TB from the web, 100 languages",
        papers={"XLM-RoBERTa": "1911.02116", "BGE-M3": "2402.03216"},
        releases=(
            _release("FacebookAI/xlm-roberta-base", 12, 768, 3072, 12, 250002),
            _release("FacebookAI/xlm-roberta-large", 24, 1024, 4096, 16, 250002),
            _release("BAAI/bge-m3", 24, 1024, 4096, 16, 250002, max_length=8192),
        ),
    ),
)
CAMEMBERT = dataclasses.replace(
    ROBERTA,
    model_type="camembert",
    name="Camembert",
    about=About(
        title="CamemBERT",
        choose_for="French",
        tokenizer="SentencePiece unigram, cased",
        objective="masked whole words (15%)",
        text="135 to 138 GB from the web, French",
        papers={"CamemBERT": "1911.03894"},
        releases=(
            _release("almanach/camembert-base", 12, 768, 3072, 12, 32005),
            _release("almanach/camembert-large", 24, 1024, 4096, 16, 32005),
        ),
    ),
)
