"""ERNIE: BERT with embeddings of tasks, for Chinese. Sun et al. 2020 (ERNIE 2.0), arXiv:1907.12412."""

import dataclasses

from jaxencoder.families.bert import BERT, ENCODER, heads
from jaxencoder.families.family import About
from jaxencoder.families.settings import Entry, Fields, Settings, read_value, sizes
from jaxencoder.families.tables import with_prefix
from jaxencoder.model.config import EncoderConfig


def _read_tasks(settings: Settings, fields: Fields) -> Fields:
    has_tasks = read_value(settings, "use_task_id", bool, False)
    return {"task_types": read_value(settings, "task_type_vocab_size", int, 3) if has_tasks else 0}


def _write_tasks(c: EncoderConfig) -> Settings:
    return {"use_task_id": bool(c.task_types)} | ({"task_type_vocab_size": c.task_types} if c.task_types else {})


ERNIE = dataclasses.replace(
    BERT,
    model_type="ernie",
    name="Ernie",
    prefix="ernie.",
    settings_table=(*BERT.settings_table, Entry(_read_tasks, _write_tasks)),
    encoder_table={
        **with_prefix(ENCODER, "bert.", "ernie."),
        "ernie.embeddings.task_type_embeddings": "encoder/embeddings/task_type_embedding",
    },
    heads=heads("ernie."),
    about=About(
        title="ERNIE",
        choose_for="Chinese: BERT's architecture, trained with knowledge of words and entities",
        tokenizer="WordPiece, characters of Chinese",
        objective="masked words, phrases and entities, and several tasks in turn",
        text="4 TB of Chinese",
        papers={"ERNIE 2.0": "1907.12412", "ERNIE 3.0": "2107.02137"},
        releases={
            "nghuyong/ernie-3.0-base-zh": sizes(12, 768, 3072, 12, 40000, max_position_embeddings=2048)
            | {"type_vocab_size": 4, "use_task_id": True, "layer_norm_eps": 1e-5},
        },
    ),
)
