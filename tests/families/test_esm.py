"""ESM-2's rotary frequencies, which transformers takes from the file: in float16 or float32; and its settings."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jaxencoder
from jaxencoder.checkpoints.weights import open_weights
from jaxencoder.families.esm import ESM
from jaxencoder.families.published import family_of, parse_settings
from tests.families.make_golden import reloaded
from tests.families.peers import MODELS, assert_outputs, ours, padded_batch, saved, theirs, torch_model

SETTINGS = MODELS["esm"][0] | {"num_attention_heads": 1, "max_position_embeddings": 1026}


def model_with(frequencies: Any) -> Any:
    """A torch model whose frequencies are changed by a function."""
    pytest.importorskip("torch")
    model = torch_model("esm", SETTINGS)
    table = model.esm.rotary_embeddings.inv_freq
    table.copy_(frequencies(table))
    return model


def test_frequencies_in_half_precision(tmp_path: Path) -> None:
    model = model_with(lambda x: x.half().float())
    batch = padded_batch(SETTINGS, 900)  # far enough that the rounding shows
    del batch["token_type_ids"]
    expected, mask = theirs(model, batch, "ForMaskedLM"), batch["attention_mask"]
    loaded = jaxencoder.load(saved(model, tmp_path / "theirs"), dtype="float32")
    assert loaded.config.model.rope_half_precision and family_of(loaded.config.model) is ESM
    assert_outputs(ours(loaded, batch), expected, mask, 1e-4)
    exact = theirs(model_with(lambda x: x), batch, "ForMaskedLM")["hidden"]
    assert np.abs(exact - expected["hidden"])[mask > 0].max() > 1e-3

    loaded.save(tmp_path / "ours")
    stored = open_weights(tmp_path / "ours")["esm.rotary_embeddings.inv_freq"]
    np.testing.assert_array_equal(stored, model.esm.rotary_embeddings.inv_freq.numpy())
    assert_outputs(theirs(reloaded(model, tmp_path / "ours"), batch, "ForMaskedLM"), expected, mask, 1e-5)


def test_other_frequencies_are_refused(tmp_path: Path) -> None:
    folder = saved(model_with(lambda x: 1.01 * x), tmp_path / "theirs")
    with pytest.raises(ValueError, match=r"inv_freq holds other frequencies than those of rope_theta 10000"):
        jaxencoder.load(folder)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"mask_token_id": 0}, "mask_token_id 0; with token_dropout it must be a token above 0"),
        ({"mask_token_id": None}, "mask_token_id None"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type 'relative_key'; known are absolute"),
        ({"is_folding_model": True}, "is_folding_model True"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings False"),
    ],
)
def test_unsupported_settings_are_named(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_settings({"model_type": "esm"} | SETTINGS | wrong, "folder")
