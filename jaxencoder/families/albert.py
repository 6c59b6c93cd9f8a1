"""ALBERT: layers that share their parameters, and narrow embeddings. Lan et al. 2020, arXiv:1909.11942."""

from jaxencoder.families.bert import POSITIONS, SETTINGS, TOKEN_TYPES
from jaxencoder.families.family import About, Family, head, plain_heads, pooler
from jaxencoder.families.labels import labels
from jaxencoder.families.settings import Entry, Fields, Settings, read_value, same, sizes
from jaxencoder.families.tables import mlm_head
from jaxencoder.model.config import EncoderConfig
from jaxencoder.model.heads import HeadConfig


def _read_layers(settings: Settings, fields: Fields) -> Fields:
    """A hidden layer of config.json is a group of inner_group_num layers."""
    layers = read_value(settings, "inner_group_num", int, 1)
    return {"num_layers": fields["num_layers"] * layers, "windows": (0,) * layers}


_GROUP = "albert.encoder.albert_layer_groups.{row}.albert_layers.{block}"
ALBERT = Family(
    model_type="albert",
    name="Albert",
    prefix="albert.",
    architecture=EncoderConfig(
        activation="gelu_tanh", embedding_size=128, num_layer_groups=1, dropout=0.0, attention_dropout=0.0
    ),
    settings_table=(
        *SETTINGS,
        POSITIONS,
        TOKEN_TYPES,
        Entry(_read_layers, lambda c: {"num_hidden_layers": c.repeats, "inner_group_num": len(c.windows)}),
        same("num_hidden_groups", "num_layer_groups", minimum=1),
        same("embedding_size", minimum=1),
    ),
    encoder_table={
        "albert.embeddings.word_embeddings": "encoder/embeddings/token_embedding",
        "albert.embeddings.position_embeddings": "encoder/embeddings/position_embedding",
        "albert.embeddings.token_type_embeddings": "encoder/embeddings/token_type_embedding",
        "albert.embeddings.LayerNorm": "encoder/embeddings/norm",
        "albert.encoder.embedding_hidden_mapping_in": "encoder/embeddings/projection",
        f"{_GROUP}.attention.query": "encoder/layer/attention/query",
        f"{_GROUP}.attention.key": "encoder/layer/attention/key",
        f"{_GROUP}.attention.value": "encoder/layer/attention/value",
        f"{_GROUP}.attention.dense": "encoder/layer/attention/output",
        f"{_GROUP}.attention.LayerNorm": "encoder/layer/attention_norm",
        f"{_GROUP}.ffn": "encoder/layer/mlp/up",
        f"{_GROUP}.ffn_output": "encoder/layer/mlp/down",
        f"{_GROUP}.full_layer_layer_norm": "encoder/layer/mlp_norm",
    },
    mlm_head_table=mlm_head("predictions.dense", "predictions.LayerNorm", "predictions.bias"),
    heads=lambda c, s: (
        pooler("albert.pooler")
        # The order of two sentences, instead of BERT's next-sentence prediction.
        | head("nsp_head", HeadConfig("pooled", labels(s)), output="sop_classifier.classifier")
        | plain_heads(s)
    ),
    tied="predictions.decoder.weight",
    about=About(
        title="ALBERT",
        choose_for="few parameters to store and send; all layers share them, so it computes as much as BERT",
        tokenizer="SentencePiece unigram, lowercase",
        objective="masked spans of words, sentence-order prediction",
        text="English books and Wikipedia",
        papers={"ALBERT": "1909.11942"},
        releases={
            "albert/albert-base-v2": sizes(12, 768, 3072, 12, 30000),
            "albert/albert-large-v2": sizes(24, 1024, 4096, 16, 30000),
            "albert/albert-xlarge-v2": sizes(24, 2048, 8192, 16, 30000),
            "albert/albert-xxlarge-v2": sizes(12, 4096, 16384, 64, 30000),
        },
    ),
    fixed={"position_embedding_type": "absolute"},
)
