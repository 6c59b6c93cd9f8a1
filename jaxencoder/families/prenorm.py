"""BERTs and RoBERTas with norms before each sublayer: XLM-RoBERTa-XL, RoBERTa-PreLayerNorm and Megatron-BERT.

Goyal et al. 2021, arXiv:2105.00572; Ott et al. 2019 (fairseq), arXiv:1904.01038; Shoeybi et al. 2019, arXiv:1909.08053.
"""

import dataclasses

from jaxencoder.families.bert import BERT, ENCODER
from jaxencoder.families.family import About
from jaxencoder.families.roberta import ROBERTA, encoder_table, heads
from jaxencoder.families.settings import sizes
from jaxencoder.families.tables import with_prefix

_ROBERTA = {"max_position_embeddings": 514, "type_vocab_size": 1, "layer_norm_eps": 1e-5}

XLM_ROBERTA_XL = dataclasses.replace(
    ROBERTA,
    model_type="xlm-roberta-xl",
    name="XLMRobertaXL",
    architecture=dataclasses.replace(
        ROBERTA.architecture, norm_placement="pre", embedding_norm=False, norm_epsilon=1e-5
    ),
    encoder_table=lambda c: {
        **with_prefix(encoder_table(c), "roberta.", "roberta.", without="LayerNorm"),
        "roberta.encoder.layer.{layer}.attention.self_attn_layer_norm": "encoder/layer/attention_norm",
        "roberta.encoder.layer.{layer}.LayerNorm": "encoder/layer/mlp_norm",
        "roberta.encoder.LayerNorm": "encoder/final_norm",
    },
    about=About(
        title="XLM-RoBERTa-XL",
        choose_for="100 languages, where 3.5B parameters are affordable",
        tokenizer="SentencePiece unigram, cased",
        objective="masked words (15%)",
        text="2.5 TB from the web, 100 languages",
        papers={"XLM-RoBERTa-XL": "2105.00572"},
        releases={"facebook/xlm-roberta-xl": sizes(36, 2560, 10240, 32, 250880, **_ROBERTA)},
    ),
)
ROBERTA_PRELAYERNORM = dataclasses.replace(
    XLM_ROBERTA_XL,
    model_type="roberta-prelayernorm",
    name="RobertaPreLayerNorm",
    prefix="roberta_prelayernorm.",
    architecture=dataclasses.replace(XLM_ROBERTA_XL.architecture, embedding_norm=True, norm_epsilon=1e-12),
    encoder_table=lambda c: {
        **with_prefix(encoder_table(c), "roberta.", "roberta_prelayernorm.", without="LayerNorm"),
        "roberta_prelayernorm.embeddings.LayerNorm": "encoder/embeddings/norm",
        "roberta_prelayernorm.encoder.layer.{layer}.attention.LayerNorm": "encoder/layer/attention_norm",
        "roberta_prelayernorm.encoder.layer.{layer}.intermediate.LayerNorm": "encoder/layer/mlp_norm",
        "roberta_prelayernorm.LayerNorm": "encoder/final_norm",
    },
    about=About(
        title="RoBERTa-PreLayerNorm",
        choose_for="comparison of masking rates in pretraining: the models of Wettig et al. 2023",
        tokenizer="byte-level BPE, cased",
        objective="masked words (15% to 80%)",
        text="English books and Wikipedia",
        papers={"masking rates": "2202.08005"},
        releases={"andreasmadsen/efficient_mlm_m0.40": sizes(24, 1024, 4096, 16, 50265, **_ROBERTA)},
    ),
    heads=heads("roberta_prelayernorm."),
)
MEGATRON_BERT = dataclasses.replace(
    BERT,
    model_type="megatron-bert",
    name="MegatronBert",
    architecture=dataclasses.replace(BERT.architecture, norm_placement="pre", embedding_norm=False),
    encoder_table={
        **with_prefix(ENCODER, "bert.", "bert.", without="LayerNorm"),
        "bert.encoder.layer.{layer}.attention.ln": "encoder/layer/attention_norm",
        "bert.encoder.layer.{layer}.ln": "encoder/layer/mlp_norm",
        "bert.encoder.ln": "encoder/final_norm",
    },
    about=About(
        title="Megatron-BERT",
        choose_for="large BERTs of a field or a language, such as GatorTron for clinical English",
        tokenizer="WordPiece",
        objective="masked words (15%), next-sentence prediction",
        text="English books, Wikipedia and the web; GatorTron: 82B words of clinical notes",
        papers={"Megatron": "1909.08053", "GatorTron": "2203.03540"},
        releases={"UFNLP/gatortron-base": sizes(24, 1024, 4096, 16, 50176)},
    ),
)
