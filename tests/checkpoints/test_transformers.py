"""Folders of transformers, read and written, against torch models with random weights."""

import json
from pathlib import Path

import jax
import pytest

from jaxencoder.checkpoints.transformers import open_transformers, write_model
from jaxencoder.checkpoints.weights import Weights, open_weights, save_weights
from jaxencoder.families.deberta_v2 import DEBERTA_V2
from jaxencoder.families.published import Published, family_of
from jaxencoder.families.tables import parameter_shapes
from jaxencoder.model.config import EncoderConfig
from tests.model.examples import BERT, DEBERTA, MODERNBERT, assert_trees_close, randomized_params


def config_and_params(config: EncoderConfig, head: bool = True):
    shapes = parameter_shapes(config, head)
    return shapes, {name: randomized_params(lambda _, part=part: _zeros(part)) for name, part in shapes.items()}


def _zeros(shapes):
    return jax.tree.map(lambda leaf: jax.numpy.zeros(leaf.shape), shapes)


@pytest.mark.parametrize("config", [BERT, MODERNBERT, DEBERTA], ids=["bert", "modernbert", "deberta"])
@pytest.mark.parametrize("head", [True, False])
def test_round_trip(config: EncoderConfig, head: bool, tmp_path: Path, caplog) -> None:
    _, params = config_and_params(config, head)
    write_model(tmp_path, config, params)
    found = open_transformers(tmp_path)
    assert found.config.model == config and not caplog.text
    if config is MODERNBERT:  # the first layer's norm is not published: nothing reads it
        params["encoder"]["layers"]["block_0"]["attention_norm"]["scale"] = (
            params["encoder"]["layers"]["block_0"]["attention_norm"]["scale"].at[0].set(1)
        )
    assert_trees_close(found.params, params, 0)
    assert not list(tmp_path.glob(".*"))


def edit(folder: Path, **settings) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_model(tmp_path, BERT, config_and_params(BERT)[1])
    return tmp_path


def test_shapes_are_checked_before_weights_are_read(folder: Path, monkeypatch) -> None:
    edit(folder, intermediate_size=41)
    read = []
    monkeypatch.setattr(Weights, "__getitem__", lambda weights, name: read.append(name))
    with pytest.raises(ValueError, match="asks for"):
        open_transformers(folder)
    assert not read


@pytest.mark.parametrize(
    ("config", "settings", "message"),
    [
        (BERT, {"model_type": "gpt2"}, "unsupported model_type 'gpt2'; supported are: bert"),
        (BERT, {"position_embedding_type": "relative_key"}, "has position_embedding_type 'relative_key'"),
        (BERT, {"is_decoder": True}, "has is_decoder True"),
        (BERT, {"hidden_act": "laplace"}, "hidden_act 'laplace'; known are gelu"),
        (BERT, {"num_hidden_layers": 4}, r"has no weight bert\.encoder\.layer\.3\."),
        (
            BERT,
            {"intermediate_size": 41},
            r"intermediate\.dense\.weight has the shape \[40, 24\], .* asks for \[41, 24\]",
        ),
        (BERT, {"num_attention_heads": 5}, "not a multiple"),
        (BERT, {"hidden_size": "wide"}, "hidden_size 'wide'; an integer is needed"),
        (DEBERTA, {"pos_att_type": ["c2p", "p2p"]}, r"pos_att_type \['p2p'\]; known are c2p and p2c"),
        (DEBERTA, {"relative_attention": False}, "relative_attention False and pos_att_type .*; only both or neither"),
        (DEBERTA, {"embedding_size": 12}, "embedding_size 12; only the implied 24"),
        (DEBERTA, {"attention_head_size": 12}, "attention_head_size 12; only the implied 8"),
        (DEBERTA, {"norm_rel_ebd": "batch_norm"}, r"norm_rel_ebd \['batch_norm'\]"),
        (DEBERTA, {"conv_act": "laplace"}, "conv_act 'laplace'"),
        (DEBERTA, {"talking_head": True}, "has talking_head True"),
    ],
)
def test_what_cannot_be_loaded_is_named(config: EncoderConfig, settings: dict, message: str, tmp_path: Path) -> None:
    write_model(tmp_path, config, config_and_params(config)[1])
    edit(tmp_path, **settings)
    with pytest.raises(ValueError, match=message) as error:
        open_transformers(tmp_path)
    assert "\n" not in str(error.value)


def test_missing_setting(folder: Path) -> None:
    settings = json.loads((folder / "config.json").read_text())
    del settings["hidden_size"]
    (folder / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match="config.json has no hidden_size"):
        open_transformers(folder)


def test_old_names_of_norms(folder: Path) -> None:
    tensors = dict(open_weights(folder))
    old = {n.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): t
           for n, t in tensors.items()}  # fmt: skip
    assert old.keys() != tensors.keys()
    before = open_transformers(folder).params
    save_weights(old, folder)
    assert_trees_close(open_transformers(folder).params, before, 0)


def test_original_deberta_v3(tmp_path: Path, caplog) -> None:
    """The names of the original code, its replaced-token head, and no class in config.json; and written back."""
    family = DEBERTA_V2
    head = family.heads(DEBERTA, {})["rtd_head"].config
    shapes = parameter_shapes(DEBERTA, True, {"rtd_head": head})
    params = randomized_params(lambda _: _zeros(shapes))
    published = Published(family, {}, {"rtd_head": head})
    write_model(tmp_path, DEBERTA, params, published=published)
    tensors = dict(open_weights(tmp_path))
    renamed = {}
    for name, tensor in tensors.items():
        for ours, original in (("transform.", ""), ("", "")):
            name = name.replace(f"cls.predictions.{ours}", f"lm_predictions.lm_head.{original}")
        renamed[name] = tensor
    assert "lm_predictions.lm_head.LayerNorm.bias" in renamed and "mask_predictions.classifier.weight" in renamed
    save_weights(renamed, tmp_path)
    edit(tmp_path, architectures=None)
    found = open_transformers(tmp_path)
    assert found.published.heads == {"rtd_head": head} and not caplog.records
    assert_trees_close(found.params, params, 0)

    write_model(tmp_path / "again", found.config.model, found.params, published=found.published)
    assert_trees_close(open_transformers(tmp_path / "again").params, params, 0)


def test_an_architecture_that_nobody_has_published() -> None:
    config = EncoderConfig(
        vocab_size=9, num_layers=1, hidden_size=8, num_heads=1, norm_placement="pre", positions="alibi"
    )
    with pytest.raises(ValueError, match="no published family has this architecture"):
        family_of(config)
