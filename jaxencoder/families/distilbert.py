"""DistilBERT: half of BERT's layers, no token types, no pooler. Sanh et al. 2019, arXiv:1910.01108."""

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
    labels,
    plain_heads,
)
from jaxencoder.families.tables import LAYER, Weight, linear, norm, table
from jaxencoder.model.config import EncoderConfig
from jaxencoder.model.heads import HeadConfig


def _encoder_config(c: Settings) -> EncoderConfig:
    return EncoderConfig(
        vocab_size=c["vocab_size"],
        num_layers=c["n_layers"],
        hidden_size=c["dim"],
        mlp_size=c["hidden_dim"],
        num_heads=c["n_heads"],
        max_length=c.get("max_position_embeddings", 512),
        token_types=0,
        norm_epsilon=1e-12,
        activation=activation(c, "activation"),
        dropout=c.get("dropout", 0.1),
        attention_dropout=c.get("attention_dropout", 0.1),
        initializer_std=c.get("initializer_range", 0.02),
    )


def _settings(c: EncoderConfig) -> dict[str, Any]:
    return {
        "vocab_size": c.vocab_size,
        "n_layers": c.num_layers,
        "dim": c.hidden_size,
        "hidden_dim": c.mlp_size,
        "n_heads": c.num_heads,
        "max_position_embeddings": c.max_length,
        "activation": PUBLISHED[c.activation],
        "dropout": c.dropout,
        "attention_dropout": c.attention_dropout,
        "initializer_range": c.initializer_std,
    }


def _encoder(c: EncoderConfig) -> list[Weight]:
    theirs, ours = f"distilbert.transformer.layer.{LAYER}", "encoder/layer"
    return [
        *table("distilbert.embeddings.word_embeddings", "encoder/embeddings/token_embedding"),
        *table("distilbert.embeddings.position_embeddings", "encoder/embeddings/position_embedding"),
        *norm("distilbert.embeddings.LayerNorm", "encoder/embeddings/norm", True),
        *linear(f"{theirs}.attention.q_lin", f"{ours}/attention/query", bias=True),
        *linear(f"{theirs}.attention.k_lin", f"{ours}/attention/key", bias=True),
        *linear(f"{theirs}.attention.v_lin", f"{ours}/attention/value", bias=True),
        *linear(f"{theirs}.attention.out_lin", f"{ours}/attention/output", bias=True),
        *norm(f"{theirs}.sa_layer_norm", f"{ours}/attention_norm", True),
        *linear(f"{theirs}.ffn.lin1", f"{ours}/mlp/up", bias=True),
        *linear(f"{theirs}.ffn.lin2", f"{ours}/mlp/down", bias=True),
        *norm(f"{theirs}.output_layer_norm", f"{ours}/mlp_norm", True),
    ]


def _mlm_head(c: EncoderConfig) -> list[Weight]:
    return [
        *linear("vocab_transform", "mlm_head/dense", bias=True),
        *norm("vocab_layer_norm", "mlm_head/norm", True),
        Weight("vocab_projector.bias", ("mlm_head/bias",)),
    ]


def _heads(c: EncoderConfig, settings: Settings) -> Heads:
    def pooled(name: str, outputs: int):
        return head(name, HeadConfig("cls", outputs, "relu"), "pre_classifier", "classifier")

    return {
        "sequence_head": pooled("sequence_head", labels(settings)),
        "choice_head": pooled("choice_head", 1),
        **plain_heads(settings, "token_head", "span_head"),
    }


def _sizes(vocab_size: int) -> Settings:
    return {"n_layers": 6, "dim": 768, "hidden_dim": 3072, "n_heads": 12, "vocab_size": vocab_size}


DISTILBERT = Family(
    model_type="distilbert",
    name="DistilBert",
    prefix="distilbert.",
    encoder_config=_encoder_config,
    settings=_settings,
    encoder=_encoder,
    mlm_head=_mlm_head,
    heads=_heads,
    tied="vocab_projector.weight",
    about=About(
        title="DistilBERT",
        choose_for="speed: in its paper BERT with 40% fewer parameters, 60% faster, at 97% of its score on GLUE",
        tokenizer="WordPiece, in lower case or cased",
        objective="BERT's own outputs (distillation), masked words",
        text="English books and Wikipedia; the multilingual one: Wikipedia in 104 languages",
        papers={"DistilBERT": "1910.01108"},
        releases=(
            Release("distilbert/distilbert-base-uncased", _sizes(30522)),
            Release("distilbert/distilbert-base-multilingual-cased", _sizes(119547)),
        ),
    ),
)
