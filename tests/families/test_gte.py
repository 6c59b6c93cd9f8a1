"""GTE under its published model_type "new", which transformers cannot read without the code published with it.

The weights are those of transformers' `gte`; the frequencies of the published "ntk" are written out here.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jaxencoder
from jaxencoder.checkpoints.weights import open_weights, save_weights
from jaxencoder.families.gte import GTE, NEW
from jaxencoder.families.published import parse_settings
from tests.families.peers import assert_outputs, ours, padded_batch, saved, theirs, torch_model

SIZES = dict(vocab_size=67, hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=40)
# As in the config.json of gte-base-en-v1.5.
PUBLISHED: dict[str, Any] = {
    "model_type": "new", "hidden_act": "gelu", "layer_norm_eps": 1e-12, "layer_norm_type": "layer_norm",
    "logn_attention_clip1": False, "logn_attention_scale": False, "max_position_embeddings": 8192, "pack_qkv": True,
    "pad_token_id": 0, "position_embedding_type": "rope", "rope_theta": 500_000,
    "rope_scaling": {"factor": 2.0, "type": "ntk"}, "unpad_inputs": False, "use_memory_efficient_attention": False,
}  # fmt: skip


def published_folder(folder: Path, kind: str, architecture: str, types: int, **changes: Any) -> Any:
    """A folder of the published kind; the torch model of its weights, with its frequencies."""
    torch = pytest.importorskip("torch")
    settings = PUBLISHED | SIZES | changes
    theta, factor, size = settings["rope_theta"], settings["rope_scaling"]["factor"], 8
    model = torch_model("gte", SIZES | {"type_vocab_size": types, "pad_token_id": 0, "num_labels": 3}, kind)
    # The base is `factor` times larger, and all frequencies are factor^(2 / H) times lower.
    frequencies = (theta * factor) ** (-torch.arange(0, size, 2) / size) / factor ** (2 / size)
    model.base_model.rotary_emb.inv_freq.copy_(frequencies)
    tensors = open_weights(saved(model, folder / "native"))
    names = {name: "new." + name.removeprefix("gte.") if name.startswith("gte.") else name for name in tensors}
    (folder / "theirs").mkdir()
    save_weights({names[name]: tensors[name] for name in tensors}, folder / "theirs")
    content = settings | {"architectures": [architecture], "type_vocab_size": types, "num_labels": 3}
    (folder / "theirs" / "config.json").write_text(json.dumps(content))
    return model


@pytest.mark.parametrize(
    ("kind", "architecture", "types", "factor"),
    [
        ("ForMaskedLM", "NewForMaskedLM", 0, 2.0),
        ("Model", "NewModel", 1, 8.0),
        ("ForSequenceClassification", "NewForSequenceClassification", 2, 1.0),
    ],
)
def test_published_folders(kind: str, architecture: str, types: int, factor: float, tmp_path: Path) -> None:
    model = published_folder(tmp_path, kind, architecture, types, rope_scaling={"type": "ntk", "factor": factor})
    batch = padded_batch(PUBLISHED)
    if types < 2:
        del batch["token_type_ids"]
    expected = theirs(model, batch, kind)
    loaded = jaxencoder.load(tmp_path / "theirs", dtype="float32")
    assert_outputs(ours(loaded, batch), expected, batch["attention_mask"], 1e-4)

    loaded.save(tmp_path / "ours")
    before, after = (open_weights(tmp_path / name) for name in ("theirs", "ours"))
    assert set(before) == set(after)
    assert all(np.array_equal(after[name], value) for name, value in before.items())
    written = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert written["rope_scaling"] == (None if factor == 1 else {"type": "ntk", "factor": factor})
    assert written["rope_theta"] == 500_000 and written["pack_qkv"] and "NewModel" in written["auto_map"]["AutoModel"]
    assert NEW.encoder_config(written) == loaded.config.model


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"position_embedding_type": "absolute"}, "position_embedding_type 'absolute'"),
        ({"pack_qkv": False}, "pack_qkv False"),
        ({"layer_norm_type": "rms_norm"}, "layer_norm_type 'rms_norm'"),
        ({"logn_attention_scale": True}, "logn_attention_scale True"),
        ({"rope_scaling": {"type": "ntk", "factor": 2.0, "mixed_b": 0.6}}, "mixed_b 0.6 in rope_scaling"),
        ({"rope_scaling": {"type": "ntk", "factor": 0.5}}, "factor 0.5 for rope_type 'ntk'"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_type 'linear'; only default and ntk"),
        ({"rope_scaling": "ntk"}, "rope_scaling 'ntk'; a JSON object is needed"),
    ],
)
def test_unsupported_settings_are_named(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_settings(PUBLISHED | SIZES | wrong, "folder")


def test_a_folder_of_the_published_code_under_the_other_name() -> None:
    """Arctic Embed 2.0 says gte, with the keys of the published code."""
    settings = PUBLISHED | SIZES | {"model_type": "gte"}
    family, config = parse_settings(settings, "folder")
    assert family is GTE and config == NEW.encoder_config(PUBLISHED | SIZES)
