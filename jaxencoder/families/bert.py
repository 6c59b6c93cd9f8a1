"""BERT: post-norm, learned positions, biases everywhere. Devlin et al. 2019, arXiv:1810.04805."""

from collections.abc import Callable

from jaxencoder.families.family import About, Family, Heads, head, plain_heads, pooler
from jaxencoder.families.settings import SIZES, Settings, choice, same, sizes
from jaxencoder.families.tables import mlm_head
from jaxencoder.model.config import EncoderConfig
from jaxencoder.model.heads import HeadConfig

# Without positions and token types, in which the families made from BERT differ.
SETTINGS = (
    *SIZES,
    same("layer_norm_eps", "norm_epsilon"),
    choice("hidden_act", "activation"),
    same("hidden_dropout_prob", "dropout"),
    same("attention_probs_dropout_prob", "attention_dropout"),
    same("initializer_range", "initializer_std"),
)
POSITIONS = same("max_position_embeddings", "max_length")
TOKEN_TYPES = same("type_vocab_size", "token_types", minimum=1)
ENCODER = {
    "bert.embeddings.word_embeddings": "encoder/embeddings/token_embedding",
    "bert.embeddings.position_embeddings": "encoder/embeddings/position_embedding",
    "bert.embeddings.token_type_embeddings": "encoder/embeddings/token_type_embedding",
    "bert.embeddings.LayerNorm": "encoder/embeddings/norm",
    "bert.encoder.layer.{layer}.attention.self.query": "encoder/layer/attention/query",
    "bert.encoder.layer.{layer}.attention.self.key": "encoder/layer/attention/key",
    "bert.encoder.layer.{layer}.attention.self.value": "encoder/layer/attention/value",
    "bert.encoder.layer.{layer}.attention.output.dense": "encoder/layer/attention/output",
    "bert.encoder.layer.{layer}.attention.output.LayerNorm": "encoder/layer/attention_norm",
    "bert.encoder.layer.{layer}.intermediate.dense": "encoder/layer/mlp/up",
    "bert.encoder.layer.{layer}.output.dense": "encoder/layer/mlp/down",
    "bert.encoder.layer.{layer}.output.LayerNorm": "encoder/layer/mlp_norm",
}


def heads(prefix: str) -> Callable[[EncoderConfig, Settings], Heads]:
    """The heads, below the prefix of the encoder's tensors."""
    return lambda c, s: (
        pooler(f"{prefix}pooler.dense")
        | head("nsp_head", HeadConfig("pooled", 2), output="cls.seq_relationship")
        | plain_heads(s)
    )


BERT = Family(
    model_type="bert",
    name="Bert",
    prefix="bert.",
    architecture=EncoderConfig(),
    settings_table=(*SETTINGS, POSITIONS, TOKEN_TYPES),
    encoder_table=ENCODER,
    mlm_head_table=mlm_head(
        "cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm", "cls.predictions.bias"
    ),
    heads=heads("bert."),
    tied="cls.predictions.decoder.weight",
    about=About(
        title="BERT",
        choose_for="comparison, since every paper reports it, and for the many models made from it, such as small "
        "sentence embedders",
        tokenizer="WordPiece, lowercase or cased",
        objective="masked words (15%), next-sentence prediction",
        text="English books and Wikipedia; the multilingual model: Wikipedia in 104 languages",
        papers={"BERT": "1810.04805", "the smaller sizes": "1908.08962", "MiniLM": "2002.10957"},
        releases={
            "google/bert_uncased_L-2_H-128_A-2": sizes(2, 128, 512, 2, 30522),
            "sentence-transformers/all-MiniLM-L6-v2": sizes(6, 384, 1536, 12, 30522),
            "google/bert_uncased_L-4_H-512_A-8": sizes(4, 512, 2048, 8, 30522),
            "google-bert/bert-base-uncased": sizes(12, 768, 3072, 12, 30522),
            "google-bert/bert-base-multilingual-cased": sizes(12, 768, 3072, 12, 119547),
            "google-bert/bert-large-uncased": sizes(24, 1024, 4096, 16, 30522),
        },
    ),
    fixed={"position_embedding_type": "absolute"},
)
