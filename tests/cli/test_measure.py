"""The verbs that measure: what they pass on, and what they print."""

import dataclasses
import importlib
import inspect
import json
from pathlib import Path

import pytest

from jaxencoder.cli.main import VERBS, main
from jaxencoder.cli.measure import EMBED_OPTIONS
from jaxencoder.inference.options import EmbedOptions
from jaxencoder.text.config import WindowConfig


def test_evaluate(calls, capsys):
    record = calls("evaluation.evaluate", "evaluate", result={"accuracy": 0.5})
    assert main(["evaluate", "run", "--data", "v.jsonl"]) == 0
    assert capsys.readouterr().out == "accuracy                 0.5000\n"
    words = ["--slice-by", "lang", "--tune-threshold", "validation", "--report", "r", "--windows", "--stride", "9"]
    assert main(["evaluate", "run", *words]) == 0
    words = ["--step", "best", "--text-field", "body", "--label-field", "class", "--output", "r.json"]
    assert main(["evaluate", "organization/model", *words]) == 0
    plain = {"slice_by": (), "windows": None}
    windows = {"slice_by": ("lang",), "tune_threshold": "validation", "report": Path("r"), "windows": WindowConfig(9)}
    fields = {"text_field": "body", "label_field": "class", "output": Path("r.json")}
    assert record == [
        (("run", "v.jsonl", "latest"), plain),
        (("run", None, "latest"), windows),
        (("organization/model", None, "best"), plain | fields),
    ]


@pytest.mark.parametrize(
    ("task", "words", "options"),
    [
        ("similarity", [], {}),
        (
            "similarity",
            ["--label-field", "gold", "--prompt", "query: "],
            {"label_field": "gold", "options": EmbedOptions(prompt="query: ")},
        ),
        ("pair-classification", ["--similarity", "all"], {"similarity": "all"}),
        ("triplets", ["--pair-field", "b"], {"pair_field": "b"}),
        ("bitext", ["--pair-field", "de"], {"pair_field": "de"}),
        (
            "classification",
            ["--train", "t", "--samples-per-label", "16"],
            {"train": "t", "samples_per_label": 16, "experiments": 10},
        ),
        ("clustering", ["--documents", "9"], {"samples": 16_384, "experiments": 10, "documents": 9}),
        (
            "retrieval",
            ["--split", "dev", "--batch-tokens", "64"],
            {"split": "dev", "options": EmbedOptions(batch_tokens=64)},
        ),
        (
            "retrieval",
            ["--pooling", "cls", "--query-prompt", "q: "],
            {"query_prompt": "q: ", "options": EmbedOptions("cls")},
        ),
        (
            "compression",
            ["--dimensions", "64", "32", "--precision", "int8"],
            {"dimensions": (64, 32), "precision": ("int8",), "rescore": 4},
        ),
        ("reranking", ["--first", "m", "-k", "7"], {"first": "m", "k": 7}),
        ("probing", ["--label-field", "obj"], {"label_field": "obj"}),
    ],
)
def test_evaluate_on_published_sets(calls, capsys, task, words, options):
    record = calls("evaluation.evaluate", "evaluate_task", result={"a": {"pairs": 3}})
    assert main(["evaluate", task, "model", "a", "b", "--output", "r.json", "--step", "12", *words]) == 0
    if task != "probing":
        options = {"options": EmbedOptions()} | options
    assert record == [(("model", task.replace("-", "_"), ("a", "b"), Path("r.json"), 12), options)]
    assert capsys.readouterr().out == "   pairs\na      3\n"


@pytest.mark.parametrize("kind", [kind for kind in VERBS.values() if hasattr(kind, "task")])
def test_a_task_takes_the_options_of_its_command(kind):
    """The test above replaces it by a stand-in that takes anything."""
    module = "retrieval" if kind.task == "reranking" else kind.task
    function = getattr(importlib.import_module(f"jaxencoder.evaluation.{module}"), f"evaluate_{kind.task}")
    names = {field.name for field in dataclasses.fields(kind)} - {"model", "data", "step", "output"}
    if kind.task != "probing":
        names = {"options", *names} - EMBED_OPTIONS
    inspect.signature(function).bind("model", "data", **dict.fromkeys(names))


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["reranking", "model", "a"], "name --first"),
        (["classification", "model", "a"], "name --train"),
        (["retrieval", "model", "a", "--first", "m"], "unknown option --first"),
        (["similarity", "model"], "name the DATA to evaluate on"),
        (["model", "--split", "dev"], "unknown option --split"),
        (["retrieval", "model", "a", "--text-field", "x"], "unknown option --text-field"),
        (["model", "--stride", "9"], "--stride is 9, but texts are truncated; add --windows"),
    ],
)
def test_evaluate_mistakes(words, line, capsys):
    assert main(["evaluate", *words]) == 2
    assert line in capsys.readouterr().err


def test_compare(tmp_path, capsys):
    for name, wrong in (("a", 20), ("b", 0), ("c", 5)):
        lines = [{"record": {"i": i}, "truth": "no", "prediction": "yes" if i < wrong else "no"} for i in range(50)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    a, b, c = (str(tmp_path / f"{name}.jsonl") for name in "abc")
    assert main(["compare", a, b]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"50 examples; A: {a}; B: {b}"
    assert lines[-1].startswith("B has a higher accuracy than A (+40.00 points, 95% interval")
    assert main(["compare", f"{a},{c}", b, "--seed", "1"]) == 0
    assert "75.00 ± 21.21" in capsys.readouterr().out
    assert main(["compare", a, b, "--data", "x.jsonl"]) == 2
    assert "leave --data out" in capsys.readouterr().err
