"""Longformer: RoBERTa with windows and a few global tokens. Beltagy et al. 2020, arXiv:2004.05150.

A published head chooses the global tokens: [CLS] to classify a text, the question to find its answer, each choice. The
plain model, its embeddings and its masked-language-model head have none unless the caller names some.
"""

import dataclasses

from jaxencoder.families.family import About, Heads, shortest_pattern
from jaxencoder.families.roberta import ROBERTA, encoder_table, heads
from jaxencoder.families.settings import Entry, Fields, Settings, sizes
from jaxencoder.families.tables import with_prefix
from jaxencoder.model.config import EncoderConfig


def _read_windows(settings: Settings, fields: Fields) -> Fields:
    """Published windows count both sides, ours one."""
    layers, widths = fields["num_layers"], settings.get("attention_window", 512)
    widths = widths if isinstance(widths, list) else [widths] * layers
    if len(widths) != layers or not all(isinstance(width, int) and width > 0 and width % 2 == 0 for width in widths):
        raise ValueError(
            f"config.json has attention_window {settings['attention_window']}; it must be an even number above 0, or "
            f"a list of one for each of the {layers} layers"
        )
    return {"windows": shortest_pattern([width // 2 for width in widths])}


def _write_windows(c: EncoderConfig) -> Settings:
    if not all(c.windows):
        raise ValueError(f"model.windows is {c.windows}; Longformer's config.json needs a window in every layer")
    return {"attention_window": [2 * c.windows[i % len(c.windows)] for i in range(c.num_layers)]}


def _heads(c: EncoderConfig, settings: Settings) -> Heads:
    separator = settings.get("sep_token_id", 2)
    global_tokens = {
        "sequence_head": {"global_tokens": "first"},
        "span_head": {"global_tokens": "question", "separator": separator},
        "choice_head": {"global_tokens": "answer", "separator": separator},
    }
    tables = heads("longformer.")(c, settings)
    return {
        name: table._replace(config=dataclasses.replace(table.config, **global_tokens.get(name, {})))
        for name, table in tables.items()
    }


_PUBLISHED = {"max_position_embeddings": 4098, "type_vocab_size": 1, "layer_norm_eps": 1e-5, "attention_window": 512}
LONGFORMER = dataclasses.replace(
    ROBERTA,
    model_type="longformer",
    name="Longformer",
    prefix="longformer.",
    # The head's activation is gelu regardless of hidden_act.
    architecture=EncoderConfig(windows=(256,), global_tokens=True, head_activation="gelu"),
    settings_table=(*ROBERTA.settings_table, Entry(_read_windows, _write_windows)),
    encoder_table=lambda c: {
        **with_prefix(encoder_table(c), "roberta.", "longformer."),
        "longformer.encoder.layer.{layer}.attention.self.query_global": "encoder/layer/attention/global_query",
        "longformer.encoder.layer.{layer}.attention.self.key_global": "encoder/layer/attention/global_key",
        "longformer.encoder.layer.{layer}.attention.self.value_global": "encoder/layer/attention/global_value",
    },
    heads=_heads,
    about=About(
        title="Longformer",
        choose_for="classifying long English texts or finding answers in them, in time and memory that are linear in "
        "the length",
        tokenizer="byte-level BPE, cased",
        objective="masked words (15%), continued from RoBERTa",
        text="RoBERTa's, then 6.5B tokens of long English texts",
        papers={"Longformer": "2004.05150"},
        releases={
            "allenai/longformer-base-4096": sizes(12, 768, 3072, 12, 50265, **_PUBLISHED),
            "allenai/longformer-large-4096": sizes(24, 1024, 4096, 16, 50265, **_PUBLISHED),
        },
    ),
)
