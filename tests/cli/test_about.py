"""The verbs that look at models: what they print, and one line for a mistake that says what to do."""

import json

import pytest

from jaxencoder.cli.about import Cost
from jaxencoder.cli.main import main


def test_families(capsys):
    assert main(["families", "distilbert"]) == 0
    assert "DistilBERT (distilbert)" in capsys.readouterr().out
    assert main(["families", "distilbert", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sizes"][0]["parameters"] == 66_362_880
    assert main(["families", "gpt2"]) == 2
    assert capsys.readouterr().err.startswith("jaxencoder: unknown family 'gpt2'")


def test_families_without_a_name_are_all(monkeypatch, capsys):
    from jaxencoder.describe import families

    monkeypatch.setattr(families, "FAMILIES", tuple(families.families_named("camembert")))
    assert main(["families", "--json"]) == 0
    assert [size["name"] for size in json.loads(capsys.readouterr().out)[0]["sizes"]] == [
        "almanach/camembert-base",
        "almanach/camembert-large",
    ]
    assert main(["families"]) == 0
    assert "camembert  111M to 337M" in capsys.readouterr().out


def test_inspect(recipe, capsys):
    words = ["--model.num-layers", "2", "--mesh.fsdp", "4", "--length", "64"]
    assert main(["inspect", recipe, *words]) == 0
    out = capsys.readouterr().out
    assert "num_layers  2\n" in out and "on each of 4 devices" in out and "rows of 64" in out and "gated_mlp" not in out
    assert main(["inspect", recipe, *words, "--all"]) == 0
    assert "gated_mlp " in capsys.readouterr().out
    assert main(["inspect", recipe, *words, "--json"]) == 0
    actual = json.loads(capsys.readouterr().out)
    assert (actual["mesh"]["fsdp"], actual["settings"]["num_layers"], actual["length"]) == (4, 2, 64)


def test_cost(recipe, capsys, monkeypatch):
    from jaxencoder.describe import cost
    from jaxencoder.training.program import Program

    monkeypatch.setattr(cost, "_compiled", lambda *given: Program(1e6 * given[-1], 0, 0, 2**20))
    words = ["--model.num-layers", "2", "--length", "64", "128", "--attention", "own", "local", "--window", "9"]
    assert main(["cost", recipe, *words, "--batch", "2"]) == 0
    out = capsys.readouterr().out
    assert "own (no windows), local (windows 9)" in out and "2 row(s)" in out and "2 dense" in out
    assert main(["cost", recipe, *words, "--json"]) == 0
    actual = json.loads(capsys.readouterr().out)
    assert [line["length"] for line in actual["lines"]] == [64, 128] * 4 and actual["lines"][1]["flops_growth"] == 1
    assert main(["cost", recipe, "--backend", "quick"]) == 2
    assert capsys.readouterr().err.startswith("jaxencoder: backend is 'quick'; give one of auto, dense")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["nothing"], "nothing is neither a folder nor a recipe"),
        (["bert_small", "--length", "9999"], "length is 9999; bert_small takes rows of 1 to"),
        (["bert_small", "--mesh.fdsp", "2"], "unknown setting --mesh.fdsp; did you mean --mesh.fsdp?"),
        (["bert_small", "--lenght", "9"], "unknown option --lenght; did you mean --length?"),
        (["some/run", "--lenght=9"], "unknown option --lenght; did you mean --length?"),
        (["run", "--colour", "9"], "--colour is not an option of inspect; only a recipe has settings, not run"),
    ],
)
def test_inspect_mistakes(words, line, capsys):
    assert main(["inspect", *words]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith(f"jaxencoder: {line}") and captured.err.count("\n") == 1


@pytest.mark.parametrize(("option", "value"), [("--length", "512"), ("--attention", "own")])
def test_a_model_may_follow_the_values_of_an_option(option, value):
    verb = Cost.read([option, value, "bert_small"], "jaxencoder cost")
    assert verb.target == "bert_small" and str(getattr(verb, option.strip("-"))[0]) == value
