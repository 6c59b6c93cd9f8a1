"""The folder of an export: whole or not at all, and each model that cannot be exported is refused."""

import dataclasses
import shutil
from pathlib import Path

import pytest

from jaxencoder.api import Model
from jaxencoder.checkpoints.kind import kind_of
from jaxencoder.export.folder import exported_folder
from jaxencoder.families.bert import BERT
from jaxencoder.families.published import Published
from jaxencoder.model.heads import HeadConfig
from jaxencoder.model.multi_vector import MultiVectorConfig
from jaxencoder.model.sentence import SentenceConfig
from jaxencoder.tasks.classification.objective import Classification
from jaxencoder.tasks.embeddings.objective import Embeddings


def embedder(make_model) -> Model:
    """A run that was trained to embed, before its first step."""
    model = make_model()
    data = dataclasses.replace(model.config.data, text_field="text", pair_field="pair")
    return dataclasses.replace(model, config=dataclasses.replace(model.config, objective=Embeddings(), data=data))


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_of_transformers_without_weights(make_model, tmp_path: Path) -> None:
    model = make_model(Classification(labels=3, class_names=("bad", "fair", "good")))
    with exported_folder(model, tmp_path / "new", None) as (saved, folder, gives_vectors):
        assert saved.labels == ("bad", "fair", "good") and not gives_vectors
        assert not (tmp_path / "new").exists()
        (folder / "program").touch()
    assert files(tmp_path / "new") == {"config.json", "program", "tokenizer.json", "tokenizer_config.json"}


def test_a_folder_of_sentence_transformers(make_model, tmp_path: Path) -> None:
    for number, model in enumerate((
        embedder(make_model),
        dataclasses.replace(make_model(), sentence=SentenceConfig(normalize=True)),
    )):  # fmt: skip
        with exported_folder(model, tmp_path / str(number), None) as export:
            assert export.gives_vectors
        assert {"modules.json", "1_Pooling/config.json"} <= files(tmp_path / str(number))
    with exported_folder(make_model(), tmp_path / "chosen", "sentence-transformers") as export:
        assert export.gives_vectors


def test_an_empty_folder_is_filled(make_model, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with exported_folder(make_model(), Path("."), None) as (_, folder, _):
        (folder / "onnx").mkdir()
        (folder / "onnx" / "program").touch()
    assert {"config.json", "onnx/program"} <= files(tmp_path / "here")
    assert [path.name for path in tmp_path.iterdir()] == ["here"]


def test_a_folder_that_is_not_filled_is_no_model(make_model, tmp_path: Path, monkeypatch) -> None:
    def move(source: Path, target: Path) -> None:
        if source.name == "config.json":
            raise OSError("no space left")
        source.replace(target)

    monkeypatch.setattr(shutil, "move", move)
    (tmp_path / "new").mkdir()
    with pytest.raises(OSError, match="no space"), exported_folder(make_model(), tmp_path / "new", None):
        pass
    assert "tokenizer.json" in files(tmp_path / "new")  # moved before config.json, not after
    with pytest.raises(ValueError, match="is not a run or a model"):
        kind_of(tmp_path / "new")


def test_a_folder_stays_one_of_sentence_transformers(make_model, tmp_path: Path) -> None:
    make_model().save(tmp_path / "source", "sentence-transformers")
    with exported_folder(tmp_path / "source", tmp_path / "new", None) as export:
        assert export.gives_vectors


def test_nothing_is_left_of_an_export_that_fails(make_model, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), exported_folder(make_model(), tmp_path / "new", None):
        raise RuntimeError
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_empty(make_model, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="exists already; name a new folder"):
        with exported_folder(make_model(), tmp_path, None):
            pass
    assert files(tmp_path) == {"file"}


def refused(model, folder: Path, message: str) -> None:
    with pytest.raises(ValueError, match=message), exported_folder(model, folder / "new", None):
        pass
    assert not list(folder.iterdir())


def test_models_that_are_refused(make_model, tmp_path: Path) -> None:
    masked = make_model()
    towers = dataclasses.replace(masked, queries=make_model(num_layers=1))
    refused(towers, tmp_path, "an encoder for queries and one for documents; export the folder of each")
    tokens = dataclasses.replace(masked, multi_vector=MultiVectorConfig(is_only=True))
    refused(tokens, tmp_path, "a vector for each token, and cannot be exported")
    tasks = dataclasses.replace(masked, tasks={"query": None, "passage": None})
    refused(tasks, tmp_path, r"adapters for query, passage; write one with jaxencoder.load\(MODEL\).for_prompt")
    learned = make_model(Classification(labels=2, pooling="learned"))
    refused(learned, tmp_path, "no class of transformers computes the model's sequence_head; give the layout")


def test_global_tokens_of_a_question_are_refused(make_model, tmp_path: Path) -> None:
    published = Published(BERT, {}, {"span_head": HeadConfig(outputs=2, global_tokens="question")})
    model = dataclasses.replace(make_model(), published=published)
    refused(model, tmp_path, "global tokens are those of the question, which an exported program cannot find")
    with exported_folder(model, tmp_path / "new", "sentence-transformers") as export:
        assert export.gives_vectors  # its head is not exported


def test_an_unknown_layout(make_model, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="layout is 'optimum'; give transformers or sentence-transformers"):
        with exported_folder(make_model(), tmp_path / "new", "optimum"):
            pass
