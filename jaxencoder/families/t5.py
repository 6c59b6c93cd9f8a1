"""Encoders of T5, mT5 and UMT5, the bodies of GTR and Sentence-T5: relative biases, RMS norm, scores without a scale.

Raffel et al. 2020, arXiv:1910.10683; Xue et al. 2021 (mT5), arXiv:2010.11934; Chung et al. 2023 (UMT5),
arXiv:2304.09151. Decoders are not read.
"""

import dataclasses
from typing import Any

from jaxencoder.families.family import About, Family
from jaxencoder.families.settings import ACTIVATIONS, Entry, Fields, Settings, head_dim, read_value, same, size
from jaxencoder.families.tables import Names
from jaxencoder.model.config import EncoderConfig


def _read_mlp(settings: Settings, fields: Fields) -> Fields:
    """feed_forward_proj is the name of an activation, after "gated-" if the MLP is gated."""
    if "feed_forward_proj" not in settings:
        return {}
    proj = read_value(settings, "feed_forward_proj", str)
    name = proj.removeprefix("gated-")
    if name not in ACTIVATIONS:
        names = ", ".join(ACTIVATIONS)
        raise ValueError(f"config.json has feed_forward_proj {proj!r}; known are {names}, also after 'gated-'")
    # The gated MLP of T5 1.1 has the approximate GELU.
    return {"activation": "gelu_tanh" if proj == "gated-gelu" else ACTIVATIONS[name], "gated_mlp": proj != name}


def _write_mlp(c: EncoderConfig) -> Settings:
    if c.gated_mlp and c.activation == "gelu_tanh":
        return {"feed_forward_proj": "gated-gelu"}
    names = [name for name, ours in ACTIVATIONS.items() if ours == c.activation and (name != "gelu" or not c.gated_mlp)]
    return {"feed_forward_proj": ("gated-" if c.gated_mlp else "") + names[0]}


def _sizes(layers: int, hidden_size: int, mlp_size: int, heads: int, vocab_size: int = 32128) -> dict[str, Any]:
    return {
        **{"num_layers": layers, "d_model": hidden_size, "d_ff": mlp_size, "num_heads": heads, "d_kv": 64},
        "vocab_size": vocab_size,
    }


_MAX_DISTANCE = 128  # beyond which all distances share a bias
_LAYER = "encoder.block.{layer}.layer."


def _encoder(c: EncoderConfig) -> Names:
    mlp = f"{_LAYER}1.DenseReluDense"
    gated = {f"{mlp}.wi_0": "encoder/layer/mlp/gate", f"{mlp}.wi_1": "encoder/layer/mlp/up"}
    return {
        "shared": "encoder/embeddings/token_embedding",
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias": "encoder/relative_bias/table",
        f"{_LAYER}0.SelfAttention.relative_attention_bias": "encoder/layer/attention/relative_bias/table",
        f"{_LAYER}0.layer_norm": "encoder/layer/attention_norm",
        f"{_LAYER}0.SelfAttention.q": "encoder/layer/attention/query",
        f"{_LAYER}0.SelfAttention.k": "encoder/layer/attention/key",
        f"{_LAYER}0.SelfAttention.v": "encoder/layer/attention/value",
        f"{_LAYER}0.SelfAttention.o": "encoder/layer/attention/output",
        f"{_LAYER}1.layer_norm": "encoder/layer/mlp_norm",
        **(gated if c.gated_mlp else {f"{mlp}.wi": "encoder/layer/mlp/up"}),
        f"{mlp}.wo": "encoder/layer/mlp/down",
        "encoder.final_layer_norm": "encoder/final_norm",
    }


T5 = Family(
    model_type="t5",
    name="T5",
    prefix="",
    architecture=EncoderConfig(
        head_dim=64,
        activation="relu",
        positions="none",
        relative_bias_buckets=32,
        attention_scale=1.0,
        token_types=0,
        embedding_norm=False,
        norm="rms",
        norm_placement="pre",
        norm_epsilon=1e-6,
        norm_bias=False,
        attention_bias=False,
        mlp_bias=False,
        head_transform=False,
        output_bias=False,
    ),
    settings_table=(
        same("vocab_size", required=True),
        size("num_layers", "num_layers"),
        size("d_model", "hidden_size"),
        size("d_ff", "mlp_size"),
        size("num_heads", "num_heads"),
        head_dim("d_kv"),
        same("n_positions", "max_length"),
        same("relative_attention_num_buckets", "relative_bias_buckets", minimum=4),
        Entry(_read_mlp, _write_mlp),
        same("dropout_rate", "dropout"),
        same("dropout_rate", "attention_dropout"),
        same("layer_norm_epsilon", "norm_epsilon"),
    ),
    encoder_table=_encoder,
    mlm_head_table={},
    heads=lambda c, s: {},
    tied="",  # lm_head is the decoder's
    about=About(
        title="T5",
        choose_for="the sentence embedders GTR and Sentence-T5, and the encoders of larger T5 models",
        tokenizer="SentencePiece unigram, cased",
        objective="masked spans, which a decoder writes; the embedders: contrastive, on pairs of texts",
        text="750 GB of English from the web; mT5: 101 languages",
        papers={"T5": "1910.10683", "GTR": "2112.07899", "Sentence-T5": "2108.08877"},
        releases={
            "sentence-transformers/gtr-t5-base": _sizes(12, 768, 3072, 12),
            "sentence-transformers/gtr-t5-large": _sizes(24, 1024, 4096, 16),
        },
    ),
    fixed={"relative_attention_max_distance": _MAX_DISTANCE},
    aliases={"encoder.embed_tokens.": "shared."},
    classes={"Model": "T5EncoderModel"},
    unused=r"^decoder\.|^lm_head\.",
)
MT5 = dataclasses.replace(
    T5,
    model_type="mt5",
    name="MT5",
    about=About(
        title="mT5",
        choose_for="the encoders of multilingual T5 models",
        tokenizer="SentencePiece unigram, cased",
        objective="masked spans, which a decoder writes",
        text="the web, 101 languages",
        papers={"mT5": "2010.11934"},
        releases={
            "google/mt5-small": _sizes(8, 512, 1024, 6, 250112) | {"feed_forward_proj": "gated-gelu"},
            "google/mt5-base": _sizes(12, 768, 2048, 12, 250112) | {"feed_forward_proj": "gated-gelu"},
        },
    ),
    classes={"Model": "MT5EncoderModel"},
)
UMT5 = dataclasses.replace(
    T5,
    model_type="umt5",
    name="UMT5",
    architecture=dataclasses.replace(
        T5.architecture, relative_bias_by_layer=True, gated_mlp=True, activation="gelu_tanh"
    ),
    about=About(
        title="UMT5",
        choose_for="the encoders of multilingual T5 models, trained on more of the rarer languages than mT5",
        tokenizer="SentencePiece unigram, cased",
        objective="masked spans, which a decoder writes",
        text="29T characters from the web, 107 languages",
        papers={"UMT5": "2304.09151"},
        releases={
            "google/umt5-small": _sizes(8, 512, 1024, 6, 256384),
            "google/umt5-base": _sizes(12, 768, 2048, 12, 256384),
        },
    ),
    classes={"Model": "UMT5EncoderModel"},
)
