"""RoBERTa, XLM-RoBERTa and CamemBERT: BERT with other tokenizers, and positions that start after the padding id.

Liu et al. 2019, arXiv:1907.11692; Conneau et al. 2020, arXiv:1911.02116; Martin et al. 2020, arXiv:1911.03894.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxencoder.families import bert
from jaxencoder.families.bert import BERT, SETTINGS, TOKEN_TYPES
from jaxencoder.families.family import About, Family, Heads, plain_heads, pooler, two_layer_classifier
from jaxencoder.families.settings import Entry, Fields, Settings, read_value, sizes
from jaxencoder.families.tables import Params, Weight, mlm_head, with_prefix
from jaxencoder.model.config import EncoderConfig

PAD = 1  # the default of all published families; the first token has the position after it
PADDING_POSITION = "padding_position"  # among the parameters of the embeddings


def shifted_positions(pad_id: int | None = None) -> Entry:
    """Positions from ids: a padding token has the row of its id, other tokens the rows after it, in their order.

    `pad_id` is for a family whose code does not ask config.json for it.
    """

    def read(settings: Settings, fields: Fields) -> Fields:
        pad = read_value(settings, "pad_token_id", int, PAD) if pad_id is None else pad_id
        rows = read_value(settings, "max_position_embeddings", int, 512)
        if not 0 <= pad < fields["vocab_size"]:
            raise ValueError(f"config.json has pad_token_id {pad}; positions need one below {fields['vocab_size']}")
        if rows < pad + 2:
            raise ValueError(f"config.json has max_position_embeddings {rows}; none follows that of padding, {pad}")
        return {"position_pad_id": pad, "max_length": rows - pad - 1}

    def write(c: EncoderConfig) -> Settings:
        pad = c.position_pad_id
        if pad < 0 or pad_id not in (None, pad):
            needed = "an id" if pad_id is None else pad_id
            raise ValueError(f"model.position_pad_id is {pad}; this family needs {needed}")
        return {"max_position_embeddings": c.max_length + pad + 1, "pad_token_id": pad}

    return Entry(read, write)


def position_table(c: EncoderConfig, prefix: str) -> dict[str, str | Weight]:
    """The row of the positions, of which the first that counts is that of padding."""
    rows = (f"encoder/embeddings/{PADDING_POSITION}", "encoder/embeddings/position_embedding")
    return {f"{prefix}embeddings.position_embeddings": Weight(rows, skip=c.position_pad_id)}


def with_padding_position(encoder: Params) -> Params:
    """The parameters of an encoder that counts all positions, with the position of padding, which is zeros."""
    embeddings = encoder["embeddings"]
    row = np.zeros_like(embeddings["position_embedding"][:1])
    return encoder | {"embeddings": embeddings | {PADDING_POSITION: row}}


def encoder_table(c: EncoderConfig) -> dict[str, str | Weight]:
    """The table of the encoder's weights."""
    return with_prefix(bert.ENCODER, "bert.", "roberta.") | position_table(c, "roberta.")


def heads(prefix: str) -> Callable[[EncoderConfig, Settings], Heads]:
    """The heads, below the prefix of the encoder's tensors."""
    return lambda c, s: plain_heads(s) | pooler(f"{prefix}pooler.dense") | two_layer_classifier(s, "tanh")


def _sizes(*shape: int, max_length: int = 512) -> dict[str, Any]:
    settings = {"max_position_embeddings": max_length + PAD + 1, "type_vocab_size": 1, "layer_norm_eps": 1e-5}
    return sizes(*shape, **settings)


ROBERTA = Family(
    model_type="roberta",
    name="Roberta",
    prefix="roberta.",
    architecture=EncoderConfig(head_activation="gelu"),  # regardless of hidden_act
    settings_table=(*SETTINGS, shifted_positions(), TOKEN_TYPES),
    encoder_table=encoder_table,
    mlm_head_table=mlm_head("lm_head.dense", "lm_head.layer_norm", "lm_head.bias"),
    heads=heads("roberta."),
    tied="lm_head.decoder.weight",
    about=About(
        title="RoBERTa",
        choose_for="English: BERT's architecture, trained longer and on ten times the text",
        tokenizer="byte-level BPE, cased",
        objective="masked words (15%), redrawn in every epoch",
        text="160 GB of English",
        papers={"RoBERTa": "1907.11692", "distilling": "1910.01108"},
        releases={
            "distilbert/distilroberta-base": _sizes(6, 768, 3072, 12, 50265),
            "FacebookAI/roberta-base": _sizes(12, 768, 3072, 12, 50265),
            "FacebookAI/roberta-large": _sizes(24, 1024, 4096, 16, 50265),
        },
    ),
    fixed=BERT.fixed,
)
XLM_ROBERTA = dataclasses.replace(
    ROBERTA,
    model_type="xlm-roberta",
    name="XLMRoberta",
    about=About(
        title="XLM-RoBERTa",
        choose_for="many languages at once, and the many multilingual embedders and classifiers made from it; most of "
        "its parameters are embeddings of its large vocabulary",
        tokenizer="SentencePiece unigram, cased",
        objective="masked words (15%)",
        text="2.5 TB from the web, 100 languages",
        papers={"XLM-RoBERTa": "1911.02116", "BGE-M3": "2402.03216"},
        releases={
            "FacebookAI/xlm-roberta-base": _sizes(12, 768, 3072, 12, 250002),
            "FacebookAI/xlm-roberta-large": _sizes(24, 1024, 4096, 16, 250002),
            "BAAI/bge-m3": _sizes(24, 1024, 4096, 16, 250002, max_length=8192),
        },
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
        releases={
            "almanach/camembert-base": _sizes(12, 768, 3072, 12, 32005),
            "almanach/camembert-large": _sizes(24, 1024, 4096, 16, 32005),
        },
    ),
)
