"""JinaBERT, the body of jina-embeddings-v2: BERT with ALiBi instead of positions, and a gated MLP.

Günther et al. 2023, arXiv:2310.19923. Published with its code (https://huggingface.co/jinaai/jina-bert-implementation)
under BERT's model_type, from which position_embedding_type tells it.
"""

import dataclasses

from jaxencoder.families.bert import BERT, ENCODER, POSITIONS, SETTINGS, TOKEN_TYPES
from jaxencoder.families.family import About
from jaxencoder.families.settings import Entry, Fields, Settings, choice, read_value, sizes, written
from jaxencoder.families.tables import Weight
from jaxencoder.model.config import EncoderConfig

_CODE = "jinaai/jina-bert-implementation--"
_CLASSES = {
    "AutoConfig": f"{_CODE}configuration_bert.JinaBertConfig",
    "AutoModel": f"{_CODE}modeling_bert.JinaBertModel",
    "AutoModelForMaskedLM": f"{_CODE}modeling_bert.JinaBertForMaskedLM",
    "AutoModelForSequenceClassification": f"{_CODE}modeling_bert.JinaBertForSequenceClassification",
}
_MLP = choice("feed_forward_type", "activation", {"geglu": "gelu", "reglu": "relu"})


def _read_mlp(settings: Settings, fields: Fields) -> Fields:
    """The activation of the MLP; hidden_act is that of the masked-language-model head."""
    read_value(settings, "feed_forward_type", str)
    return {"head_activation": fields["activation"], **_MLP.read(settings, fields)}


def _write_mlp(c: EncoderConfig) -> Settings:
    head = dataclasses.replace(c, activation=c.activation if c.head_activation == "same" else c.head_activation)
    return {**choice("hidden_act", "activation").write(head), **_MLP.write(c)}


_PUBLISHED = {"feed_forward_type": "geglu", "position_embedding_type": "alibi", "max_position_embeddings": 8192}
JINA_BERT = dataclasses.replace(
    BERT,
    name="JinaBert",
    architecture=EncoderConfig(positions="alibi", gated_mlp=True, mlp_input_bias=False),
    settings_table=(
        written("auto_map", _CLASSES),
        *SETTINGS,
        POSITIONS,
        TOKEN_TYPES,
        Entry(_read_mlp, _write_mlp),
        written("position_embedding_type", "alibi"),
    ),
    encoder_table={
        **{name: ours for name, ours in ENCODER.items() if "/mlp" not in ours},
        "bert.encoder.layer.{layer}.mlp.gated_layers": Weight(("encoder/layer/mlp/gate", "encoder/layer/mlp/up")),
        "bert.encoder.layer.{layer}.mlp.wo": "encoder/layer/mlp/down",
        "bert.encoder.layer.{layer}.mlp.layernorm": "encoder/layer/mlp_norm",
    },
    about=About(
        title="JinaBERT",
        choose_for="embedding texts of up to 8,192 tokens with models of BERT's size, in English, German, Spanish or "
        "Chinese",
        tokenizer="WordPiece, lowercase (English); byte-level BPE (other languages)",
        objective="masked words (30%); the embedders: contrastive, on pairs of texts",
        text="English from the web; bilingual models: two languages",
        papers={"Jina Embeddings 2": "2310.19923", "bilingual models": "2402.17016"},
        releases={
            "jinaai/jina-embeddings-v2-small-en": sizes(4, 512, 2048, 8, 30528, **_PUBLISHED),
            "jinaai/jina-embeddings-v2-base-en": sizes(12, 768, 3072, 12, 30528, **_PUBLISHED),
        },
    ),
    fixed={"position_embedding_type": "alibi"},
    distinguishing_settings={"position_embedding_type": "alibi"},
)
