"""Runs of older versions: refused with the same sentence everywhere, or, of this version, used as today's."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jaxencoder
from jaxencoder.adapters.lora import LoraConfig
from jaxencoder.checkpoints import peft
from jaxencoder.checkpoints.adapter import fingerprint
from jaxencoder.checkpoints.initial import open_initial_model
from jaxencoder.checkpoints.weights import read_tensors
from jaxencoder.cli.main import main
from jaxencoder.config import RunConfig
from jaxencoder.config_io import to_json
from jaxencoder.families.bert import BERT
from tests.checkpoints.peers import save_peer
from tests.checkpoints.test_adapter import keep, tuned
from tests.families import peers

TEXTS = ["A man is playing", "two dogs run in the Snow"]


@pytest.fixture
def old_run(tmp_path: Path) -> Path:
    """A folder as version 0.1 left it: no version, and settings by their old names."""
    folder = tmp_path / "run"
    (folder / "checkpoints" / "5").mkdir(parents=True)
    tree = json.loads(to_json(RunConfig()))
    tree["training"]["evaluations"] = tree["training"].pop("num_evaluations")
    (folder / "config.json").write_text(json.dumps(tree))
    return folder


@pytest.mark.parametrize(
    "words",
    [
        "train quickstart --run-dir RUN",
        "train RUN",
        "evaluate RUN",
        "predict RUN --input texts.jsonl --output out.jsonl",
        "embed RUN --input texts.jsonl --output out.npy",
        "fill-mask RUN a[MASK].",
        "convert RUN other --to transformers",
        "inspect RUN",
    ],
)
def test_old_runs_are_refused(old_run: Path, tmp_path: Path, monkeypatch, capsys, words: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("texts.jsonl").write_text('{"text": "a"}\n')
    assert main([str(old_run) if word == "RUN" else word for word in words.split()]) == 2
    message = capsys.readouterr().err
    assert "config.json was written by jaxencoder 0.1, whose runs" in message and "or train again" in message
    assert "unknown setting" not in message


def test_old_runs_are_refused_from_python(old_run: Path) -> None:
    for open_run in (jaxencoder.load, lambda folder: open_initial_model(str(folder))):
        with pytest.raises(ValueError, match="was written by jaxencoder 0.1, whose runs"):
            open_run(old_run)


@pytest.fixture(scope="module", params=["xlm-roberta", "mpnet"])
def base(request, tmp_path_factory) -> Path:
    return save_peer(request.param, tmp_path_factory.mktemp("base") / request.param)


def run_without_pad_id(base: Path, folder: Path, init_from: str = "", **settings: Any) -> Path:
    """A run on the base as builds left it that had neither `model.position_pad_id` nor the position of padding."""
    start = jaxencoder.load(base)
    embeddings = {name: x for name, x in start.params["encoder"]["embeddings"].items() if name != "padding_position"}
    config = dataclasses.replace(start.config, model=dataclasses.replace(start.config.model, position_pad_id=-1))
    params = {"encoder": start.params["encoder"] | {"embeddings": embeddings}}
    start = dataclasses.replace(start, config=config, params=params, published=None)
    config, params = tuned(base, start, 1, **settings)
    keep(folder, start, config, params=params)
    content = json.loads((folder / "config.json").read_text())
    del content["model"]["position_pad_id"]
    (folder / "config.json").write_text(json.dumps(content | ({"init_from": init_from} if init_from else {})))
    return folder


def test_runs_that_count_padding_are_published_as_their_base(base: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    run = jaxencoder.load(run_without_pad_id(base, tmp_path / "run"))
    run.save(tmp_path / "transformers")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "transformers").eval()
    assert model.config.model_type == base.name
    ids = np.random.default_rng(0).integers(5, run.config.model.vocab_size, (2, 9))
    batch = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    expected = peers.theirs(model, batch, "ForSequenceClassification")
    np.testing.assert_allclose(peers.of_a_run(run, batch)["logits"], expected["logits"], rtol=1e-5, atol=1e-5)
    run.save(tmp_path / "st", format="sentence-transformers")
    np.testing.assert_allclose(jaxencoder.load(tmp_path / "st").embed(TEXTS), run.embed(TEXTS), atol=1e-5)


@pytest.mark.parametrize("form", ["adapter", "peft"])
def test_adapters_that_count_padding_fit_their_base(base: Path, tmp_path: Path, form: str) -> None:
    run = jaxencoder.load(run_without_pad_id(base, tmp_path / "run", adapter=LoraConfig(rank=2)))
    assert main(["convert", str(tmp_path / "run"), str(tmp_path / form), "--to", form]) == 0
    np.testing.assert_allclose(jaxencoder.load(tmp_path / form).embed(TEXTS), run.embed(TEXTS), atol=1e-5)
    # The digest of the base is that of builds without the position of padding.
    _, metadata = read_tensors(next((tmp_path / form).glob("*.safetensors")))
    encoder = jaxencoder.load(base).params["encoder"]
    embeddings = {name: x for name, x in encoder["embeddings"].items() if name != "padding_position"}
    assert len(embeddings) < len(encoder["embeddings"])
    assert metadata["base"] == fingerprint(encoder | {"embeddings": embeddings})


def test_runs_that_count_padding_without_their_base(base: Path, tmp_path: Path) -> None:
    """MPNet's architecture is its own; XLM-R's is BERT's too."""
    run = jaxencoder.load(run_without_pad_id(base, tmp_path / "run", init_from="gone"))
    run.save(tmp_path / "transformers")
    again = jaxencoder.load(tmp_path / "transformers")
    assert again.published.family.model_type == {"xlm-roberta": "bert"}.get(base.name, base.name)
    np.testing.assert_allclose(again.embed(TEXTS), run.embed(TEXTS), atol=1e-5)


@pytest.mark.parametrize("is_older", [False, True])
def test_peft_adapters_of_runs(base: Path, tmp_path: Path, monkeypatch, is_older: bool) -> None:
    """Earlier builds wrote an adapter of a run by the names of the first family that can hold the architecture."""
    run = run_without_pad_id(base, tmp_path / "run")
    start = jaxencoder.load(run)
    config, params = tuned(run, start, 2, adapter=LoraConfig(rank=2))
    adapted = jaxencoder.load(keep(tmp_path / "adapted", start, config, params=params))
    with monkeypatch.context() as patch:
        if is_older and base.name != "mpnet":
            patch.setattr(peft, "published_form", lambda config: (BERT, config.model))
        assert main(["convert", str(tmp_path / "adapted"), str(tmp_path / "peft"), "--to", "peft"]) == 0
    np.testing.assert_allclose(jaxencoder.load(tmp_path / "peft").embed(TEXTS), adapted.embed(TEXTS), atol=1e-5)
