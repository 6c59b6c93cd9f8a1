"""RoBERTa, XLM-RoBERTa and CamemBERT: BERT with other tokenizers, and positions that start after the padding id.

Liu et al. 2019, arXiv:1907.11692; Conneau et al. 2020, arXiv:1911.02116; Martin et al. 2020, arXiv:1911.03894.
"""

import dataclasses
from typing import Any

from jaxencoder.families import bert
from jaxencoder.families.bert import BERT, SETTINGS, TOKEN_TYPES
from jaxencoder.families.family import About, Family, plain_heads, pooler, two_layer_classifier
from jaxencoder.families.settings import Entry, read_value, sizes, written
from jaxencoder.families.tables import Weight, mlm_head, with_prefix
from jaxencoder.model.config import EncoderConfig

PAD = 1  # in all published models; the first token has the position after it
SHIFTED_POSITIONS = (
    Entry(
        lambda c, _: {"max_length": read_value(c, "max_position_embeddings", int, 512) - PAD - 1},
        lambda c: {"max_position_embeddings": c.max_length + PAD + 1},
    ),
    written("pad_token_id", PAD),
)
ENCODER = with_prefix(bert.ENCODER, "bert.", "roberta.") | {
    "roberta.embeddings.position_embeddings": Weight(("encoder/embeddings/position_embedding",), skip=PAD + 1)
}


def _sizes(*shape: int, max_length: int = 512) -> dict[str, Any]:
    settings = {"max_position_embeddings": max_length + PAD + 1, "type_vocab_size": 1, "layer_norm_eps": 1e-5}
    return sizes(*shape, **settings)


ROBERTA = Family(
    model_type="roberta",
    name="Roberta",
    prefix="roberta.",
    architecture=EncoderConfig(head_activation="gelu"),  # regardless of hidden_act
    settings_table=(*SETTINGS, *SHIFTED_POSITIONS, TOKEN_TYPES),
    encoder_table=ENCODER,
    mlm_head_table=mlm_head("lm_head.dense", "lm_head.layer_norm", "lm_head.bias"),
    heads=lambda c, s: plain_heads(s) | pooler("roberta.pooler.dense") | two_layer_classifier(s, "tanh"),
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
    fixed=BERT.fixed | {"pad_token_id": PAD},
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
