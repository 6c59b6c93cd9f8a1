"""Rotary scaling in config.json: equal to transformers, and read again after writing."""

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import jaxencoder
from jaxencoder.api import Model
from jaxencoder.checkpoints.transformers import open_transformers
from jaxencoder.config import RunConfig
from jaxencoder.families.eurobert import EUROBERT
from jaxencoder.families.modernbert import MODERNBERT
from jaxencoder.families.nomic_bert import NOMIC_BERT
from jaxencoder.families.rotary import rotary_fields
from jaxencoder.families.tables import parameter_shapes
from jaxencoder.model.config import EncoderConfig
from tests.families.peers import ENDS, SIZES, ours, saved, theirs, torch_model

T, TRAINED = 29, 8  # tokens of a text, and of pretraining
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": TRAINED, "rope_theta": 500.0}
KINDS = {
    "linear": {"rope_type": "linear", "factor": 3.0, "rope_theta": 500.0},
    "dynamic": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 500.0},
    "llama3": YARN | {"rope_type": "llama3", "low_freq_factor": 0.5, "high_freq_factor": 2.5},
    "yarn": YARN,
    "yarn, all said": YARN | {"beta_fast": 3.0, "beta_slow": 0.5, "attention_factor": 0.7},
    "yarn, mscale": YARN | {"mscale": 0.5, "mscale_all_dim": 2.0},
}
FAMILIES = {
    "eurobert": dict(SIZES, **ENDS, num_attention_heads=2, num_key_value_heads=1),
    "nomic_bert": dict(SIZES, num_attention_heads=2, hidden_act="silu"),
    "modernbert": dict(
        SIZES, **ENDS, num_attention_heads=2, num_hidden_layers=2, global_attn_every_n_layers=2, local_attention=8
    ),
}


def settings(family: str, rope: dict[str, Any], local: bool = False) -> dict[str, Any]:
    length = {"max_position_embeddings": TRAINED if rope["rope_type"] == "dynamic" else 4 * TRAINED}
    if family == "modernbert":
        plain = {"rope_type": "default", "rope_theta": 77.0}
        rope = {"full_attention": rope, "sliding_attention": rope | {"rope_theta": 77.0} if local else plain}
    return FAMILIES[family] | length | {"rope_parameters": rope}


def batch() -> dict[str, np.ndarray]:
    ids = np.random.default_rng(0).integers(5, 67, (2, T))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


@pytest.mark.parametrize(
    ("family", "kind", "local"),
    [
        *(("eurobert", kind, False) for kind in KINDS),
        *(("nomic_bert", "dynamic", False), ("modernbert", "yarn", False), ("modernbert", "dynamic", True)),
    ],
)
def test_outputs_equal_transformers(family: str, kind: str, local: bool, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    model = torch_model(family, copy.deepcopy(settings(family, KINDS[kind], local)))
    expected = theirs(model, batch(), "ForMaskedLM")
    loaded = jaxencoder.load(saved(model, tmp_path / "theirs"), dtype="float32")
    assert loaded.config.model.rope_scaling == kind.split(",")[0]
    assert loaded.max_length == (2 if kind == "dynamic" else 4) * TRAINED
    got = ours(loaded, batch())
    np.testing.assert_allclose(got["mlm_logits"], expected["mlm_logits"], atol=1e-4)
    plain = dataclasses.replace(loaded.config.model, rope_scaling="none")
    assert np.abs(ours(with_architecture(loaded, plain), batch())["hidden"] - expected["hidden"]).max() > 1e-2

    loaded.save(tmp_path / "ours")
    again = type(model).from_pretrained(tmp_path / "ours", attn_implementation="eager")
    np.testing.assert_allclose(theirs(again, batch(), "ForMaskedLM")["hidden"], expected["hidden"], atol=1e-5)
    assert open_transformers(tmp_path / "ours", weights=False).config.model == loaded.config.model


def with_architecture(model: Model, architecture: EncoderConfig) -> Model:
    return dataclasses.replace(model, config=dataclasses.replace(model.config, model=architecture))


def test_long_texts_do_not_change_short_ones_in_their_batch() -> None:
    """transformers stretches all rows of a batch with its padding; here a text does not depend on the others."""
    plain = EUROBERT.encoder_config(FAMILIES["eurobert"])
    config = dataclasses.replace(plain, rope_scaling="dynamic", rope_factor=2.0, rope_original_length=8)
    rng = np.random.default_rng(0)
    shapes = parameter_shapes(config, False)
    params = jax.tree.map(lambda x: rng.normal(0, 0.3, x.shape).astype(np.float32), shapes)
    model = Model(RunConfig(model=config), params, None)
    ids = rng.integers(5, 67, (2, T))
    mask = (np.arange(T) < np.array([T, 7])[:, None]).astype(int)
    both, alone = model(ids, mask)["hidden"], model(ids[1:], mask[1:])["hidden"]
    np.testing.assert_allclose(both[1, :7], alone[0, :7], atol=1e-5)


def test_older_names() -> None:
    old = {"type": "linear", "factor": 3.0}
    config = EUROBERT.encoder_config(FAMILIES["eurobert"] | {"rope_scaling": old, "rope_theta": 123.0})
    assert (config.rope_scaling, config.rope_factor, config.rope_theta) == ("linear", 3.0, 123.0)
    config = MODERNBERT.encoder_config(FAMILIES["modernbert"] | {"rope_scaling": old, "global_rope_theta": 9.0})
    assert (config.rope_scaling, config.rope_scaling_local, config.rope_theta) == ("linear", True, 9.0)
    plain = dataclasses.replace(config, rope_scaling="none", rope_factor=1.0, rope_scaling_local=False)
    for one in (config, plain):
        written = {"rope_scaling": old, **MODERNBERT.settings(one)}
        assert MODERNBERT.encoder_config(written) == one  # the older setting is overridden


def test_names_of_nomics_code() -> None:
    """As nomic-embed-text has them, whose code stretches texts of more than max_trained_positions."""
    names = {"n_positions": 64, "max_trained_positions": TRAINED, "rotary_scaling_factor": 2, "rotary_emb_base": 500.0}
    config = NOMIC_BERT.encoder_config({**FAMILIES["nomic_bert"], **names})
    assert (config.max_length, config.rope_original_length, config.rope_scaling) == (64, TRAINED, "dynamic")
    rope = KINDS["dynamic"]
    same = NOMIC_BERT.encoder_config(settings("nomic_bert", rope) | {"rotary_scaling_factor": None})
    assert dataclasses.replace(same, max_length=64) == config
    written = NOMIC_BERT.settings(config)
    assert written["max_position_embeddings"] == TRAINED and written["rope_parameters"] == rope
    assert {name: written[name] for name in names} == names
    assert NOMIC_BERT.encoder_config(names | written) == config
    plain = dataclasses.replace(config, rope_scaling="none", rope_factor=1.0, rope_original_length=0)
    assert NOMIC_BERT.encoder_config(names | NOMIC_BERT.settings(plain)) == plain


def test_a_fixed_ntk_factor_is_another_base() -> None:
    fields = {"max_length": 32, "hidden_size": 16, "num_heads": 2}
    rope = {"rope_type": "ntk", "factor": 4.0}
    assert rotary_fields(rope, 100.0, fields) == {"rope_theta": pytest.approx(100.0 * 4 ** (8 / 6)), "max_length": 32}


@pytest.mark.parametrize(
    ("rope", "message"),
    [
        ({"rope_type": "mrope", "factor": 8.0}, "rope_type 'mrope'; only default, linear, ntk, dynamic, yarn, llama3"),
        ({"type": "longrope"}, "rope_type 'longrope'; only"),
        ({"rope_type": "linear"}, "config.json has no factor for rope_type 'linear'"),
        ({"rope_type": "linear", "factor": 0.5}, "factor 0.5 for rope_type 'linear'; it must be at least 1"),
        ({"rope_type": "yarn", "factor": 2.0, "truncate": False}, "truncate false"),
        ({"rope_type": "dynamic", "factor": 2.0, "original_max_position_embeddings": 4}, "make them equal"),
        ({"rope_type": "default", "partial_rotary_factor": 0.5}, r"partial_rotary_factor 0\.5"),
        ({"rope_type": "ntk", "factor": -2.0}, "factor -2.0 for rope_type 'ntk'; it must be at least 1"),
        ({"rope_type": "yarn", "factor": -2.0}, "factor -2.0 for rope_type 'yarn'; it must be at least 1"),
        ({"rope_type": "linear", "factor": "x"}, "factor 'x'; a number is needed"),
        ({"rope_type": "yarn", "factor": 2.0, "beta_fast": []}, r"beta_fast \[\]; a number is needed"),
        ({"rope_type": "default", "rope_theta": float("nan")}, "rope_theta nan; a number below inf is needed"),
        ("linear", "rope_parameters 'linear'; a JSON object is needed"),
    ],
)
def test_unsupported_settings_are_named(rope: Any, message: str, tmp_path: Path) -> None:
    content = settings("eurobert", {"rope_type": "default"}) | {"model_type": "eurobert", "rope_parameters": rope}
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        open_transformers(tmp_path, weights=False)


def test_local_layers_with_another_scaling_are_refused() -> None:
    content = settings("modernbert", KINDS["linear"])
    content["rope_parameters"]["sliding_attention"] = {"rope_type": "linear", "factor": 2.0}
    with pytest.raises(ValueError, match="scales sliding_attention differently from full_attention"):
        MODERNBERT.encoder_config(content)
