"""Folders of sentence-transformers whose Transformer is an adapter of PEFT: base, adapter and modules together."""

import shutil
from pathlib import Path

import numpy as np
import pytest

import jaxencoder
from jaxencoder.checkpoints.initial import open_initial_model
from jaxencoder.describe.inspect import inspect

from .peers import SHORT, D, save_peer

pytest.importorskip("sentence_transformers")
pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder that names the folder "base" beside it, with pooling, normalization, prompts, length and similarity."""
    import torch
    from peft import LoraConfig, get_peft_model
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules

    top = tmp_path_factory.mktemp("adapter")
    (top / "base").mkdir()
    first = modules.Transformer(str(save_peer("bert", top / "base")), max_seq_length=12)
    tail = [modules.Pooling(D, "cls"), modules.Normalize()]
    settings = {"prompts": {"query": "query: "}, "similarity_fn_name": "dot"}
    model = SentenceTransformer(modules=[first, *tail], device="cpu", **settings)
    model.save_pretrained(str(top / "theirs"))
    adapted = get_peft_model(model[0].model, LoraConfig(r=4, target_modules=["query", "value"]))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_" in name:
                weight.copy_(0.3 * torch.randn(weight.shape, generator=generator))
    adapted.peft_config["default"].base_model_name_or_path = str(top / "base")
    adapted.save_pretrained(str(top / "theirs"))
    for file in ("config.json", "model.safetensors"):  # the adapter is in their place
        (top / "theirs" / file).unlink()
    model[0].model = adapted.merge_and_unload()
    vectors = {"plain": model.encode(SHORT), "query": model.encode(SHORT, prompt_name="query")}
    np.savez(top / "theirs" / "expected.npz", **vectors)
    return top / "theirs"


def moved(folder: Path, target: Path) -> Path:
    """A copy in the older layout, with each module in a folder of its own."""
    shutil.copytree(folder, target)
    (target / "0_Transformer").mkdir()
    for file in (*target.glob("adapter*"), *target.glob("token*"), *target.glob("sentence_bert*")):
        file.rename(target / "0_Transformer" / file.name)
    content = (target / "modules.json").read_text()
    (target / "modules.json").write_text(content.replace('"path": ""', '"path": "0_Transformer"'))
    return target


@pytest.mark.parametrize("layout", ["root", "folder", "no tokenizer"])
def test_vectors(folder: Path, layout: str, tmp_path: Path) -> None:
    expected = np.load(folder / "expected.npz")
    if layout == "folder":
        folder = moved(folder, tmp_path / "moved")
    elif layout == "no tokenizer":  # the base's
        folder = Path(shutil.copytree(folder, tmp_path / "copy"))
        for file in folder.glob("token*"):
            file.unlink()
    model = jaxencoder.load(folder)
    np.testing.assert_allclose(model.embed(SHORT), expected["plain"], atol=1e-5)
    np.testing.assert_allclose(model.embed(SHORT, prompt="query"), expected["query"], atol=1e-5)
    assert (model.sentence.similarity, model.max_length) == ("dot", 64 if layout == "no tokenizer" else 12)
    model.save(tmp_path / "ours", format="sentence-transformers")
    np.testing.assert_allclose(jaxencoder.load(tmp_path / "ours").embed(SHORT), expected["plain"], atol=1e-5)


def test_it_is_an_adapter_too(folder: Path) -> None:
    model = jaxencoder.load(folder.parent / "base").with_adapter(folder)
    assert np.abs(model.embed(SHORT) - jaxencoder.load(folder.parent / "base").embed(SHORT)).max() > 0.01
    assert inspect(folder).sentence["pooling"] == ("cls",)
    with pytest.raises(ValueError, match="holds an adapter without its base; write both with convert --to run first"):
        open_initial_model(str(folder))


def test_a_missing_base(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    content = (copy / "adapter_config.json").read_text()
    (copy / "adapter_config.json").write_text(content.replace(str(folder.parent / "base"), str(tmp_path / "absent")))
    with pytest.raises(FileNotFoundError, match="adapts .*absent, which cannot be opened"):
        jaxencoder.load(copy)
