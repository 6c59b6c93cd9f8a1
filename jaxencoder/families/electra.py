"""ELECTRA: a generator fills masks, a discriminator finds what it replaced; narrow embeddings in the small sizes.

Clark et al. 2020, arXiv:2003.10555. Both are BERT's encoder.
"""

from jaxencoder.families.bert import BERT, ENCODER, POSITIONS, SETTINGS, TOKEN_TYPES
from jaxencoder.families.family import About, Family, Heads, head, plain_heads, two_layer_classifier
from jaxencoder.families.settings import Settings, inherited, sizes
from jaxencoder.families.tables import Names, mlm_head, with_prefix
from jaxencoder.model.config import EncoderConfig
from jaxencoder.model.heads import HeadConfig

# BERT's, with embeddings that are projected where their width is not that of the layers.
NARROW_SETTINGS = (*SETTINGS, POSITIONS, TOKEN_TYPES, inherited("embedding_size", "embedding_size", "hidden_size"))
# The only pooling that its multiple-choice head is loaded with.
_SUMMARY = {"summary_type": "first", "summary_use_proj": True, "summary_activation": "gelu"}


def narrow_encoder(prefix: str) -> Names:
    """BERT's table under another prefix, with the projection of the embeddings."""
    names = with_prefix(ENCODER, "bert.", prefix)
    return names | {f"{prefix}embeddings_project": "encoder/embeddings/projection"}


def _heads(c: EncoderConfig, settings: Settings) -> Heads:
    prefix = "discriminator_predictions"
    heads = head("rtd_head", HeadConfig("tokens", 1, c.activation), f"{prefix}.dense", f"{prefix}.dense_prediction")
    heads |= two_layer_classifier(settings, "gelu") | plain_heads(settings, "token_head", "span_head")
    if all(settings.get(name, value) == value for name, value in _SUMMARY.items()):
        heads |= head("choice_head", HeadConfig("cls", 1, "gelu"), "sequence_summary.summary", "classifier")
    return heads


ELECTRA = Family(
    model_type="electra",
    name="Electra",
    prefix="electra.",
    architecture=EncoderConfig(embedding_size=128, head_activation="gelu"),
    settings_table=NARROW_SETTINGS,
    encoder_table=narrow_encoder("electra."),
    mlm_head_table=mlm_head("generator_predictions.dense", "generator_predictions.LayerNorm", "generator_lm_head.bias"),
    heads=_heads,
    tied="generator_lm_head.weight",
    about=About(
        title="ELECTRA",
        choose_for="fine-tuning small English models: pretraining learns from every token, not only from masked ones",
        tokenizer="WordPiece, lowercase",
        objective="replaced-token detection",
        text="English: books, Wikipedia, news and the web",
        papers={"ELECTRA": "2003.10555"},
        releases={
            "google/electra-small-discriminator": sizes(12, 256, 1024, 4, 30522, embedding_size=128),
            "google/electra-base-discriminator": sizes(12, 768, 3072, 12, 30522, embedding_size=768),
            "google/electra-large-discriminator": sizes(24, 1024, 4096, 16, 30522, embedding_size=1024),
        },
    ),
    fixed=BERT.fixed,
)
