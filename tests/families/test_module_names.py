"""Files whose tensors have the names of transformers' modules, where transformers writes others."""

from pathlib import Path

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


@pytest.mark.filterwarnings("ignore")  # of the peers
@pytest.mark.parametrize("kind", ["Model", "ForTokenClassification"])
@pytest.mark.parametrize("family", NAMED, ids=lambda family: family.model_type)
def test_adapters_of_peft_have_names_of_modules(family, kind: str, tmp_path: Path) -> None:
    torch, peft = pytest.importorskip("torch"), pytest.importorskip("peft")
    settings = peers.MODELS[family.model_type][0]
    model = peers.torch_model(family.model_type, settings, kind)
    base = peers.saved(model, tmp_path / "base")
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=3, target_modules=["q_proj", "v_proj", "o_proj"])).eval()
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)))
    adapted.save_pretrained(tmp_path / "adapter")
    batch = peers.accepted(model, peers.padded_batch(settings), kind)
    expected = peers.theirs(adapted.base_model.model, batch, kind)
    loaded = jaxencoder.load(base, dtype="float32").with_adapter(tmp_path / "adapter")
    peers.assert_outputs(peers.ours(loaded, batch), expected, batch["attention_mask"], 1e-4)
    assert loaded.published.family is family
