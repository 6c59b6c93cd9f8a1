"""NeoBERT: deep and narrow, with RMS norm, rotary positions and SwiGLU. Le Breton et al. 2025, arXiv:2502.19587.

Published, with code of its own, as https://huggingface.co/chandar-lab/NeoBERT.
"""

from typing import Any

from jaxencoder.families.family import About, Family, Heads, Release, Settings, head, labels, sizes
from jaxencoder.families.tables import LAYER, Weight, linear, norm, table
from jaxencoder.model.config import EncoderConfig
from jaxencoder.model.heads import HeadConfig

_CODE = "chandar-lab/NeoBERT--model."
_MULTIPLE = 8  # of the MLP's width


def _encoder_config(c: Settings) -> EncoderConfig:
    heads, size = c["num_attention_heads"], c["hidden_size"]
    if (c.get("dim_head") or size // heads) != size // heads:
        raise ValueError(f"config.json has dim_head {c['dim_head']}; only hidden_size / num_attention_heads will do")
    if str(c.get("hidden_act", "swiglu")).lower() != "swiglu":
        raise ValueError(f"config.json has hidden_act {c['hidden_act']!r}; only swiglu can be loaded")
    # Three matrices of this width have about as many weights as two of intermediate_size.
    mlp_size = -(-(2 * c["intermediate_size"] // 3) // _MULTIPLE) * _MULTIPLE
    return EncoderConfig(
        vocab_size=c["vocab_size"],
        num_layers=c["num_hidden_layers"],
        hidden_size=size,
        mlp_size=mlp_size,
        num_heads=heads,
        max_length=c.get("max_length", 1024),
        positions="rotary",
        token_types=0,
        norm="rms",
        norm_placement="pre",
        norm_epsilon=c.get("norm_eps", 1e-6),
        norm_bias=False,
        embedding_norm=False,
        attention_bias=False,
        mlp_bias=False,
        activation="silu",
        gated_mlp=True,
        head_transform=False,
        tied_output=False,
        dropout=c.get("dropout", 0.0),
        attention_dropout=c.get("dropout", 0.0),
        initializer_std=c.get("decoder_init_range", 0.02),
    )


def _settings(c: EncoderConfig) -> dict[str, Any]:
    if c.tied_output:
        raise ValueError("model.tied_output is true; NeoBERT's published code has an output table of its own")
    if c.mlp_size % _MULTIPLE:
        raise ValueError(f"model.mlp_size is {c.mlp_size}; NeoBERT's is a multiple of {_MULTIPLE}")
    return {
        "auto_map": {
            "AutoConfig": f"{_CODE}NeoBERTConfig",
            "AutoModel": f"{_CODE}NeoBERT",
            "AutoModelForMaskedLM": f"{_CODE}NeoBERTLMHead",
            "AutoModelForSequenceClassification": f"{_CODE}NeoBERTForSequenceClassification",
        },
        "vocab_size": c.vocab_size,
        "num_hidden_layers": c.num_layers,
        "hidden_size": c.hidden_size,
        "intermediate_size": c.mlp_size * 3 // 2,
        "num_attention_heads": c.num_heads,
        "dim_head": c.head_size,
        "max_length": c.max_length,
        "norm_eps": c.norm_epsilon,
        "dropout": c.dropout,
        "decoder_init_range": c.initializer_std,
        "embedding_init_range": c.initializer_std,
    }


def _encoder(c: EncoderConfig) -> list[Weight]:
    theirs, ours = f"model.transformer_encoder.{LAYER}", "encoder/layer"
    heads = (f"{ours}/attention/{name}" for name in ("query", "key", "value"))
    return [
        *table("model.encoder", "encoder/embeddings/token_embedding"),
        # Values change places within a head as queries and keys must, and the output's inputs with them.
        *linear(f"{theirs}.qkv", *heads, bias=False, by_head=True, interleaved=True),
        *linear(f"{theirs}.wo", f"{ours}/attention/output", bias=False, interleaved=True),
        *norm(f"{theirs}.attention_norm", f"{ours}/attention_norm", False),
        *linear(f"{theirs}.ffn.w12", f"{ours}/mlp/gate", f"{ours}/mlp/up", bias=False),
        *linear(f"{theirs}.ffn.w3", f"{ours}/mlp/down", bias=False),
        *norm(f"{theirs}.ffn_norm", f"{ours}/mlp_norm", False),
        *norm("model.layer_norm", "encoder/final_norm", False),
    ]


def _mlm_head(c: EncoderConfig) -> list[Weight]:
    return [Weight("decoder.bias", ("mlm_head/bias",))]


def _heads(c: EncoderConfig, settings: Settings) -> Heads:
    config = HeadConfig("cls", labels(settings), "tanh")
    return {"sequence_head": head("sequence_head", config, "dense", "classifier")}


NEOBERT = Family(
    model_type="neobert",
    name="NeoBERT",
    prefix="model.",
    encoder_config=_encoder_config,
    settings=_settings,
    encoder=_encoder,
    mlm_head=_mlm_head,
    heads=_heads,
    tied="decoder.weight",
    about=About(
        title="NeoBERT",
        choose_for="English, also long texts: deep and narrow, for embeddings and classifiers of the width of "
        "BERT-base, trained on far more text",
        tokenizer="WordPiece, uncased",
        objective="masked words (20%)",
        text="2.1T tokens of English from the web",
        papers={"NeoBERT": "2502.19587"},
        releases=(Release("chandar-lab/NeoBERT", sizes(28, 768, 3072, 12, 30522, max_length=4096, norm_eps=1e-5)),),
    ),
    fixed={
        **{"tie_word_embeddings": False, "rms_norm": True, "rope": True, "rope_theta": 10_000.0, "ngpt": False},
        **{"rope_scaling": None, "rope_parameters": None},  # which the published code would not look at
    },
    classes={"Model": "NeoBERT", "ForMaskedLM": "NeoBERTLMHead"},
)
