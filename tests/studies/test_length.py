"""The study of lengths refuses results of other settings and a novel that is too short."""

import importlib.util
import json
import lzma
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "configs" / "studies" / "length.py"
WORDS = ["the", "cat", "sat", "on", "a", "mat", "while", "seven", "old", "men", "walked", "slowly"]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """`run(words of the novel, more words of the command line)`: the script, with nothing trained or computed."""
    spec = importlib.util.spec_from_file_location("length", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    monkeypatch.setattr(script, "pretrained", lambda name, args: args.runs / name)
    monkeypatch.setattr(script.jaxencoder, "load", lambda run: None)
    monkeypatch.setattr(script, "plot", lambda found, file: None)
    measured = []

    def measure(model, method, ids, chosen):
        measured.append((len(ids), int(chosen.sum())))
        return np.ones((len(script.LENGTHS) + 1, chosen.sum()), np.float32)

    monkeypatch.setattr(script, "measured", measure)

    def call(number, *words):
        novels = [" ".join(np.random.default_rng(i).choice(WORDS, n)) for i, n in enumerate((2000, number))]
        with lzma.open(tmp_path / "novels.jsonl.xz", "wt") as file:
            file.writelines(json.dumps({"text": text}) + "\n" for text in novels)
        given = ["--text", str(tmp_path / "novels.jsonl.xz"), "--runs", str(tmp_path / "runs"), "--only", "alibi"]
        given += ["--output", str(tmp_path / "docs"), "--vocabulary", "100", *words]
        monkeypatch.setattr("sys.argv", ["length.py", *given])
        script.main()
        return measured

    return call


def refused(run, capsys, *words) -> str:
    with pytest.raises(SystemExit) as caught:
        run(*words)
    assert caught.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


def test_results_are_kept_for_their_settings_alone(run, capsys, tmp_path):
    done = list(run(9000, "--rows", "1"))
    assert done == [(4094, done[0][1])] * 2
    assert run(9000, "--rows", "1") == done  # nothing is measured again
    assert "was begun with rows 1, not 2; name another folder with --runs" in refused(run, capsys, 9000, "--rows", "2")
    assert "was begun with layers 4, not 2" in refused(run, capsys, 9000, "--rows", "1", "--layers", "2")
    assert "was begun with text " in refused(run, capsys, 9001, "--rows", "1")
    (tmp_path / "runs" / "settings.json").unlink()
    assert "was begun with unknown settings" in refused(run, capsys, 9000, "--rows", "1")


def test_a_novel_that_does_not_fill_the_rows(run, capsys):
    line = refused(run, capsys, 5000, "--rows", "2")
    assert "the last novel has 5000 tokens, but --rows is 2, and a row takes 4094" in line
    assert "--rows is 0" in refused(run, capsys, 5000, "--rows", "0")
    assert len(run(5000, "--rows", "1")) == 2  # what was refused is not kept
