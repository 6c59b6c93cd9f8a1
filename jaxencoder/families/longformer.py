"""Longformer: RoBERTa with windows and a few global tokens. Beltagy et al. 2020, arXiv:2004.05150.

A published head makes tokens global by itself: [CLS] to classify a text, the question for its answer, each choice.
The plain model, its embeddings and its masked-language-model head have none, unless the caller names some.
"""

import dataclasses
from typing import Any

from jaxencoder.families.family import About, Heads, Release, Settings, activation, pattern, pooler, sizes
from jaxencoder.families.roberta import ROBERTA
from jaxencoder.families.tables import LAYER, Weight, linear, moved
from jaxencoder.model.config import EncoderConfig


def _encoder_config(c: Settings) -> EncoderConfig:
    head = "same" if activation(c, "hidden_act") == "gelu" else "gelu"  # whatever hidden_act says
    choices = {"windows": _windows(c), "global_tokens": True, "head_activation": head}
    return dataclasses.replace(ROBERTA.encoder_config(c), **choices)


def _windows(c: Settings) -> tuple[int, ...]:
    """Published windows count both sides."""
    layers, widths = c["num_hidden_layers"], c.get("attention_window", 512)
    widths = widths if isinstance(widths, list) else [widths] * layers
    if len(widths) != layers or not all(isinstance(width, int) and width > 0 and width % 2 == 0 for width in widths):
        raise ValueError(
            f"config.json has attention_window {c['attention_window']}; it must be an even number above 0, or a list "
            f"of one for each of the {layers} layers"
        )
    return pattern([width // 2 for width in widths])


def _settings(c: EncoderConfig) -> dict[str, Any]:
    if not all(c.windows):
        raise ValueError(f"model.windows is {c.windows}; Longformer's config.json needs a window in every layer")
    widths = [2 * c.windows[i % len(c.windows)] for i in range(c.num_layers)]
    return ROBERTA.settings(c) | {"attention_window": widths}


def _encoder(c: EncoderConfig) -> list[Weight]:
    theirs, ours = f"longformer.encoder.layer.{LAYER}.attention.self", "encoder/layer/attention"
    return [
        *moved(ROBERTA.encoder(c), "roberta.", "longformer."),
        *linear(f"{theirs}.query_global", f"{ours}/global_query", bias=True),
        *linear(f"{theirs}.key_global", f"{ours}/global_key", bias=True),
        *linear(f"{theirs}.value_global", f"{ours}/global_value", bias=True),
    ]


def _heads(c: EncoderConfig, settings: Settings) -> Heads:
    separator = settings.get("sep_token_id", 2)
    chosen = {
        "sequence_head": {"global_tokens": "first"},
        "span_head": {"global_tokens": "question", "separator": separator},
        "choice_head": {"global_tokens": "answer", "separator": separator},
    }
    heads = ROBERTA.heads(c, settings) | {"pooler": pooler("longformer.pooler.dense")}
    return {
        name: table._replace(config=dataclasses.replace(table.config, **chosen.get(name, {})))
        for name, table in heads.items()
    }


_PUBLISHED = {"max_position_embeddings": 4098, "type_vocab_size": 1, "layer_norm_eps": 1e-5, "attention_window": 512}
LONGFORMER = dataclasses.replace(
    ROBERTA,
    model_type="longformer",
    name="Longformer",
    prefix="longformer.",
    encoder_config=_encoder_config,
    settings=_settings,
    encoder=_encoder,
    heads=_heads,
    about=About(
        title="Longformer",
        choose_for="long English texts: to classify them whole, or to find an answer in them, with time and memory "
        "that grow with the length and not with its square",
        tokenizer="byte-level BPE, cased",
        objective="masked words (15%), continued from RoBERTa",
        text="RoBERTa's, then 6.5B tokens of long English texts",
        papers={"Longformer": "2004.05150"},
        releases=(
            Release("allenai/longformer-base-4096", sizes(12, 768, 3072, 12, 50265, **_PUBLISHED)),
            Release("allenai/longformer-large-4096", sizes(24, 1024, 4096, 16, 50265, **_PUBLISHED)),
        ),
    ),
    fixed={name: value for name, value in ROBERTA.fixed.items() if name != "hidden_act"},
)
