"""Folders of transformers, read and written, against torch models with random weights."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxencoder
from jaxencoder.families import checkpoint
from jaxencoder.families.weights import open_weights
from jaxencoder.model.config import EncoderConfig
from tests.model.examples import BERT, MODERNBERT, assert_trees_close, randomised_params

SIZES = dict(vocab_size=67, hidden_size=24, num_hidden_layers=3, num_attention_heads=3, intermediate_size=40)
IDS = dict(bos_token_id=0, eos_token_id=2, pad_token_id=1)
MODELS = {
    "bert": dict(SIZES, max_position_embeddings=33, hidden_act="relu", layer_norm_eps=1e-5),
    "bert-types": dict(SIZES, type_vocab_size=5, num_hidden_layers=1, hidden_act="gelu_new"),
    "roberta": dict(SIZES, **IDS, max_position_embeddings=35, type_vocab_size=1, layer_norm_eps=1e-5),
    "xlm-roberta": dict(SIZES, **IDS, num_attention_heads=6, type_vocab_size=3),
    "camembert": dict(SIZES, **IDS, type_vocab_size=1),
    "distilbert": dict(vocab_size=67, dim=24, n_layers=2, n_heads=4, hidden_dim=20, activation="gelu"),
    "distilbert-relu": dict(vocab_size=67, dim=24, n_layers=1, n_heads=2, hidden_dim=50, activation="relu"),
    "modernbert": dict(SIZES, num_hidden_layers=5, local_attention=8, pad_token_id=0),
    "modernbert-biases": dict(
        SIZES, num_hidden_layers=2, global_attn_every_n_layers=2, local_attention=6, pad_token_id=0, norm_bias=True,
        attention_bias=True, mlp_bias=True, classifier_bias=True, hidden_activation="silu",
        classifier_activation="silu",
    ),
}  # fmt: skip


def torch_model(name: str, kind: str = "AutoModelForMaskedLM"):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    settings = MODELS[name]
    model_type = next(f.model_type for f in sorted(checkpoint.FAMILIES, key=_longest) if name.startswith(f.model_type))
    special = {} if model_type != "modernbert" else dict(bos_token_id=1, cls_token_id=1, eos_token_id=2, sep_token_id=2)
    config = transformers.AutoConfig.for_model(model_type, **settings, **special)
    model = getattr(transformers, kind).from_config(config, attn_implementation="eager")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight_name, weight in model.named_parameters():
            centre = float("norm" in weight_name.lower() and weight_name.endswith("weight"))
            weight.copy_(0.2 * torch.randn(weight.shape, generator=generator) + centre)
    return model.eval()


def _longest(family) -> int:
    return -len(family.model_type)


def padded_batch(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Ids, mask and (of those families that have them) token types; nothing but padding has the padding id."""
    rng = np.random.default_rng(0)
    lengths = np.array([17, 9, 3])
    mask = (np.arange(17) < lengths[:, None]).astype(np.int64)
    ids = np.where(mask, rng.integers(5, 67, mask.shape), MODELS[name].get("pad_token_id", 0))
    types = None
    if name.startswith("bert"):
        types = np.where(mask, rng.integers(0, 2, mask.shape), 0)
    return ids, mask, types


def theirs(model, ids, mask, types) -> tuple[np.ndarray, np.ndarray]:
    import torch

    inputs = {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}
    if types is not None:
        inputs["token_type_ids"] = torch.tensor(types)
    with torch.no_grad():
        out = model(**inputs, output_hidden_states=True)
        return model.base_model(**inputs).last_hidden_state.numpy(), out.logits.numpy()


@pytest.mark.parametrize("name", MODELS)
def test_equals_transformers_both_ways(name: str, tmp_path: Path) -> None:
    model = torch_model(name)
    model.save_pretrained(tmp_path / "theirs")
    ids, mask, types = padded_batch(name)
    hidden, logits = theirs(model, ids, mask, types)
    ours = jaxencoder.load(tmp_path / "theirs", dtype="float32")
    assert ours.tokenizer is None
    out = ours(ids, mask, types)
    there = mask.astype(bool)
    np.testing.assert_allclose(out["hidden"][there], hidden[there], atol=1e-4)
    np.testing.assert_allclose(out["mlm_logits"][there], logits[there], atol=1e-4)

    ours.save(tmp_path / "ours")
    transformers = pytest.importorskip("transformers")
    again = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "ours", attn_implementation="eager")
    assert type(again) is type(model)
    hidden_again, logits_again = theirs(again.eval(), ids, mask, types)
    np.testing.assert_allclose(hidden_again[there], hidden[there], atol=1e-5)
    np.testing.assert_allclose(logits_again[there], logits[there], atol=1e-5)


@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert", "modernbert"])
def test_an_encoder_without_head(name: str, tmp_path: Path, caplog) -> None:
    torch_model(name, "AutoModel").save_pretrained(tmp_path)
    ours = jaxencoder.load(tmp_path)
    assert set(ours.params) == {"encoder"} and "mlm_logits" not in ours(np.ones((1, 4), np.int32))
    pooler = name in ("bert", "roberta")
    assert ("pooler.dense.weight" in caplog.text) == pooler  # what is not used is said


# Without torch


def config_and_params(config: EncoderConfig, head: bool = True):
    shapes = checkpoint.parameter_shapes(config, head)
    return shapes, {name: randomised_params(lambda _, part=part: _zeros(part)) for name, part in shapes.items()}


def _zeros(shapes):
    return jax.tree.map(lambda leaf: jax.numpy.zeros(leaf.shape), shapes)


@pytest.mark.parametrize("config", [BERT, MODERNBERT], ids=["bert", "modernbert"])
@pytest.mark.parametrize("head", [True, False])
def test_round_trip(config: EncoderConfig, head: bool, tmp_path: Path) -> None:
    _, params = config_and_params(config, head)
    checkpoint.save(tmp_path, config, params)
    found = checkpoint.load(tmp_path)
    assert found.config == config and not found.left_out
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
    checkpoint.save(tmp_path, BERT, config_and_params(BERT)[1])
    return tmp_path


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model_type": "gpt2"}, "'gpt2', which cannot be loaded; those that can: bert"),
        ({"position_embedding_type": "relative_key"}, "has position_embedding_type 'relative_key'"),
        ({"is_decoder": True}, "has is_decoder True"),
        ({"hidden_act": "mish"}, "hidden_act 'mish'; known are gelu"),
        ({"num_hidden_layers": 4}, r"has no weight bert\.encoder\.layer\.3\."),
        ({"intermediate_size": 41}, r"intermediate\.dense\.weight has the shape \[40, 24\], .* asks for \[41, 24\]"),
        ({"num_attention_heads": 5}, "not a multiple"),
        ({"hidden_size": "wide"}, "wide|<"),
    ],
)
def test_what_cannot_be_loaded_is_named(folder: Path, settings: dict, message: str) -> None:
    edit(folder, **settings)
    with pytest.raises(ValueError, match=message) as error:
        checkpoint.load(folder)
    assert "\n" not in str(error.value)


def test_missing_setting(folder: Path) -> None:
    settings = json.loads((folder / "config.json").read_text())
    del settings["hidden_size"]
    (folder / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match="has no hidden_size in its config.json"):
        checkpoint.load(folder)


def test_an_output_table_of_its_own_is_refused(folder: Path) -> None:
    from jaxencoder.families.weights import save_weights

    tensors = dict(open_weights(folder))
    table = tensors["bert.embeddings.word_embeddings.weight"]
    save_weights(tensors | {"cls.predictions.decoder.weight": table}, folder)
    assert not checkpoint.load(folder).left_out
    save_weights(tensors | {"cls.predictions.decoder.weight": table + 1}, folder)
    with pytest.raises(ValueError, match=r"cls\.predictions\.decoder\.weight differs from the token table"):
        checkpoint.load(folder)


def test_old_names_of_norms(folder: Path) -> None:
    from jaxencoder.families.weights import save_weights

    tensors = dict(open_weights(folder))
    old = {n.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): t
           for n, t in tensors.items()}  # fmt: skip
    assert old.keys() != tensors.keys()
    before = checkpoint.load(folder).params
    save_weights(old, folder)
    assert_trees_close(checkpoint.load(folder).params, before, 0)


def test_an_architecture_that_nobody_has_published() -> None:
    config = EncoderConfig(vocab_size=9, num_layers=1, hidden_size=8, num_heads=1, norm_placement="pre")
    with pytest.raises(ValueError, match="no published family has this architecture"):
        checkpoint.family_of(config)
