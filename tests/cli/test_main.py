"""The entry point: quick help, one line for a user's mistake, a traceback for a bug."""

import subprocess
import sys
from pathlib import Path

import pytest

from jaxencoder.cli import runs
from jaxencoder.cli.main import VERBS, main

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["train", "--help"], ["evaluate", "retrieval", "-h"]])
def test_help_and_version_load_no_jax(words):
    code = (
        "import sys\nfrom jaxencoder.cli.main import main\ntry:\n    main(sys.argv[1:])\n"
        "except SystemExit as stop:\n    assert not stop.code\n"
        "assert not {'jax', 'numpy', 'flax'} & set(sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code, *words], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "jaxencoder" in result.stdout


def test_module_runs_as_a_command():
    result = subprocess.run(
        [sys.executable, "-m", "jaxencoder", "train", "no_such_recipe"], cwd=ROOT, capture_output=True, text=True
    )
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("jaxencoder: no recipe is called 'no_such_recipe'")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("name", VERBS)
def test_help_of_every_verb_fits_a_screen_and_names_an_example(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    with pytest.raises(SystemExit) as caught:
        main([*name.split(), "--help"])
    out = capsys.readouterr().out
    assert not caught.value.code
    assert f"Example: jaxencoder {name}" in out
    assert out.count("\n") <= 60


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["trian"], "no command is called 'trian'; did you mean train?"),
        (["tokenizer"], "no command is called 'tokenizer'; did you mean tokenizer train?"),
        (["train"], "name RECIPE; jaxencoder train --help explains them"),
        (["embed", "run"], "name --input and --output; jaxencoder embed --help explains them"),
        (["fill-mask", "run", "text", "--kk", "1"], "unknown option --kk; see jaxencoder fill-mask --help"),
        (["fill-mask", "run", "text", "-k", "x"], "--top needs N; invalid literal for int() with base 10: 'x'"),
        (["embed", "run", "--inputs", "a"], "name --input and --output; jaxencoder embed --help explains them"),
        (["evaluate", "run", "--step", "last"], "--step needs INT|{latest,best}; no type matching"),
        (["convert", "run", "folder", "--to", "onnx"], "--to is 'onnx'; give one of transformers, "),
    ],
)
def test_a_wrong_word_is_one_line(words, line, capsys):
    assert main(words) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith(f"jaxencoder: {line}") and captured.err.count("\n") == 1


def test_no_words_print_the_commands(capsys):
    assert main([]) == 2
    out = capsys.readouterr().out
    assert all(name in out for name in VERBS)


def test_a_mistyped_option_is_not_taken_for_a_setting(recipe, capsys):
    for word in ("--rundir", "--run_dirr=r"):
        assert main(["train", recipe, word, "r"]) == 2
        name = word.partition("=")[0]
        assert capsys.readouterr().err == f"jaxencoder: unknown option {name}; did you mean --run-dir?\n"


@pytest.mark.parametrize(
    ("words", "of_text", "advice"),
    [
        (["train", "RECIPE"], True, "; name it with --data.text-field"),
        (["prepare", "RECIPE"], False, "; name it with --data.pair-field or --data.label-field"),
        (["tokenizer", "train", "a.jsonl", "--output", "o"], True, "; name it with --text-field"),
        (["embed", "run", "--input", "a.jsonl", "--output", "b.npy"], True, "; name it with --text-field"),
        (["search", "run", "a.jsonl", "query"], True, "; name it with --text-field"),
        (["score", "run", "--input", "a.jsonl"], False, "; name it with --pair-field"),
        (["predict", "run", "--input", "a.jsonl", "--output", "b.jsonl"], False, "; name it with --pair-field"),
        (["evaluate", "run"], False, "; name it with --pair-field or --label-field"),
        (["evaluate", "probing", "run", "a"], False, "; name it with --label-field"),
        (["evaluate", "retrieval", "run", "a"], True, ""),  # BEIR's names are fixed
    ],
)
def test_a_missing_field_is_named_with_the_verb_s_own_option(words, of_text, advice, recipe, capsys, monkeypatch):
    from jaxencoder.text.sources.records import MissingField

    def fail(self):
        raise MissingField("a.jsonl:1", "b", {"xyz": ""}, of_text)

    for kind in VERBS.values():
        monkeypatch.setattr(kind, "run", fail)
    assert main([recipe if word == "RECIPE" else word for word in words]) == 2
    assert capsys.readouterr().err == f"jaxencoder: a.jsonl:1: no field 'b' among xyz{advice}\n"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("data.train is empty;\n  name a source"), "data.train is empty; name a source"),
        (ValueError(), "ValueError"),
        (FileNotFoundError(2, "No such file or directory", "a.jsonl"), "a.jsonl: No such file or directory"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (OSError("the bucket is missing"), "the bucket is missing"),
    ],
)
def test_a_mistake_is_one_line(calls, recipe, capsys, monkeypatch, error, line):
    calls("training.loop", "train", error=error)
    assert main(["train", recipe]) == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", f"jaxencoder: {line}\n")

    monkeypatch.setenv("JAXENCODER_TRACEBACK", "1")
    with pytest.raises(type(error)):
        main(["train", recipe])


def test_an_interrupt_is_130(recipe, calls, capsys):
    calls("training.loop", "train", error=KeyboardInterrupt())
    assert main(["train", recipe]) == 130
    assert capsys.readouterr().err == "jaxencoder: interrupted\n"


def test_a_bug_keeps_its_traceback(recipe, calls):
    calls("training.loop", "train", error=RuntimeError("broken"))
    with pytest.raises(RuntimeError, match="broken"):
        main(["train", recipe])


def test_several_hosts_train_and_prepare_alone(monkeypatch, capsys, recipe):
    monkeypatch.setenv("JAXENCODER_DISTRIBUTED", "1")
    assert main(["embed", "run", "--input", "a.txt", "--output", "a.npy"]) == 2
    assert "only train and prepare run on several hosts" in capsys.readouterr().err
    monkeypatch.setattr(runs.Prepare, "run", lambda self: None)
    assert main(["prepare", recipe]) == 0
