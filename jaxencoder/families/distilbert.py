"""DistilBERT: half of BERT's layers, no token types, no pooler. Sanh et al. 2019, arXiv:1910.01108."""

from jaxencoder.families.family import About, Family, Heads, head, plain_heads
from jaxencoder.families.labels import labels
from jaxencoder.families.settings import Settings, choice, same, size
from jaxencoder.families.tables import mlm_head
from jaxencoder.model.config import EncoderConfig
from jaxencoder.model.heads import HeadConfig


def _heads(c: EncoderConfig, settings: Settings) -> Heads:
    def pooled(name: str, outputs: int) -> Heads:
        return head(name, HeadConfig("cls", outputs, "relu"), "pre_classifier", "classifier")

    heads = pooled("sequence_head", labels(settings)) | pooled("choice_head", 1)
    return heads | plain_heads(settings, "token_head", "span_head")


_SIZES = {"n_layers": 6, "dim": 768, "hidden_dim": 3072, "n_heads": 12}


DISTILBERT = Family(
    model_type="distilbert",
    name="DistilBert",
    prefix="distilbert.",
    architecture=EncoderConfig(token_types=0),
    settings_table=(
        same("vocab_size", required=True),
        size("n_layers", "num_layers"),
        size("dim", "hidden_size"),
        size("hidden_dim", "mlp_size"),
        size("n_heads", "num_heads"),
        same("max_position_embeddings", "max_length"),
        choice("activation", "activation"),
        same("dropout"),
        same("attention_dropout"),
        same("initializer_range", "initializer_std"),
    ),
    encoder_table={
        "distilbert.embeddings.word_embeddings": "encoder/embeddings/token_embedding",
        "distilbert.embeddings.position_embeddings": "encoder/embeddings/position_embedding",
        "distilbert.embeddings.LayerNorm": "encoder/embeddings/norm",
        "distilbert.transformer.layer.{layer}.attention.q_lin": "encoder/layer/attention/query",
        "distilbert.transformer.layer.{layer}.attention.k_lin": "encoder/layer/attention/key",
        "distilbert.transformer.layer.{layer}.attention.v_lin": "encoder/layer/attention/value",
        "distilbert.transformer.layer.{layer}.attention.out_lin": "encoder/layer/attention/output",
        "distilbert.transformer.layer.{layer}.sa_layer_norm": "encoder/layer/attention_norm",
        "distilbert.transformer.layer.{layer}.ffn.lin1": "encoder/layer/mlp/up",
        "distilbert.transformer.layer.{layer}.ffn.lin2": "encoder/layer/mlp/down",
        "distilbert.transformer.layer.{layer}.output_layer_norm": "encoder/layer/mlp_norm",
    },
    mlm_head_table=mlm_head("vocab_transform", "vocab_layer_norm", "vocab_projector.bias"),
    heads=_heads,
    tied="vocab_projector.weight",
    about=About(
        title="DistilBERT",
        choose_for="speed: in its paper, 97% of BERT's GLUE score with 40% fewer parameters, 60% faster",
        tokenizer="WordPiece, lowercase or cased",
        objective="distillation from BERT, masked words",
        text="English books and Wikipedia; the multilingual model: Wikipedia in 104 languages",
        papers={"DistilBERT": "1910.01108"},
        releases={
            "distilbert/distilbert-base-uncased": _SIZES | {"vocab_size": 30522},
            "distilbert/distilbert-base-multilingual-cased": _SIZES | {"vocab_size": 119547},
        },
    ),
)
