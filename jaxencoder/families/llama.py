"""Llama and Mistral: decoders that are read as encoders, causal or, with is_causal false, bidirectional.

Touvron et al. 2023, arXiv:2302.13971; Jiang et al. 2023, arXiv:2310.06825.
"""

import dataclasses

from jaxencoder.families.decoder import COMMON, ENCODER, HEADS, IS_CAUSAL, score_head, sliding_side, sliding_window
from jaxencoder.families.eurobert import EUROBERT
from jaxencoder.families.family import About, Family
from jaxencoder.families.layer_types import layer_types
from jaxencoder.families.rotary import ROTARY
from jaxencoder.families.settings import SIZES, Entry, Fields, Settings, choice, same, sizes
from jaxencoder.model.config import EncoderConfig


def _read_window(settings: Settings, fields: Fields) -> Fields:
    """All layers have the window."""
    side = sliding_side(settings, fields, 4096)
    if side is not None and side < 1:
        raise ValueError(f"config.json has sliding_window {settings['sliding_window']}; null, or 2 or more, is needed")
    return {"windows": (side or 0,)}


def _write_window(c: EncoderConfig) -> Settings:
    if len(set(layer_types(c))) > 1:
        raise ValueError(f"model.windows is {c.windows}; Mistral's config.json holds one window for all layers")
    return {"sliding_window": sliding_window(c)}


_ARCHITECTURE = dataclasses.replace(EUROBERT.architecture, max_length=2048, norm_epsilon=1e-6, causal=True)
LLAMA = Family(
    model_type="llama",
    name="Llama",
    prefix="model.",
    architecture=_ARCHITECTURE,
    settings_table=(
        *SIZES,
        *HEADS,
        *COMMON,
        ROTARY,
        same("attention_bias"),
        same("mlp_bias"),
        choice("hidden_act", "activation"),
        IS_CAUSAL,
    ),
    encoder_table=ENCODER,
    mlm_head_table={},
    heads=lambda c, s: score_head(s),
    tied="lm_head.weight",
    about=About(
        title="Llama",
        choose_for="embedders and encoders made from Llama's many descendants, also bidirectional ones (is_causal "
        "false)",
        tokenizer="SentencePiece BPE, cased (Llama 3: byte-level BPE)",
        objective="the next token",
        text="1.4T tokens and more, mainly English, from the web",
        papers={"Llama": "2302.13971", "LLM2Vec": "2404.05961"},
        releases={
            "princeton-nlp/Sheared-LLaMA-1.3B": sizes(24, 2048, 5504, 16, 32000, max_position_embeddings=4096),
        },
    ),
    fixed={"pretraining_tp": 1},
    classes={"ForMaskedLM": "LlamaForCausalLM"},
)
MISTRAL = dataclasses.replace(
    LLAMA,
    model_type="mistral",
    name="Mistral",
    architecture=dataclasses.replace(_ARCHITECTURE, max_length=131_072, hidden_size=4096, num_heads=32, num_kv_heads=8),
    settings_table=(
        *SIZES,
        *HEADS,
        *COMMON,
        ROTARY,
        choice("hidden_act", "activation"),
        IS_CAUSAL,
        Entry(_read_window, _write_window),
    ),
    about=About(
        title="Mistral",
        choose_for="large English embedders such as E5-Mistral, and bidirectional ones made from it (is_causal false)",
        tokenizer="SentencePiece BPE, cased",
        objective="the next token; the embedders: contrastive, on pairs of texts",
        text="mainly English, from the web",
        papers={"Mistral": "2310.06825", "E5-Mistral": "2401.00368"},
        releases={
            "intfloat/e5-mistral-7b-instruct": sizes(32, 4096, 14336, 32, 32000, num_key_value_heads=8)
            | {"max_position_embeddings": 32768, "sliding_window": 4096},
        },
    ),
    fixed={},
    classes={"ForMaskedLM": "MistralForCausalLM"},
)
