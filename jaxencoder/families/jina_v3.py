"""jina-embeddings-v3: XLM-RoBERTa with rotary positions and an adapter for each task.

Sturua et al. 2024, arXiv:2409.10173. Published for transformers ("-hf", with an adapter of PEFT in a folder for each
task) and, as an XLM-RoBERTa with rotary positions, with its code
(https://huggingface.co/jinaai/xlm-roberta-flash-implementation), where the weights of all adapters are in one file.
"""

import dataclasses
import re

from jaxencoder.families.bert import POSITIONS, SETTINGS, TOKEN_TYPES
from jaxencoder.families.family import About, Tasks, plain_heads, pooler, two_layer_classifier
from jaxencoder.families.roberta import XLM_ROBERTA
from jaxencoder.families.rotary import ROTARY
from jaxencoder.families.settings import Entry, Fields, Settings, implied, read_value, sizes
from jaxencoder.families.tables import QKV, Weight
from jaxencoder.model.config import EncoderConfig

_TASKS = ("retrieval.query", "retrieval.passage", "separation", "classification", "text-matching")


def adaptations(settings: Settings) -> tuple[str, ...]:
    """The names of the tasks, in the order of the adapters' weights."""
    names = settings.get("lora_adaptations", list(_TASKS))
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise ValueError(f"config.json has lora_adaptations {names!r}; a list of names is needed")
    return tuple(names)


def _folders(settings: Settings) -> dict[str, str]:
    return {task: re.sub(r"[^\w]", "_", task) for task in adaptations(settings)}


def _prompts(settings: Settings) -> dict[str, tuple[str, str]]:
    texts = settings.get("task_instructions") or {}
    if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
        raise ValueError(f"config.json has task_instructions {texts!r}; a text for each task is needed")
    return {task: (texts.get(task, ""), task) for task in adaptations(settings)}


def _read_rotary(settings: Settings, fields: Fields) -> Fields:
    """transformers reads rope_parameters, and the published code rotary_emb_base."""
    if settings.get("model_type", JINA_V3.model_type) == JINA_V3.model_type:
        return ROTARY.read(settings, fields)
    return {"rope_theta": read_value(settings, "rotary_emb_base", float, 10_000.0)}


_EMBEDDINGS = {
    "roberta.embeddings.word_embeddings": "encoder/embeddings/token_embedding",
    "roberta.embeddings.token_type_embeddings": "encoder/embeddings/token_type_embedding",
}
_PUBLISHED, _MODULE = "roberta.encoder.layers.{layer}.", "roberta.layers.{layer}."
# transformers writes the names of the published code, and reads those of its own modules too.
_MODULES = _EMBEDDINGS | {
    "roberta.embeddings.LayerNorm": "encoder/embeddings/norm",
    f"{_MODULE}self_attn.q_proj": "encoder/layer/attention/query",
    f"{_MODULE}self_attn.k_proj": "encoder/layer/attention/key",
    f"{_MODULE}self_attn.v_proj": "encoder/layer/attention/value",
    f"{_MODULE}self_attn.o_proj": "encoder/layer/attention/output",
    f"{_MODULE}post_attention_layernorm": "encoder/layer/attention_norm",
    f"{_MODULE}mlp.fc1": "encoder/layer/mlp/up",
    f"{_MODULE}mlp.fc2": "encoder/layer/mlp/down",
    f"{_MODULE}post_mlp_layernorm": "encoder/layer/mlp_norm",
}
JINA_V3 = dataclasses.replace(
    XLM_ROBERTA,
    model_type="jina_embeddings_v3",
    name="JinaEmbeddingsV3",
    # The head's activation is gelu regardless of hidden_act.
    architecture=EncoderConfig(
        max_length=8194,
        positions="rotary",
        rope_theta=20_000.0,
        token_types=1,
        norm_epsilon=1e-5,
        head_activation="gelu",
    ),
    settings_table=(
        *SETTINGS,
        POSITIONS,
        Entry(_read_rotary, ROTARY.write),
        TOKEN_TYPES,
        implied("head_dim", "head_size"),
    ),
    encoder_table=_EMBEDDINGS
    | {
        "roberta.emb_ln": "encoder/embeddings/norm",
        f"{_PUBLISHED}mixer.Wqkv": Weight(QKV),
        f"{_PUBLISHED}mixer.out_proj": "encoder/layer/attention/output",
        f"{_PUBLISHED}norm1": "encoder/layer/attention_norm",
        f"{_PUBLISHED}mlp.fc1": "encoder/layer/mlp/up",
        f"{_PUBLISHED}mlp.fc2": "encoder/layer/mlp/down",
        f"{_PUBLISHED}norm2": "encoder/layer/mlp_norm",
    },
    modules=_MODULES,
    heads=lambda c, s: (
        pooler("roberta.pooler.dense") | plain_heads(s, "token_head", "span_head") | two_layer_classifier(s, "tanh")
    ),
    fixed={"emb_pooler": None, "truncate_dim": None},
    unused=r"\.parametrizations\.weight\.0\.lora_[AB]$",  # read as adapters
    other_types={"xlm-roberta": {"position_embedding_type": "rotary"}},
    tasks=Tasks(_folders, _prompts),
    about=About(
        title="Jina Embeddings v3",
        choose_for="embeddings of long texts in 30 and more languages, with an adapter for each use: queries, "
        "passages, clustering, classification, similarity",
        tokenizer="SentencePiece unigram, cased",
        objective="masked words; the embedder: contrastive, on pairs of texts, with low-rank adapters for its tasks",
        text="the web, 89 languages",
        papers={"Jina Embeddings v3": "2409.10173"},
        releases={
            "jinaai/jina-embeddings-v3-hf": sizes(24, 1024, 4096, 16, 250002, max_position_embeddings=8194),
        },
    ),
)
