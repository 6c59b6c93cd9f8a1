"""ALBERT: layers that share their parameters, and narrow embeddings. Lan et al. 2020, arXiv:1909.11942."""

import dataclasses
from typing import Any

from jaxencoder.families.bert import BERT
from jaxencoder.families.family import About, Family, Heads, Release, Settings, head, labels, plain_heads, sizes
from jaxencoder.families.tables import BLOCK, ROW, Weight, linear, norm, table
from jaxencoder.model.config import EncoderConfig
from jaxencoder.model.heads import HeadConfig


def _encoder_config(c: Settings) -> EncoderConfig:
    config = BERT.encoder_config({"hidden_act": "gelu_new", "hidden_dropout_prob": 0.0} | dict(c))
    layers = c.get("inner_group_num", 1)  # of a group, one after the other
    return dataclasses.replace(
        config,
        num_layers=config.num_layers * layers,
        windows=(0,) * layers,
        num_layer_groups=c.get("num_hidden_groups", 1),
        embedding_size=c.get("embedding_size", 128),
        attention_dropout=c.get("attention_probs_dropout_prob", 0.0),
    )


def _settings(c: EncoderConfig) -> dict[str, Any]:
    return BERT.settings(c) | {
        "num_hidden_layers": c.repeats,
        "num_hidden_groups": c.num_layer_groups,
        "inner_group_num": len(c.windows),
        "embedding_size": c.embedding_size,
    }


def _encoder(c: EncoderConfig) -> list[Weight]:
    theirs, ours = f"albert.encoder.albert_layer_groups.{ROW}.albert_layers.{BLOCK}", "encoder/layer"
    return [
        *table("albert.embeddings.word_embeddings", "encoder/embeddings/token_embedding"),
        *table("albert.embeddings.position_embeddings", "encoder/embeddings/position_embedding"),
        *table("albert.embeddings.token_type_embeddings", "encoder/embeddings/token_type_embedding"),
        *norm("albert.embeddings.LayerNorm", "encoder/embeddings/norm", True),
        *linear("albert.encoder.embedding_hidden_mapping_in", "encoder/embeddings/projection", bias=True),
        *linear(f"{theirs}.attention.query", f"{ours}/attention/query", bias=True),
        *linear(f"{theirs}.attention.key", f"{ours}/attention/key", bias=True),
        *linear(f"{theirs}.attention.value", f"{ours}/attention/value", bias=True),
        *linear(f"{theirs}.attention.dense", f"{ours}/attention/output", bias=True),
        *norm(f"{theirs}.attention.LayerNorm", f"{ours}/attention_norm", True),
        *linear(f"{theirs}.ffn", f"{ours}/mlp/up", bias=True),
        *linear(f"{theirs}.ffn_output", f"{ours}/mlp/down", bias=True),
        *norm(f"{theirs}.full_layer_layer_norm", f"{ours}/mlp_norm", True),
    ]


def _mlm_head(c: EncoderConfig) -> list[Weight]:
    return [
        *linear("predictions.dense", "mlm_head/dense", bias=True),
        *norm("predictions.LayerNorm", "mlm_head/norm", True),
        Weight("predictions.bias", ("mlm_head/bias",)),
    ]


def _heads(c: EncoderConfig, settings: Settings) -> Heads:
    order = HeadConfig("pooled", labels(settings))  # of two sentences: SOP where BERT has NSP
    return {
        "pooler": head("pooler", HeadConfig("cls", activation="tanh"), "albert.pooler"),
        "nsp_head": head("nsp_head", order, output="sop_classifier.classifier"),
        **plain_heads(settings),
    }


ALBERT = Family(
    model_type="albert",
    name="Albert",
    prefix="albert.",
    encoder_config=_encoder_config,
    settings=_settings,
    encoder=_encoder,
    mlm_head=_mlm_head,
    heads=_heads,
    tied="predictions.decoder.weight",
    about=About(
        title="ALBERT",
        choose_for="few parameters to store and to send; every layer uses them again, so it computes no less than BERT",
        tokenizer="SentencePiece unigram, in lower case",
        objective="masked runs of words, sentence-order prediction",
        text="English books and Wikipedia",
        papers={"ALBERT": "1909.11942"},
        releases=(
            Release("albert/albert-base-v2", sizes(12, 768, 3072, 12, 30000)),
            Release("albert/albert-large-v2", sizes(24, 1024, 4096, 16, 30000)),
            Release("albert/albert-xlarge-v2", sizes(24, 2048, 8192, 16, 30000)),
            Release("albert/albert-xxlarge-v2", sizes(12, 4096, 16384, 64, 30000)),
        ),
    ),
    fixed=BERT.fixed,
)
