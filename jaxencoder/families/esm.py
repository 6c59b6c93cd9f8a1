"""ESM-2, a language model of proteins: pre-norm, rotary positions and rescaled inputs. Lin et al. 2023,
doi:10.1126/science.ade2574; and ESM-1b, Rives et al. 2021, doi:10.1073/pnas.2016239118, with learned positions.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxencoder.families.bert import ENCODER
from jaxencoder.families.family import About, Family, plain_heads, pooler, two_layer_classifier
from jaxencoder.families.roberta import position_table, shifted_positions
from jaxencoder.families.settings import SIZES, Entry, Fields, Settings, choice, read_value, same, sizes
from jaxencoder.families.tables import mlm_head, with_prefix
from jaxencoder.model.config import EncoderConfig
from jaxencoder.model.positions import half_precision_frequencies, rotary_frequencies

_PAD, _FIRST = 1, 2  # id of the padding, and the position of the first token
_LEARNED = shifted_positions()
_FREQUENCIES = "rotary_embeddings.inv_freq"  # of all layers; in older files, of each layer


def _read_positions(settings: Settings, fields: Fields) -> Fields:
    """Learned positions leave out the padding's id, as in RoBERTa; rotary ones count all tokens."""
    if settings.get("position_embedding_type") == "rotary":
        return {"max_length": read_value(settings, "max_position_embeddings", int, 1026) - _FIRST}
    return _LEARNED.read(settings, fields)


def _write_positions(c: EncoderConfig) -> Settings:
    return _LEARNED.write(c) if c.positions == "learned" else {"max_position_embeddings": c.max_length + _FIRST}


def _read_zeroed_token(settings: Settings, fields: Fields) -> Fields:
    if not read_value(settings, "token_dropout", bool, False):
        return {"zeroed_token": 0}
    token = read_value(settings, "mask_token_id", int)
    if not 0 < token < fields["vocab_size"]:
        raise ValueError(f"config.json has mask_token_id {token}; with token_dropout it must be a token above 0")
    return {"zeroed_token": token}


def _write_zeroed_token(c: EncoderConfig) -> Settings:
    return {"token_dropout": bool(c.zeroed_token)} | ({"mask_token_id": c.zeroed_token} if c.zeroed_token else {})


def _read_precision(settings: Settings, fields: Fields) -> Fields:
    """A setting of this package: transformers goes by the frequencies in the weights."""
    return {"rope_half_precision": read_value(settings, "rope_half_precision", bool, False)}


def _refined(config: EncoderConfig, tensors: Mapping[str, Any]) -> EncoderConfig:
    """The architecture with the precision of the frequencies in a file; ValueError for other frequencies."""
    names = sorted(name for name in tensors if name.endswith(_FREQUENCIES))
    if config.positions != "rotary" or not names:
        return dataclasses.replace(config, rope_half_precision=False)
    stored, exact = np.asarray(tensors[names[0]], np.float32), rotary_frequencies(config.head_size, config.rope_theta)
    if stored.shape == exact.shape:
        if np.allclose(stored, exact, rtol=1e-6, atol=0):
            return dataclasses.replace(config, rope_half_precision=False)
        if np.array_equal(stored, half_precision_frequencies(config.head_size, config.rope_theta)):
            return dataclasses.replace(config, rope_half_precision=True)
    raise ValueError(
        f"{names[0]} holds other frequencies than those of rope_theta {config.rope_theta:g}, in float32 or float16; "
        "only these can be loaded"
    )


def _buffers(c: EncoderConfig) -> dict[str, np.ndarray]:
    frequencies = half_precision_frequencies if c.rope_half_precision else rotary_frequencies
    return {f"esm.{_FREQUENCIES}": frequencies(c.head_size, c.rope_theta)} if c.positions == "rotary" else {}


_ESM2 = {
    **{"position_embedding_type": "rotary", "token_dropout": True, "mask_token_id": 32, "layer_norm_eps": 1e-5},
    **{"emb_layer_norm_before": False, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
}
ESM = Family(
    model_type="esm",
    name="Esm",
    prefix="esm.",
    architecture=EncoderConfig(max_length=1024, token_types=0, norm_placement="pre", embedding_norm=False),
    settings_table=(
        *SIZES,
        Entry(_read_positions, _write_positions),
        choice("position_embedding_type", "positions", {"absolute": "learned", "rotary": "rotary"}),
        same("rope_theta"),
        Entry(_read_precision, lambda c: {"rope_half_precision": True} if c.rope_half_precision else {}),
        Entry(
            lambda settings, fields: {"embedding_norm": bool(settings.get("emb_layer_norm_before"))},
            lambda c: {"emb_layer_norm_before": True} if c.embedding_norm else {},
        ),
        Entry(_read_zeroed_token, _write_zeroed_token),
        same("layer_norm_eps", "norm_epsilon"),
        same("hidden_dropout_prob", "dropout"),
        same("attention_probs_dropout_prob", "attention_dropout"),
        same("initializer_range", "initializer_std"),
    ),
    encoder_table=lambda c: {
        **with_prefix(ENCODER, "bert.", "esm.", without="LayerNorm"),
        **position_table(c, "esm."),
        "esm.embeddings.layer_norm": "encoder/embeddings/norm",
        "esm.encoder.layer.{layer}.attention.LayerNorm": "encoder/layer/attention_norm",
        "esm.encoder.layer.{layer}.LayerNorm": "encoder/layer/mlp_norm",
        "esm.encoder.emb_layer_norm_after": "encoder/final_norm",
    },
    mlm_head_table=mlm_head("lm_head.dense", "lm_head.layer_norm", "lm_head.bias"),
    heads=lambda c, s: pooler("esm.pooler.dense") | plain_heads(s, "token_head") | two_layer_classifier(s, "tanh"),
    tied="lm_head.decoder.weight",
    about=About(
        title="ESM-2",
        choose_for="proteins: embedding sequences of amino acids, and predictions about each of them",
        tokenizer="one token for each amino acid",
        objective="masked amino acids (15%)",
        text="65M sequences of proteins (UniRef50, from UniRef90)",
        papers={"masked models of proteins": "2007.06225"},
        releases={
            "facebook/esm2_t6_8M_UR50D": sizes(6, 320, 1280, 20, 33, **_ESM2),
            "facebook/esm2_t33_650M_UR50D": sizes(33, 1280, 5120, 20, 33, **_ESM2),
        },
    ),
    fixed={"tie_word_embeddings": True, "is_folding_model": False, "pad_token_id": _PAD},
    refine=_refined,
    buffers=_buffers,
    unused=r"contact_head\.|embeddings\.position_embeddings\.",
)
