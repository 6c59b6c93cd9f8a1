"""Every command that opens a run refuses one of an older version with the same sentence."""

import json
from pathlib import Path

import pytest

import jaxencoder
from jaxencoder.checkpoints.initial import open_initial_model
from jaxencoder.cli.main import main
from jaxencoder.config import RunConfig
from jaxencoder.config_io import to_json


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
