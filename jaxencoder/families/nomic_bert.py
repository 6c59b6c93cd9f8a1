"""Nomic BERT: BERT with rotary positions, a gated MLP and few biases. Nussbaum et al. 2024, arXiv:2402.01613."""

from jaxencoder.families.bert import POSITIONS, SETTINGS, TOKEN_TYPES
from jaxencoder.families.family import About, Family, plain_heads, pooler
from jaxencoder.families.rotary import ROTARY, rope_object, rotary_fields, rotary_settings
from jaxencoder.families.settings import Entry, Fields, Settings, choice, implied, read_number, read_value, sizes
from jaxencoder.families.tables import QKV, Weight, mlm_head
from jaxencoder.model.config import EncoderConfig

# GPT-2's names, which published configurations still have, and one of the published code.
OLDER_NAMES = {
    "n_layer": "num_hidden_layers", "n_embd": "hidden_size", "n_inner": "intermediate_size",
    "n_head": "num_attention_heads", "n_positions": "max_position_embeddings", "rotary_emb_base": "rope_theta",
    "resid_pdrop": "hidden_dropout_prob", "attn_pdrop": "attention_probs_dropout_prob",
    "layer_norm_epsilon": "layer_norm_eps",
}  # fmt: skip


def _read_vocab_size(settings: Settings, fields: Fields) -> Fields:
    multiple = read_value(settings, "pad_vocab_size_multiple", int, 1)
    return {"vocab_size": -(-fields["vocab_size"] // multiple) * multiple}


def _read_rotary(settings: Settings, fields: Fields) -> Fields:
    """Rotary positions as in transformers, or scaled by the length of the text under the published code's names."""
    if not (factor := read_number(settings, "rotary_scaling_factor")):
        return ROTARY.read(settings, fields)
    theta = read_number(rope_object(settings), "rope_theta") or read_number(settings, "rope_theta")
    length = read_value(settings, "max_trained_positions", int, 2048)
    dynamic = rotary_fields({"rope_type": "dynamic", "factor": factor}, theta, {**fields, "max_length": length})
    return dynamic | {"max_length": read_value(settings, "n_positions", int, fields["max_length"])}


def _write_rotary(c: EncoderConfig) -> Settings:
    settings = rotary_settings(c) | {"rotary_scaling_factor": None}
    if c.rope_scaling == "dynamic":
        settings |= {
            "n_positions": c.max_length,
            "max_trained_positions": c.rope_original_length,
            "rotary_scaling_factor": c.rope_factor,
            "rotary_emb_base": c.rope_theta,
        }
    return settings


# Follow the entries of the vocabulary's size and of the maximum length.
PADDED_VOCABULARY = Entry(_read_vocab_size, lambda c: {})
ROTARY_POSITIONS = Entry(_read_rotary, _write_rotary)
_ARCHITECTURE = EncoderConfig(
    max_length=2048, positions="rotary", rope_theta=1000.0, attention_bias=False, mlp_bias=False,
    activation="silu", gated_mlp=True, dropout=0.0, attention_dropout=0.0,
)  # fmt: skip
ENCODER = {
    "nomic_bert.embeddings.word_embeddings": "encoder/embeddings/token_embedding",
    "nomic_bert.embeddings.token_type_embeddings": "encoder/embeddings/token_type_embedding",
    "nomic_bert.emb_ln": "encoder/embeddings/norm",
    "nomic_bert.encoder.layers.{layer}.attn.Wqkv": Weight(QKV),
    "nomic_bert.encoder.layers.{layer}.attn.out_proj": "encoder/layer/attention/output",
    "nomic_bert.encoder.layers.{layer}.norm1": "encoder/layer/attention_norm",
    "nomic_bert.encoder.layers.{layer}.mlp.fc11": "encoder/layer/mlp/up",
    "nomic_bert.encoder.layers.{layer}.mlp.fc12": "encoder/layer/mlp/gate",
    "nomic_bert.encoder.layers.{layer}.mlp.fc2": "encoder/layer/mlp/down",
    "nomic_bert.encoder.layers.{layer}.norm2": "encoder/layer/mlp_norm",
}
NOMIC_BERT = Family(
    model_type="nomic_bert",
    name="NomicBert",
    prefix="nomic_bert.",
    architecture=_ARCHITECTURE,
    settings_table=(
        Entry(choice("activation_function", "activation", {"swiglu": "silu", "geglu": "gelu"}).read, lambda c: {}),
        *SETTINGS,
        POSITIONS,
        TOKEN_TYPES,
        implied("head_dim", "head_size"),
        PADDED_VOCABULARY,
        ROTARY_POSITIONS,
    ),
    encoder_table=ENCODER,
    mlm_head_table=mlm_head(
        "cls.predictions.transform.dense", "cls.predictions.transform.layer_norm", "cls.predictions.bias"
    ),
    heads=lambda c, s: pooler("nomic_bert.pooler.dense") | plain_heads(s, "sequence_head", "token_head"),
    tied="cls.predictions.decoder.weight",
    about=About(
        title="Nomic BERT",
        choose_for="embedding long English texts, with vectors that can be truncated to fewer dimensions (Matryoshka)",
        tokenizer="WordPiece, lowercase",
        objective="masked words (30%); the embedder: contrastive, on pairs of texts",
        text="English books and Wikipedia",
        papers={"Nomic Embed": "2402.01613", "Matryoshka": "2205.13147"},
        releases={
            "nomic-ai/nomic-bert-2048": sizes(12, 768, 3072, 12, 30528),
            "nomic-ai/nomic-embed-text-v1.5": sizes(12, 768, 3072, 12, 30528, max_position_embeddings=8192),
        },
    ),
    older_names=OLDER_NAMES,
    fixed={
        **dict.fromkeys(("prenorm", "use_rms_norm", "causal", "parallel_block", "rotary_emb_interleaved"), False),
        **dict.fromkeys(("qkv_proj_bias", "mlp_fc1_bias", "mlp_fc2_bias"), False),
        **{"rotary_emb_fraction": 1.0, "rotary_emb_scale_base": None, "num_experts": 0},
    },
)
