"""NeoBERT: deep and narrow, with RMS norm, rotary positions and SwiGLU. Le Breton et al. 2025, arXiv:2502.19587.

Published with its code as https://huggingface.co/chandar-lab/NeoBERT.
"""

import dataclasses

from jaxencoder.families.eurobert import EUROBERT
from jaxencoder.families.family import About, Family, head
from jaxencoder.families.labels import labels
from jaxencoder.families.settings import SIZES, Entry, Fields, Settings, choice, implied, same, sizes, written
from jaxencoder.families.tables import QKV, Weight
from jaxencoder.model.config import EncoderConfig
from jaxencoder.model.heads import HeadConfig

_CODE = "chandar-lab/NeoBERT--model."
_CLASSES = {
    "AutoConfig": f"{_CODE}NeoBERTConfig",
    "AutoModel": f"{_CODE}NeoBERT",
    "AutoModelForMaskedLM": f"{_CODE}NeoBERTLMHead",
    "AutoModelForSequenceClassification": f"{_CODE}NeoBERTForSequenceClassification",
}
_MULTIPLE = 8  # divides the width of the MLP


def _read_mlp_size(settings: Settings, fields: Fields) -> Fields:
    """Three matrices of the width of the MLP have about as many weights as two of intermediate_size."""
    return {"mlp_size": -(-(2 * fields["mlp_size"] // 3) // _MULTIPLE) * _MULTIPLE}


def _write_mlp_size(c: EncoderConfig) -> Settings:
    if c.mlp_size % _MULTIPLE:
        raise ValueError(f"model.mlp_size is {c.mlp_size}; NeoBERT's is a multiple of {_MULTIPLE}")
    return {"intermediate_size": c.mlp_size * 3 // 2}


NEOBERT = Family(
    model_type="neobert",
    name="NeoBERT",
    prefix="model.",
    architecture=dataclasses.replace(EUROBERT.architecture, max_length=1024, norm_epsilon=1e-6, output_bias=True),
    settings_table=(
        written("auto_map", _CLASSES),
        *SIZES,
        Entry(_read_mlp_size, _write_mlp_size),
        implied("dim_head", "head_size"),
        written("dim_head", lambda c: c.head_size),
        same("max_length"),
        choice("hidden_act", "activation", {"SwiGLU": "silu", "swiglu": "silu"}),
        same("norm_eps", "norm_epsilon"),
        same("dropout"),
        same("dropout", "attention_dropout"),
        same("decoder_init_range", "initializer_std"),
        written("embedding_init_range", lambda c: c.initializer_std),
    ),
    encoder_table={
        "model.encoder": "encoder/embeddings/token_embedding",
        # Values are reordered within a head like queries and keys, and so are the inputs of the output.
        "model.transformer_encoder.{layer}.qkv": Weight(QKV, by_head=True, interleaved=True),
        "model.transformer_encoder.{layer}.wo": Weight(("encoder/layer/attention/output",), interleaved=True),
        "model.transformer_encoder.{layer}.attention_norm": "encoder/layer/attention_norm",
        "model.transformer_encoder.{layer}.ffn.w12": Weight(("encoder/layer/mlp/gate", "encoder/layer/mlp/up")),
        "model.transformer_encoder.{layer}.ffn.w3": "encoder/layer/mlp/down",
        "model.transformer_encoder.{layer}.ffn_norm": "encoder/layer/mlp_norm",
        "model.layer_norm": "encoder/final_norm",
    },
    mlm_head_table={"decoder.bias": "mlm_head/bias"},
    heads=lambda c, s: head("sequence_head", HeadConfig("cls", labels(s), "tanh"), "dense", "classifier"),
    tied="decoder.weight",
    about=About(
        title="NeoBERT",
        choose_for="English embeddings and classifiers, also of long texts: as wide as BERT-base, deeper, and trained "
        "on far more text",
        tokenizer="WordPiece, uncased",
        objective="masked words (20%)",
        text="2.1T tokens of English from the web",
        papers={"NeoBERT": "2502.19587"},
        releases={"chandar-lab/NeoBERT": sizes(28, 768, 3072, 12, 30522, max_length=4096, norm_eps=1e-5)},
    ),
    fixed={
        # The published code ignores rope_scaling and rope_parameters.
        **{"tie_word_embeddings": False, "rms_norm": True, "rope": True, "rope_theta": 10_000.0, "ngpt": False},
        **{"rope_scaling": None, "rope_parameters": None},
    },
    classes={"Model": "NeoBERT", "ForMaskedLM": "NeoBERTLMHead"},
)
