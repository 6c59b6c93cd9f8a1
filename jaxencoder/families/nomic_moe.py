"""Nomic BERT with a plain GELU MLP and biases, in every other layer a mixture of experts, for embedding many languages.

Nussbaum and Duderstadt 2025, arXiv:2502.07972. Published with its code
(https://huggingface.co/nomic-ai/nomic-bert-2048) under Nomic BERT's model_type, from which activation_function tells
it. transformers' own class of that model_type drops the experts.
"""

from jaxencoder.families.bert import POSITIONS
from jaxencoder.families.family import About, Family, plain_heads, pooler
from jaxencoder.families.nomic_bert import ENCODER, OLDER_NAMES, PADDED_VOCABULARY, ROTARY_POSITIONS
from jaxencoder.families.settings import (
    SIZES,
    Entry,
    Fields,
    Settings,
    choice,
    implied,
    read_value,
    same,
    sizes,
    written,
)
from jaxencoder.families.tables import mlm_head, with_prefix
from jaxencoder.model.config import EncoderConfig

_CODE = "nomic-ai/nomic-bert-2048--"
_CLASSES = {
    "AutoConfig": f"{_CODE}configuration_hf_nomic_bert.NomicBertConfig",
    "AutoModel": f"{_CODE}modeling_hf_nomic_bert.NomicBertModel",
    "AutoModelForMaskedLM": f"{_CODE}modeling_hf_nomic_bert.NomicBertForPreTraining",
    "AutoModelForSequenceClassification": f"{_CODE}modeling_hf_nomic_bert.NomicBertForSequenceClassification",
    "AutoModelForTokenClassification": f"{_CODE}modeling_hf_nomic_bert.NomicBertForTokenClassification",
}


def _read_biases(settings: Settings, fields: Fields) -> Fields:
    """Biases of both projections of the MLP; those of the masked-language-model head go with the first."""
    names = ("qkv_proj_bias", "mlp_fc1_bias", "mlp_fc2_bias")
    attention, first, second = (read_value(settings, name, bool, True) for name in names)
    if first and not second:
        raise ValueError("config.json has mlp_fc2_bias false with mlp_fc1_bias true; only true can be loaded")
    return {
        "attention_bias": attention,
        "mlp_bias": second,
        "mlp_input_bias": first or not second,
        **dict.fromkeys(("head_bias", "output_bias"), first),
    }


def _write_biases(c: EncoderConfig) -> Settings:
    first = c.mlp_bias and c.mlp_input_bias
    return {"qkv_proj_bias": c.attention_bias, "mlp_fc1_bias": first, "mlp_fc2_bias": c.mlp_bias}


def _read_experts(settings: Settings, fields: Fields) -> Fields:
    number, interval = (read_value(settings, name, int, 0) for name in ("num_experts", "moe_every_n_layers"))
    if not number:
        return {}
    if interval < 2:
        raise ValueError(
            f"config.json has moe_every_n_layers {interval} with {number} experts; an integer of at least 2 is needed"
        )
    if not fields["mlp_bias"]:
        raise ValueError("config.json has mlp_fc2_bias false with num_experts; only true can be loaded")
    if fields["num_layers"] < 2:  # the first layer with experts is the second
        return {}
    return {
        "num_experts": number,
        "experts_per_token": read_value(settings, "moe_top_k", int),
        "windows": (0,) * min(interval, fields["num_layers"]),
        "expert_layers": (1,),
    }


def _write_experts(c: EncoderConfig) -> Settings:
    if c.expert_layers not in ((), (1,)) or any(c.windows):
        values = f"{c.expert_layers} and model.windows {c.windows}"
        raise ValueError(f"model.expert_layers is {values}; config.json of this family can only say (1,), no windows")
    interval = len(c.windows) if c.num_experts else 0
    return {"num_experts": c.num_experts, "moe_top_k": c.experts_per_token, "moe_every_n_layers": interval}


def _read_rotary(settings: Settings, fields: Fields) -> Fields:
    """Rotary positions; the published code reads no rope_scaling, and transformers writes one in rope_parameters."""
    rope = settings.get("rope_scaling") or settings.get("rope_parameters") or {}
    kind = rope.get("rope_type", rope.get("type", "default")) if isinstance(rope, dict) else rope
    if kind not in ("default", "dynamic" if settings.get("rotary_scaling_factor") else "default"):
        raise ValueError(f"config.json has rope_type {kind!r}; only default can be loaded")
    return ROTARY_POSITIONS.read(settings, fields)


def _write_rotary(c: EncoderConfig) -> Settings:
    if c.rope_scaling not in ("none", "dynamic"):
        raise ValueError(
            f"model.rope_scaling is {c.rope_scaling!r}; config.json of this family can only say none, dynamic"
        )
    return ROTARY_POSITIONS.write(c)


def _published_names(c: EncoderConfig) -> Settings:
    """What the published code reads under other names than transformers."""
    return {
        "n_layer": c.num_layers,
        "n_embd": c.hidden_size,
        "n_inner": c.mlp_size,
        "n_head": c.num_heads,
        "n_positions": c.max_length,
        "layer_norm_epsilon": c.norm_epsilon,
        **dict.fromkeys(("resid_pdrop", "moe_resid_pdrop"), c.dropout),
        "attn_pdrop": c.attention_dropout,
        "rotary_emb_base": c.rope_theta,
    }


# Of the settings of another value the published code reads some, and older code read others.
_FIXED = {
    **dict.fromkeys(("prenorm", "use_rms_norm", "causal", "parallel_block", "rotary_emb_interleaved"), False),
    **{"rotary_emb_fraction": 1.0, "rotary_emb_scale_base": None},
    **{"moe_normalize_expert_weights": False, "expert_choice_router": False, "num_shared_experts": 0, "ffn_div": 1},
}
_PUBLISHED = {
    **{"num_experts": 8, "moe_top_k": 2, "moe_every_n_layers": 2},
    **{"activation_function": "gelu", "type_vocab_size": 1, "max_position_embeddings": 2048},
}
_LAYER = "bert.encoder.layers.{layer}.mlp."
NOMIC_MOE = Family(
    model_type="nomic_bert",
    name="NomicBert",
    prefix="bert.",
    architecture=EncoderConfig(max_length=2048, positions="rotary", dropout=0.0, attention_dropout=0.0),
    settings_table=(
        written("auto_map", _CLASSES),
        *SIZES,
        same("layer_norm_eps", "norm_epsilon"),
        same("hidden_dropout_prob", "dropout"),
        same("attention_probs_dropout_prob", "attention_dropout"),
        implied("moe_resid_pdrop", "dropout"),
        same("initializer_range", "initializer_std"),
        POSITIONS,
        same("type_vocab_size", "token_types", minimum=0),
        implied("head_dim", "head_size"),
        PADDED_VOCABULARY,
        Entry(_read_rotary, _write_rotary),
        choice("activation_function", "activation", {"gelu": "gelu"}),
        Entry(_read_biases, _write_biases),
        Entry(_read_experts, _write_experts),
        Entry(lambda settings, fields: {}, _published_names),
        *(written(name, value) for name, value in _FIXED.items()),
    ),
    encoder_table={
        **with_prefix(ENCODER, "nomic_bert.", "bert.", without=".mlp."),
        f"{_LAYER}fc1": "encoder/layer/mlp/up",
        f"{_LAYER}fc2": "encoder/layer/mlp/down",
        f"{_LAYER}router.layer": "encoder/layer/mlp/router",
        f"{_LAYER}experts.mlp.w1": "encoder/layer/mlp/expert_up",
        f"{_LAYER}experts.mlp.w2": "encoder/layer/mlp/expert_down",
        f"{_LAYER}experts.bias": "encoder/layer/mlp/bias",
    },
    mlm_head_table=mlm_head(
        "cls.predictions.transform.dense", "cls.predictions.transform.layer_norm", "cls.predictions.decoder.bias"
    ),
    heads=lambda c, s: pooler("bert.pooler.dense") | plain_heads(s, "sequence_head", "token_head"),
    tied="cls.predictions.decoder.weight",
    about=About(
        title="Nomic Embed MoE",
        choose_for="embedding texts of up to 512 tokens in 100 languages: each token uses 2 of a layer's 8 experts, so "
        "that 475M parameters cost what 305M do; vectors can be truncated to 256 dimensions (Matryoshka)",
        tokenizer="SentencePiece unigram, cased",
        objective="masked words (30%); the embedder: contrastive, on pairs of texts",
        text="the web in 100 languages; the embedder: 1.6B pairs",
        papers={"mixtures of experts for embeddings": "2502.07972", "Matryoshka": "2205.13147"},
        releases={
            "nomic-ai/nomic-embed-text-v2-moe": sizes(12, 768, 3072, 12, 250048, **_PUBLISHED),
        },
    ),
    older_names=OLDER_NAMES,
    aliases={"nomic_bert.": "bert."},
    classes={"ForMaskedLM": "NomicBertForPreTraining"},
    fixed=_FIXED,
    distinguishing_settings={"activation_function": "gelu"},
)
