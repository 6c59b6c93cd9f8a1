"""jina-embeddings-v5-text: EuroBERT (nano) or Qwen3 (small) with an adapter for each task, arXiv:2602.15547.

Published with its code, under one model_type for both; only nano says that it is no decoder. A text's vector is that of
its last token, scaled to length 1.
"""

import dataclasses
import re

from jaxencoder.families.eurobert import EUROBERT
from jaxencoder.families.family import About, Tasks
from jaxencoder.families.qwen3 import QWEN3
from jaxencoder.families.settings import Settings, sizes, written

_TASKS = ("retrieval", "text-matching", "clustering", "classification")
_QUERY, _DOCUMENT = "Query: ", "Document: "  # the second one is the published code's default


def _names(settings: Settings) -> list[str]:
    names = settings.get("task_names", list(_TASKS))
    # They are names of folders too.
    if not isinstance(names, list) or not all(isinstance(x, str) and re.fullmatch(r"\w[\w.-]*", x) for x in names):
        raise ValueError(f"config.json has task_names {names!r}; a list of names is needed")
    return names


def _folders(settings: Settings) -> dict[str, str]:
    return {task: f"adapters/{task}" for task in _names(settings)}


def _prompts(settings: Settings) -> dict[str, tuple[str, str]]:
    retrieval = {"query": (_QUERY, "retrieval"), "document": (_DOCUMENT, "retrieval")}
    return retrieval | {task: (_DOCUMENT, task) for task in _names(settings) if task != "retrieval"}


def _auto_map(name: str) -> Settings:
    code = f"jinaai/{name}--"
    return {
        "AutoConfig": f"{code}configuration_jina_embeddings_v5.JinaEmbeddingsV5Config",
        "AutoModel": f"{code}modeling_jina_embeddings_v5.JinaEmbeddingsV5Model",
    }


_NANO, _SMALL = "jina-embeddings-v5-text-nano", "jina-embeddings-v5-text-small"
_FACTS = {
    "tokenizer": "byte-level BPE, cased",
    "objective": "those of the base; the embedder: vectors of a larger one, then contrastive, with low-rank adapters "
    "for its tasks",
    "text": "the web, more than 100 languages",
    "papers": {"jina-embeddings-v5-text": "2602.15547"},
}
_COMMON = {
    "model_type": "jina_embeddings_v5",
    "name": "JinaEmbeddingsV5",
    "heads": lambda c, s: {},
    "classes": {},
    "tasks": Tasks(_folders, _prompts, is_required=True, pools_last=True),
}
JINA_V5_NANO = dataclasses.replace(
    EUROBERT,
    **_COMMON,
    settings_table=(*EUROBERT.settings_table, written("auto_map", _auto_map(_NANO)), written("is_decoder", False)),
    distinguishing_settings={"is_decoder": False},
    about=About(
        title="Jina Embeddings v5 nano",
        choose_for="embeddings of texts in many languages at twice BERT's size, with an adapter for each use: "
        "retrieval, similarity, clustering, classification",
        releases={f"jinaai/{_NANO}": sizes(12, 768, 3072, 12, 128256, rope_theta=250_000.0)},
        **_FACTS,
    ),
)
JINA_V5_SMALL = dataclasses.replace(
    QWEN3,
    **_COMMON,
    settings_table=(*QWEN3.settings_table, written("auto_map", _auto_map(_SMALL))),
    about=About(
        title="Jina Embeddings v5 small",
        choose_for="the same at three times nano's size, and for texts of up to 32,768 tokens",
        releases={
            f"jinaai/{_SMALL}": sizes(
                28, 1024, 3072, 16, 151936, num_key_value_heads=8, head_dim=128, rope_theta=1_000_000.0
            )
        },
        **_FACTS,
    ),
)
