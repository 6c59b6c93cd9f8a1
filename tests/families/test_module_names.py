"""Files whose tensors have the names of transformers' modules, where transformers writes others."""

from pathlib import Path

import numpy as np
import pytest

import jaxencoder
from jaxencoder.checkpoints.weights import open_weights, save_weights
from jaxencoder.families import FAMILIES
from tests.families import peers

NAMED = [family for family in FAMILIES if family.modules and not family.distinguishing_settings]


@pytest.mark.parametrize("kind", ["ForMaskedLM", "Model", "ForTokenClassification"])
@pytest.mark.parametrize("family", NAMED, ids=lambda family: family.model_type)
def test_names_of_modules_are_read(family, kind: str, tmp_path: Path, caplog) -> None:
    settings = peers.MODELS[family.model_type][0]
    model = peers.torch_model(family.model_type, settings, kind)
    batch = peers.accepted(model, peers.padded_batch(settings), kind)
    expected = peers.theirs(model, batch, kind)
    folder = peers.saved(model, tmp_path)
    written = set(open_weights(folder))
    tensors = {name: x.detach().numpy().copy() for name, x in model.named_parameters()}
    assert not written >= tensors.keys() or kind == "Model"
    save_weights(tensors, folder)
    loaded = jaxencoder.load(folder, dtype="float32")
    peers.assert_outputs(peers.ours(loaded, batch), expected, batch["attention_mask"], 1e-4)
    assert loaded.published.family is family and not caplog.text
    loaded.save(tmp_path / "ours")
    assert set(open_weights(tmp_path / "ours")) == written
    assert all(np.isfinite(x).all() for x in open_weights(tmp_path / "ours").values())
