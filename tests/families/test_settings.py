"""Tables of settings: config.json to an architecture and back, and settings that are refused by name."""

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxencoder.families import FAMILIES
from jaxencoder.families.bert import BERT
from jaxencoder.families.family import Family
from jaxencoder.families.nomic_bert import NOMIC_BERT
from jaxencoder.families.published import can_hold, parse_settings
from jaxencoder.model.config import EncoderConfig
from tests.families.peers import MODELS, SIZES

LINEAR = {"rope_type": "linear", "factor": 2.0, "rope_theta": 7.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8, "beta_fast": 3.0}
# Settings of any family -> values; a family ignores those that it does not have.
VALUES: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("hidden_dropout_prob", "dropout", "attention_dropout", "mlp_dropout", "attn_pdrop"), (0, 0.3)),
    **dict.fromkeys(("hidden_act", "activation", "hidden_activation"), ("gelu", "gelu_fast", "relu", "silu")),
    **dict.fromkeys(("classifier_activation", "pooler_hidden_act", "conv_act"), ("gelu", "relu")),
    **dict.fromkeys(("layer_norm_eps", "norm_eps", "rms_norm_eps", "initializer_range"), (1e-3, 1)),
    **dict.fromkeys(("attention_bias", "mlp_bias", "norm_bias", "decoder_bias", "rotary_value"), (True, False)),
    **dict.fromkeys(("tie_word_embeddings", "share_att_key", "position_biased_input"), (True, False)),
    **dict.fromkeys(("num_key_value_heads", "num_hidden_groups", "inner_group_num", "type_vocab_size"), (1, 2)),
    **dict.fromkeys(("embedding_size", "max_position_embeddings", "n_positions", "max_relative_positions"), (24, 40)),
    "attention_window": (6, [4, 8]),
    "global_attn_every_n_layers": (1, 2),
    "local_attention": (6, 8),
    "norm_rel_ebd": ("none", "layer_norm"),
    "position_buckets": (-1, 6),
    "rope_scaling": (None, LINEAR, YARN, {"type": "dynamic", "factor": 3.0}),
    "rope_theta": (500.0, None),
    "rotary_scaling_factor": (None, 2),
}


@st.composite
def published(draw: st.DrawFn, family: Family) -> dict[str, Any]:
    """A config.json that the family can load."""
    models = [*family.about.releases.values()]
    if not family.distinguishing_settings:  # otherwise the models are another family's
        models += MODELS.get(family.model_type, ())
    settings = dict(draw(st.sampled_from(models)))
    for name in draw(st.sets(st.sampled_from(sorted(VALUES)), max_size=5)):
        changed = settings | {name: draw(st.sampled_from(VALUES[name]))}
        try:
            family.encoder_config(changed)
        except ValueError:
            continue
        settings = changed
    return settings


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.model_type)
@given(data=st.data())
def test_read_and_written_back(family: Family, data: st.DataObject) -> None:
    settings = data.draw(published(family))
    config = family.encoder_config(settings)
    written = family.settings(config)
    assert family.encoder_config(written) == config
    assert family.encoder_config(settings | written) == config  # as a folder is saved that was loaded


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_hidden_layers": "2"}, "num_hidden_layers '2'; an integer is needed"),
        ({"num_attention_heads": 0}, "num_attention_heads 0; this family needs at least 1"),
        ({"layer_norm_eps": None}, "layer_norm_eps None; a number is needed"),
        ({"hidden_dropout_prob": True}, "hidden_dropout_prob True; a number is needed"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings 1; true or false is needed"),
        ({"hidden_act": ["gelu"]}, r"hidden_act \['gelu'\]; known are gelu"),
        ({"type_vocab_size": 0}, "type_vocab_size 0; this family needs at least 1"),
        ({"quantization_config": {}}, r"quantization_config \{\}; only None can be loaded"),
        ({"num_hidden_layers": 2**40}, "num_hidden_layers 1099511627776; an integer below 2147483648 is needed"),
        ({"layer_norm_eps": float("inf")}, "layer_norm_eps inf; a number below inf is needed"),
    ],
)
def test_settings_that_cannot_be_read(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"config.json has {message}"):
        BERT.encoder_config(SIZES | settings)


@pytest.mark.parametrize(
    ("model_type", "settings", "message"),
    [
        ("modernbert", {"rope_parameters": "x"}, "rope_parameters 'x'; a JSON object is needed"),
        ("modernbert", {"rope_parameters": {"full_attention": 5}}, "full_attention 5; a JSON object is needed"),
        ("modernbert", {"rope_scaling": ["x"]}, r"rope_scaling \['x'\]; a JSON object is needed"),
        ("modernbert", {"global_rope_theta": "x"}, "global_rope_theta 'x'; a number is needed"),
        ("gemma3_text", {"rope_parameters": ["x"]}, r"rope_parameters \['x'\]; a JSON object is needed"),
        ("gemma3_text", {"rope_local_base_freq": {}}, r"rope_local_base_freq \{\}; a number is needed"),
        ("gemma3_text", {"layer_types": True}, "layer_types True; full_attention or sliding_attention is needed"),
        ("nomic_bert", {"rope_scaling": 7}, "rope_scaling 7; a JSON object is needed"),
        ("nomic_bert", {"rotary_scaling_factor": "x"}, "rotary_scaling_factor 'x'; a number is needed"),
        ("gte", {"rope_scaling": "x"}, "rope_scaling 'x'; a JSON object is needed"),
        ("deberta", {"pos_att_type": 1}, "pos_att_type 1; a text or a list of c2p and p2c is needed"),
        ("qwen3", {"head_dim": True}, "head_dim True; an integer of at least 1 is needed"),
        ("albert", {"inner_group_num": 10**30}, "inner_group_num 1000.*; an integer below 2147483648 is needed"),
    ],
)
def test_settings_of_another_type(model_type: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"here: config.json has {message}"):
        parse_settings(MODELS[model_type][0] | {"model_type": model_type} | settings, "here")


def test_dropout_needs_no_setting() -> None:
    """It changes no output, so a fine-tuned run can be published by families whose config.json has none."""
    family = next(family for family in FAMILIES if family.model_type == "eurobert")
    config = family.encoder_config(MODELS["eurobert"][0])
    assert can_hold(family, dataclasses.replace(config, dropout=0.1, attention_dropout=0.2))
    assert not can_hold(family, dataclasses.replace(config, embedding_norm=True))


def test_an_mlp_that_is_not_gated() -> None:
    assert NOMIC_BERT.encoder_config(SIZES | {"activation_function": "geglu", "num_attention_heads": 2}).gated_mlp
    with pytest.raises(ValueError, match="activation_function 'gelu'; known are swiglu, geglu"):
        NOMIC_BERT.encoder_config(SIZES | {"activation_function": "gelu"})


@pytest.mark.parametrize(
    ("model_type", "changes", "message"),
    [
        ("bert", {"token_types": 0}, "model.token_types is 0; this family needs at least 1"),
        ("albert", {"embedding_size": 8}, "model.num_layer_groups is 0; this family needs at least 1"),
        ("deberta", {"positions": "rotary"}, "model.positions is 'rotary'; config.json of this family can only say"),
        ("neobert", {"mlp_size": 41, "activation": "silu"}, "model.mlp_size is 41; NeoBERT's is a multiple of 8"),
    ],
)
def test_architectures_that_cannot_be_written(model_type: str, changes: dict[str, Any], message: str) -> None:
    family = next(family for family in FAMILIES if family.model_type == model_type)
    with pytest.raises(ValueError, match=message):
        family.settings(EncoderConfig(**changes))
