"""GTE: BERT with rotary positions and GeGLU, for embedding long texts. Zhang et al. 2024 (mGTE), arXiv:2407.19669.

Published with its code under the model_type "new" (https://huggingface.co/Alibaba-NLP/new-impl) and, in transformers,
as "gte".
"""

import dataclasses

from jaxencoder.families.bert import POSITIONS, SETTINGS
from jaxencoder.families.family import About, Family, plain_heads, pooler
from jaxencoder.families.rotary import ROTARY, rope_object, rotary_settings
from jaxencoder.families.settings import Entry, Fields, Settings, head_size, read_number, same, sizes, written
from jaxencoder.families.tables import QKV, Weight, mlm_head, with_prefix
from jaxencoder.model.config import EncoderConfig

_CODE = "Alibaba-NLP/new-impl--"
_CLASSES = {
    "AutoConfig": f"{_CODE}configuration.NewConfig",
    "AutoModel": f"{_CODE}modeling.NewModel",
    "AutoModelForMaskedLM": f"{_CODE}modeling.NewForMaskedLM",
    "AutoModelForMultipleChoice": f"{_CODE}modeling.NewForMultipleChoice",
    "AutoModelForQuestionAnswering": f"{_CODE}modeling.NewForQuestionAnswering",
    "AutoModelForSequenceClassification": f"{_CODE}modeling.NewForSequenceClassification",
    "AutoModelForTokenClassification": f"{_CODE}modeling.NewForTokenClassification",
}


def _read_rotary(settings: Settings, fields: Fields) -> Fields:
    """Rotary positions; "ntk" is that of the published code: a base `factor` times larger, and all wavelengths
    factor^(2 / H) times longer."""
    rope = rope_object(settings)
    if (rope.get("rope_type") or rope.get("type")) != "ntk":
        return ROTARY.read(settings, fields)
    factor, mixed = read_number(rope, "factor", 0), rope.get("mixed_b")
    if mixed is not None:
        raise ValueError(f"config.json has mixed_b {mixed!r} in rope_scaling; only null can be loaded")
    if factor < 1:
        raise ValueError(f"config.json has factor {factor} for rope_type 'ntk'; a number of at least 1 is needed")
    theta = read_number(rope, "rope_theta") or read_number(settings, "rope_theta") or fields["rope_theta"]
    theta = float(theta) * factor
    if factor == 1:
        return {"rope_theta": theta}
    return {"rope_theta": theta, "rope_scaling": "linear", "rope_factor": factor ** (2 / head_size(fields))}


def _read_published_rotary(settings: Settings, fields: Fields) -> Fields:
    rope = rope_object(settings)
    if (kind := rope.get("rope_type") or rope.get("type") or "default") not in ("default", "ntk"):
        raise ValueError(f"config.json has rope_type {kind!r}; only default and ntk can be loaded")
    return _read_rotary(settings, fields)


def _write_published_rotary(c: EncoderConfig) -> Settings:
    """The inverse; the published code reads rope_theta and rope_scaling."""
    if c.rope_scaling not in ("none", "linear"):
        raise ValueError(f"model.rope_scaling is {c.rope_scaling!r}; config.json of this family can only say none, ntk")
    # Powers and roots round: published factors have few digits.
    factor = round(c.rope_factor ** (c.head_size / 2), 6) if c.rope_scaling == "linear" else 1.0
    scaling = {"type": "ntk", "factor": factor} if factor != 1 else None
    theta = round(c.rope_theta / factor, 6)
    return {"max_position_embeddings": c.max_length, "rope_theta": theta, "rope_scaling": scaling}


_ARCHITECTURE = EncoderConfig(
    max_length=8192, positions="rotary", rope_theta=160_000.0, token_types=1, mlp_input_bias=False, gated_mlp=True,
    attention_dropout=0.0,
)  # fmt: skip
_SETTINGS = (*SETTINGS, POSITIONS, same("type_vocab_size", "token_types"))
_FIXED = {
    **{"position_embedding_type": "rope", "pack_qkv": True, "layer_norm_type": "layer_norm"},
    "logn_attention_scale": False,
}
_LAYER = "new.encoder.layer.{layer}."
_ENCODER = {
    "new.embeddings.word_embeddings": "encoder/embeddings/token_embedding",
    "new.embeddings.token_type_embeddings": "encoder/embeddings/token_type_embedding",
    "new.embeddings.LayerNorm": "encoder/embeddings/norm",
    f"{_LAYER}attention.qkv_proj": Weight(QKV),
    f"{_LAYER}attention.o_proj": "encoder/layer/attention/output",
    f"{_LAYER}attn_ln": "encoder/layer/attention_norm",
    f"{_LAYER}mlp.up_gate_proj": Weight(("encoder/layer/mlp/up", "encoder/layer/mlp/gate")),
    f"{_LAYER}mlp.down_proj": "encoder/layer/mlp/down",
    f"{_LAYER}mlp_ln": "encoder/layer/mlp_norm",
}
_ENGLISH = {"rope_scaling": {"type": "ntk", "factor": 2.0}, "rope_theta": 500_000.0}
_MULTILINGUAL = {"rope_scaling": {"type": "ntk", "factor": 8.0}, "rope_theta": 20_000.0}
NEW = Family(
    model_type="new",
    name="New",
    prefix="new.",
    architecture=dataclasses.replace(_ARCHITECTURE, max_length=2048, rope_theta=10_000.0),
    settings_table=(
        written("auto_map", _CLASSES),
        *_SETTINGS,
        Entry(_read_published_rotary, _write_published_rotary),
        *(written(name, value) for name, value in _FIXED.items()),
    ),
    encoder_table=_ENCODER,
    mlm_head_table=mlm_head("lm_head.dense", "lm_head.norm", "lm_head.decoder.bias"),
    heads=lambda c, s: pooler("new.pooler.dense") | plain_heads(s),
    tied="lm_head.decoder.weight",
    about=About(
        title="GTE v1.5",
        choose_for="embedding and reranking long texts, in English or in 70 languages, with models of BERT's size",
        tokenizer="WordPiece, lowercase (English); SentencePiece unigram, cased (multilingual)",
        objective="masked words (30%); the embedders: contrastive, on pairs of texts",
        text="English from the web; the multilingual model: 1T tokens, 75 languages",
        papers={"mGTE": "2407.19669", "GTE": "2308.03281"},
        releases={
            "Alibaba-NLP/gte-base-en-v1.5": sizes(12, 768, 3072, 12, 30528, type_vocab_size=0, **_ENGLISH)
            | {"max_position_embeddings": 8192},
            "Alibaba-NLP/gte-multilingual-base": sizes(12, 768, 3072, 12, 250048, type_vocab_size=1, **_MULTILINGUAL)
            | {"max_position_embeddings": 8192},
            "Alibaba-NLP/gte-large-en-v1.5": sizes(24, 1024, 4096, 16, 30528, type_vocab_size=2, **_ENGLISH)
            | {"max_position_embeddings": 8192},
        },
    ),
    fixed=_FIXED,
)
GTE = dataclasses.replace(
    NEW,
    model_type="gte",
    name="Gte",
    prefix="gte.",
    # The head's activation is gelu regardless of hidden_act.
    architecture=dataclasses.replace(_ARCHITECTURE, head_activation="gelu"),
    settings_table=(*_SETTINGS, Entry(_read_rotary, rotary_settings)),
    encoder_table=with_prefix(_ENCODER, "new.", "gte."),
    heads=lambda c, s: pooler("gte.pooler.dense") | plain_heads(s, "sequence_head", "token_head"),
    about=About(
        title="GTE",
        choose_for="the multilingual embedders of the GTE family and those made from them, such as Arctic Embed 2.0",
        tokenizer="SentencePiece unigram, cased",
        objective="masked words (30%); the embedders: contrastive, on pairs of texts",
        text="1T tokens from the web, 75 languages",
        papers={"mGTE": "2407.19669", "Arctic Embed 2.0": "2412.04506"},
        releases={"Snowflake/snowflake-arctic-embed-m-v2.0": sizes(12, 768, 3072, 12, 250048)},
    ),
    aliases={"new.": "gte."},
)
