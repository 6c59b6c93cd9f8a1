"""Qwen3: a decoder with normalized queries and keys, the body of Qwen3-Embedding. Yang et al. 2025, arXiv:2505.09388.

Its embeddings are the vectors of a text's last token.
"""

import dataclasses

from jaxencoder.families import decoder
from jaxencoder.families.eurobert import EUROBERT
from jaxencoder.families.family import About, Family
from jaxencoder.families.layer_types import GLOBAL, LOCAL, layer_types, layer_windows
from jaxencoder.families.rotary import ROTARY
from jaxencoder.families.settings import SIZES, Entry, Fields, Settings, choice, read_value, same, sizes
from jaxencoder.model.config import EncoderConfig


def _read_windows(settings: Settings, fields: Fields) -> Fields:
    is_sliding = read_value(settings, "use_sliding_window", bool, False)
    side = decoder.sliding_side(settings, fields, 4096) if is_sliding else None
    first = read_value(settings, "max_window_layers", int, 28) if side is not None else fields["num_layers"]
    kinds = [GLOBAL if i < first else LOCAL for i in range(fields["num_layers"])]
    return layer_windows(settings, fields, kinds, side)


def _write_windows(c: EncoderConfig) -> Settings:
    kinds = layer_types(c)
    first = {"max_window_layers": kinds.index(LOCAL)} if LOCAL in kinds else {}
    window = {"use_sliding_window": LOCAL in kinds, "sliding_window": decoder.sliding_window(c)}
    return window | first | {"layer_types": kinds}


_SMALL = {"num_key_value_heads": 8, "head_dim": 128, "rope_theta": 1_000_000.0}
QWEN3 = Family(
    model_type="qwen3",
    name="Qwen3",
    prefix="model.",
    architecture=dataclasses.replace(
        EUROBERT.architecture, max_length=32768, head_dim=128, norm_epsilon=1e-6, qk_norm=True, causal=True
    ),
    settings_table=(
        *SIZES,
        *decoder.HEADS,
        *decoder.COMMON,
        ROTARY,
        same("attention_bias"),
        choice("hidden_act", "activation"),
        decoder.IS_CAUSAL,
        Entry(_read_windows, _write_windows),
    ),
    encoder_table=decoder.ENCODER | decoder.QK_NORMS,
    mlm_head_table={},
    heads=lambda c, s: decoder.score_head(s),
    tied="lm_head.weight",
    about=About(
        title="Qwen3",
        choose_for="the most accurate embeddings of 100 languages and code where several times BERT's cost is "
        "affordable; a text's vector is that of its last token",
        tokenizer="byte-level BPE, cased",
        objective="the next token; the embedders: contrastive, on pairs of texts that a language model wrote",
        text="36T tokens of 119 languages and code",
        papers={"Qwen3": "2505.09388", "Qwen3 Embedding": "2506.05176"},
        releases={
            "Qwen/Qwen3-Embedding-0.6B": sizes(28, 1024, 3072, 16, 151669, **_SMALL),
            "Qwen/Qwen3-Embedding-4B": sizes(36, 2560, 9728, 32, 151665, **_SMALL),
            "Qwen/Qwen3-Embedding-8B": sizes(36, 4096, 12288, 32, 151665, **_SMALL),
        },
    ),
    classes={"ForMaskedLM": "Qwen3ForCausalLM"},
)
