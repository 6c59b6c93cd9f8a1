"""BERT: post-norm, learned positions, biases everywhere. Devlin et al. 2019, arXiv:1810.04805."""

from typing import Any

from jaxencoder.families.family import (
    PUBLISHED,
    About,
    Family,
    Heads,
    Release,
    Settings,
    activation,
    head,
    plain_heads,
    pooler,
    sizes,
)
from jaxencoder.families.tables import LAYER, Weight, linear, norm, table
from jaxencoder.model.config import EncoderConfig
from jaxencoder.model.heads import HeadConfig


def _encoder_config(c: Settings) -> EncoderConfig:
    return EncoderConfig(
        vocab_size=c["vocab_size"],
        num_layers=c["num_hidden_layers"],
        hidden_size=c["hidden_size"],
        mlp_size=c["intermediate_size"],
        num_heads=c["num_attention_heads"],
        max_length=c.get("max_position_embeddings", 512),
        token_types=c.get("type_vocab_size", 2),
        norm_epsilon=c.get("layer_norm_eps", 1e-12),
        activation=activation(c, "hidden_act"),
        dropout=c.get("hidden_dropout_prob", 0.1),
        attention_dropout=c.get("attention_probs_dropout_prob", 0.1),
        initializer_std=c.get("initializer_range", 0.02),
    )


def _settings(c: EncoderConfig) -> dict[str, Any]:
    if not c.token_types:
        raise ValueError("model.token_types is 0; BERT's config.json needs at least 1")
    return {
        "vocab_size": c.vocab_size,
        "num_hidden_layers": c.num_layers,
        "hidden_size": c.hidden_size,
        "intermediate_size": c.mlp_size,
        "num_attention_heads": c.num_heads,
        "max_position_embeddings": c.max_length,
        "type_vocab_size": c.token_types,
        "layer_norm_eps": c.norm_epsilon,
        "hidden_act": PUBLISHED[c.activation],
        "hidden_dropout_prob": c.dropout,
        "attention_probs_dropout_prob": c.attention_dropout,
        "initializer_range": c.initializer_std,
    }


def _encoder(c: EncoderConfig) -> list[Weight]:
    theirs, ours = f"bert.encoder.layer.{LAYER}", "encoder/layer"
    return [
        *table("bert.embeddings.word_embeddings", "encoder/embeddings/token_embedding"),
        *table("bert.embeddings.position_embeddings", "encoder/embeddings/position_embedding"),
        *table("bert.embeddings.token_type_embeddings", "encoder/embeddings/token_type_embedding"),
        *norm("bert.embeddings.LayerNorm", "encoder/embeddings/norm", True),
        *linear(f"{theirs}.attention.self.query", f"{ours}/attention/query", bias=True),
        *linear(f"{theirs}.attention.self.key", f"{ours}/attention/key", bias=True),
        *linear(f"{theirs}.attention.self.value", f"{ours}/attention/value", bias=True),
        *linear(f"{theirs}.attention.output.dense", f"{ours}/attention/output", bias=True),
        *norm(f"{theirs}.attention.output.LayerNorm", f"{ours}/attention_norm", True),
        *linear(f"{theirs}.intermediate.dense", f"{ours}/mlp/up", bias=True),
        *linear(f"{theirs}.output.dense", f"{ours}/mlp/down", bias=True),
        *norm(f"{theirs}.output.LayerNorm", f"{ours}/mlp_norm", True),
    ]


def _mlm_head(c: EncoderConfig) -> list[Weight]:
    return [
        *linear("cls.predictions.transform.dense", "mlm_head/dense", bias=True),
        *norm("cls.predictions.transform.LayerNorm", "mlm_head/norm", True),
        Weight("cls.predictions.bias", ("mlm_head/bias",)),
    ]


def _heads(c: EncoderConfig, settings: Settings) -> Heads:
    return {
        "pooler": pooler("bert.pooler.dense"),
        "nsp_head": head("nsp_head", HeadConfig("pooled", 2), output="cls.seq_relationship"),
        **plain_heads(settings),
    }


BERT = Family(
    model_type="bert",
    name="Bert",
    prefix="bert.",
    encoder_config=_encoder_config,
    settings=_settings,
    encoder=_encoder,
    mlm_head=_mlm_head,
    heads=_heads,
    tied="cls.predictions.decoder.weight",
    about=About(
        title="BERT",
        choose_for="comparison: every paper has its numbers; and for the many models that are made from it, small "
        "sentence embedders among them",
        tokenizer="WordPiece, in lower case or cased",
        objective="masked words (15%), next-sentence prediction",
        text="English books and Wikipedia; the multilingual one: Wikipedia in 104 languages",
        papers={"BERT": "1810.04805", "the smaller sizes": "1908.08962", "MiniLM": "2002.10957"},
        releases=(
            Release("google/bert_uncased_L-2_H-128_A-2", sizes(2, 128, 512, 2, 30522)),
            Release("sentence-transformers/all-MiniLM-L6-v2", sizes(6, 384, 1536, 12, 30522)),
            Release("google/bert_uncased_L-4_H-512_A-8", sizes(4, 512, 2048, 8, 30522)),
            Release("google-bert/bert-base-uncased", sizes(12, 768, 3072, 12, 30522)),
            Release("google-bert/bert-base-multilingual-cased", sizes(12, 768, 3072, 12, 119547)),
            Release("google-bert/bert-large-uncased", sizes(24, 1024, 4096, 16, 30522)),
        ),
    ),
    fixed={"position_embedding_type": "absolute"},
)
