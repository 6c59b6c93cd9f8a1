"""MPNet: masked and permuted pretraining; learned positions and relative position biases, no token types.

Song et al. 2020, arXiv:2004.09297.
"""

from jaxencoder.families.bert import SETTINGS
from jaxencoder.families.family import About, Family
from jaxencoder.families.roberta import PAD, ROBERTA, encoder_table, heads, shifted_positions
from jaxencoder.families.settings import sizes, written
from jaxencoder.families.tables import with_prefix
from jaxencoder.model.config import EncoderConfig

_BUCKETS = 32  # transformers computes this many regardless of config.json
_SIZES = sizes(12, 768, 3072, 12, 30527, max_position_embeddings=514, layer_norm_eps=1e-5)
MPNET = Family(
    model_type="mpnet",
    name="MPNet",
    prefix="mpnet.",
    # The head's activation is gelu regardless of hidden_act.
    architecture=EncoderConfig(token_types=0, relative_bias_buckets=_BUCKETS, head_activation="gelu"),
    # Its code takes the published padding id, whatever config.json says.
    settings_table=(*SETTINGS, shifted_positions(PAD), written("relative_attention_num_buckets", _BUCKETS)),
    encoder_table=lambda c: {
        **with_prefix(encoder_table(c), "roberta.", "mpnet.", without=".attention."),
        "mpnet.encoder.relative_attention_bias": "encoder/relative_bias/table",
        "mpnet.encoder.layer.{layer}.attention.attn.q": "encoder/layer/attention/query",
        "mpnet.encoder.layer.{layer}.attention.attn.k": "encoder/layer/attention/key",
        "mpnet.encoder.layer.{layer}.attention.attn.v": "encoder/layer/attention/value",
        "mpnet.encoder.layer.{layer}.attention.attn.o": "encoder/layer/attention/output",
        "mpnet.encoder.layer.{layer}.attention.LayerNorm": "encoder/layer/attention_norm",
    },
    mlm_head_table=ROBERTA.mlm_head_table,
    heads=heads("mpnet."),
    tied=ROBERTA.tied,
    about=About(
        title="MPNet",
        choose_for="sentence embeddings in English; all-mpnet-base-v2 and similar models are made from it",
        tokenizer="WordPiece, lowercase",
        objective="masked words, predicted in a random order",
        text="160 GB of English",
        papers={"MPNet": "2004.09297"},
        releases={"microsoft/mpnet-base": _SIZES, "sentence-transformers/all-mpnet-base-v2": _SIZES},
    ),
    fixed=ROBERTA.fixed | {"relative_attention_num_buckets": _BUCKETS},
)
