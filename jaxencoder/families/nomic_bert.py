"""Nomic BERT: BERT with rotary positions, a gated MLP and hardly a bias. Nussbaum et al. 2024, arXiv:2402.01613."""

import dataclasses
from typing import Any

from jaxencoder.families.bert import BERT
from jaxencoder.families.family import About, Family, Heads, Release, Settings, plain_heads, pooler, sizes
from jaxencoder.families.rotary import reach, rotary_choices, rotary_settings
from jaxencoder.families.tables import LAYER, Weight, linear, norm, table
from jaxencoder.model.config import EncoderConfig

# Published configurations still have GPT-2's names.
_OLD = {
    "n_layer": "num_hidden_layers",
    "n_embd": "hidden_size",
    "n_inner": "intermediate_size",
    "n_head": "num_attention_heads",
    "n_positions": "max_position_embeddings",
    "layer_norm_epsilon": "layer_norm_eps",
    "resid_pdrop": "hidden_dropout_prob",
    "attn_pdrop": "attention_probs_dropout_prob",
}


def _encoder_config(c: Settings) -> EncoderConfig:
    c = {new: c[old] for old, new in _OLD.items() if old in c} | dict(c)
    activation = {"swiglu": "silu", "geglu": "gelu"}.get(c.get("activation_function"), "silu")
    defaults = {"hidden_act": activation, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = BERT.encoder_config(defaults | {"max_position_embeddings": 2048} | c)
    multiple = c.get("pad_vocab_size_multiple", 1)
    return dataclasses.replace(
        config,
        vocab_size=-(-config.vocab_size // multiple) * multiple,
        positions="rotary",
        **_rotary(c, config),
        attention_bias=False,
        mlp_bias=False,
        gated_mlp=True,
    )


def _rotary(c: Settings, config: EncoderConfig) -> dict[str, Any]:
    """As transformers has it, or under the names of the published code, which scales by the length of the text."""
    rope, theta = c.get("rope_scaling") or c.get("rope_parameters"), c.get("rotary_emb_base") or 1000.0
    if not (factor := c.get("rotary_scaling_factor")):
        return rotary_choices(rope, theta, config.max_length, config.head_size)
    rope = {"rope_theta": (rope or {}).get("rope_theta"), "rope_type": "dynamic", "factor": factor}
    found = rotary_choices(rope, theta, c.get("max_trained_positions", 2048), config.head_size)
    return found | {"max_length": c.get("n_positions", config.max_length)}


def _settings(c: EncoderConfig) -> dict[str, Any]:
    settings = BERT.settings(c) | {"max_position_embeddings": reach(c), "rope_parameters": rotary_settings(c)}
    settings |= {"rope_scaling": None, "rotary_scaling_factor": None}
    if c.rope_scaling == "dynamic":
        own = ("n_positions", "max_trained_positions", "rotary_scaling_factor", "rotary_emb_base")
        settings |= zip(own, (c.max_length, c.rope_original_length, c.rope_factor, c.rope_theta), strict=True)
    return settings


def _encoder(c: EncoderConfig) -> list[Weight]:
    theirs, ours = f"nomic_bert.encoder.layers.{LAYER}", "encoder/layer"
    heads = (f"{ours}/attention/{name}" for name in ("query", "key", "value"))
    return [
        *table("nomic_bert.embeddings.word_embeddings", "encoder/embeddings/token_embedding"),
        *table("nomic_bert.embeddings.token_type_embeddings", "encoder/embeddings/token_type_embedding"),
        *norm("nomic_bert.emb_ln", "encoder/embeddings/norm", True),
        *linear(f"{theirs}.attn.Wqkv", *heads, bias=False),
        *linear(f"{theirs}.attn.out_proj", f"{ours}/attention/output", bias=False),
        *norm(f"{theirs}.norm1", f"{ours}/attention_norm", True),
        *linear(f"{theirs}.mlp.fc11", f"{ours}/mlp/up", bias=False),
        *linear(f"{theirs}.mlp.fc12", f"{ours}/mlp/gate", bias=False),
        *linear(f"{theirs}.mlp.fc2", f"{ours}/mlp/down", bias=False),
        *norm(f"{theirs}.norm2", f"{ours}/mlp_norm", True),
    ]


def _mlm_head(c: EncoderConfig) -> list[Weight]:
    return [
        *linear("cls.predictions.transform.dense", "mlm_head/dense", bias=True),
        *norm("cls.predictions.transform.layer_norm", "mlm_head/norm", True),
        Weight("cls.predictions.bias", ("mlm_head/bias",)),
    ]


def _heads(c: EncoderConfig, settings: Settings) -> Heads:
    return {
        "pooler": pooler("nomic_bert.pooler.dense"),
        **plain_heads(settings, "sequence_head", "token_head"),
    }


NOMIC_BERT = Family(
    model_type="nomic_bert",
    name="NomicBert",
    prefix="nomic_bert.",
    encoder_config=_encoder_config,
    settings=_settings,
    encoder=_encoder,
    mlm_head=_mlm_head,
    heads=_heads,
    tied="cls.predictions.decoder.weight",
    about=About(
        title="Nomic BERT",
        choose_for="embedding long English texts, with vectors that may be cut to fewer numbers (Matryoshka)",
        tokenizer="WordPiece, in lower case",
        objective="masked words (30%); the embedder: pairs of texts",
        text="English books and Wikipedia",
        papers={"Nomic Embed": "2402.01613", "Matryoshka": "2205.13147"},
        releases=(
            Release("nomic-ai/nomic-bert-2048", sizes(12, 768, 3072, 12, 30528)),
            Release("nomic-ai/nomic-embed-text-v1.5", sizes(12, 768, 3072, 12, 30528, max_position_embeddings=8192)),
        ),
    ),
    fixed={
        "prenorm": False,
        "use_rms_norm": False,
        "qkv_proj_bias": False,
        "mlp_fc1_bias": False,
        "mlp_fc2_bias": False,
        "causal": False,
        "parallel_block": False,
        "rotary_emb_fraction": 1.0,
        "rotary_emb_interleaved": False,
        "rotary_emb_scale_base": None,
        "num_experts": 0,
    },
)
