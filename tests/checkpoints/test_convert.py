"""Folders converted there and back, and trained on."""

import dataclasses
import shutil
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest

import jaxencoder
from jaxencoder.api import Model
from jaxencoder.checkpoints.convert import convert
from jaxencoder.checkpoints.initial import initial_params, open_initial_model
from jaxencoder.checkpoints.run import write_run
from jaxencoder.cli.main import main
from jaxencoder.model.sentence import MODULES
from jaxencoder.text.tokenizers.tokenizer import Tokenizer
from tests.inference.published import published
from tests.model.examples import assert_trees_close


@pytest.fixture(scope="module")
def folder(model: Model, tmp_path_factory) -> Path:
    """A run."""
    folder = tmp_path_factory.mktemp("run")
    write_run(model, folder)
    return folder


@pytest.fixture(scope="module")
def converted(folder: Path, tmp_path_factory) -> Path:
    """The run as a folder of transformers, and that as a run again."""
    home = tmp_path_factory.mktemp("converted")
    assert main(["convert", str(folder), str(home / "transformers"), "--to", "transformers"]) == 0
    assert main(["convert", str(home / "transformers"), str(home / "run"), "--to", "run"]) == 0
    return home


def test_nothing_changes_on_the_way(folder: Path, converted: Path) -> None:
    run = jaxencoder.load(folder)
    for name in ("transformers", "run"):
        other = jaxencoder.load(converted / name)
        assert other.config.model == run.config.model
        assert_trees_close(other.params, run.params, 0)
        np.testing.assert_allclose(other.embed(["a text", "b"]), run.embed(["a text", "b"]), atol=1e-6)


def test_a_model_stays_as_it_is(model: Model, tmp_path: Path) -> None:
    """Its run leaves out the modules after the pooling, but the model keeps them."""
    with_modules = dataclasses.replace(model, params=model.params | {MODULES: {"0": {"scale": np.ones(3)}}})
    write_run(with_modules, tmp_path / "run")
    assert MODULES in with_modules.params and MODULES not in jaxencoder.load(tmp_path / "run").params


def test_a_revision_of_the_hub(converted: Path, monkeypatch) -> None:
    asked = []

    def download(name: str, **given) -> str:
        asked.append((name, given["revision"]))
        return str(converted / "transformers")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    for revision in (None, "v1"):
        model = jaxencoder.load("someone/model", revision=revision)
        assert_trees_close(model.params, jaxencoder.load(converted / "transformers").params, 0)
    assert asked == [("someone/model", None), ("someone/model", "v1")]


def test_training_starts_from_any_of_them(folder: Path, converted: Path, tmp_path: Path) -> None:
    assert main(["convert", str(folder), str(tmp_path / "st"), "--to", "sentence-transformers"]) == 0
    run = jaxencoder.load(folder)
    for source in (folder, converted / "transformers", converted / "run", tmp_path / "st"):
        start = open_initial_model(str(source))
        assert start.model == run.config.model
        assert start.tokenizer.fingerprint == run.tokenizer.fingerprint
        assert Tokenizer.load(start.tokenizer_config.path).fingerprint == run.tokenizer.fingerprint
        assert_trees_close(initial_params(str(source), run.params, run.config.objective), run.params, 0)
    bare = shutil.copytree(converted / "transformers", tmp_path / "bare", ignore=shutil.ignore_patterns("tokenizer*"))
    with pytest.raises(ValueError, match="bare has no tokenizer, and training needs one"):
        open_initial_model(str(bare))


def test_a_published_classifier_as_a_run_says_what_it_loses(tokenizer: Tokenizer, tmp_path: Path, caplog) -> None:
    pytest.importorskip("transformers")
    for kind in ("ForSequenceClassification", "ForPreTraining"):
        caplog.clear()
        published("bert", kind, tokenizer, tmp_path / kind)
        convert(tmp_path / kind, tmp_path / f"{kind} run", "run")
        assert ("it cannot use sequence_head" in caplog.text) == (kind == "ForSequenceClassification")


def test_transformers_gives_the_same_ids(folder: Path, converted: Path) -> None:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("torch")
    theirs = transformers.AutoTokenizer.from_pretrained(converted / "transformers")
    texts = ["a text of words", "", "naïve 🙂"]
    ours = jaxencoder.load(folder).tokenizer.encode_batch(texts)
    assert theirs(texts)["input_ids"] == [encoding.ids.tolist() for encoding in ours]


def test_sentence_transformers_gives_a_runs_vectors(folder: Path, tmp_path: Path) -> None:
    theirs = pytest.importorskip("sentence_transformers")
    assert main(["convert", str(folder), str(tmp_path / "st"), "--to", "sentence-transformers"]) == 0
    model, texts = jaxencoder.load(folder), ["the cat sat", "", "rome " * 200]
    opened = theirs.SentenceTransformer(str(tmp_path / "st"), device="cpu")
    np.testing.assert_allclose(opened.encode(texts), model.embed(texts), atol=1e-5)
    assert opened.max_seq_length == model.max_length == jaxencoder.load(tmp_path / "st").max_length


@pytest.mark.parametrize(
    ("to", "message"), [("onnx", "format 'onnx' is unknown"), ("transformers", "exists already; name a new folder")]
)
def test_one_clear_sentence(folder: Path, to: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        convert(folder, folder, to)
