"""The command line: quick help, one line for a user's mistake, a traceback for a bug, and what each verb calls."""

import importlib
import inspect
import json
import subprocess
import sys
import types
from pathlib import Path

import pytest

import jaxencoder
from jaxencoder import cli
from jaxencoder.cli import main
from jaxencoder.cli_tasks import OWN, PREDICT, TASKS
from jaxencoder.text.window_config import WindowConfig

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def calls(monkeypatch):
    """Stands in for a module that a verb imports: `calls("training.loop", "train")` records every call."""

    def stand_in(name, function, result=None, error=None):
        record = []

        def call(*args, **kwargs):
            record.append((args, kwargs))
            if error is not None:
                raise error
            return result

        stub = types.ModuleType(f"jaxencoder.{name}")
        setattr(stub, function, call)
        monkeypatch.setitem(sys.modules, f"jaxencoder.{name}", stub)
        package, _, leaf = f"jaxencoder.{name}".rpartition(".")
        if package in sys.modules:
            monkeypatch.setattr(sys.modules[package], leaf, stub, raising=False)
        return record

    return stand_in


@pytest.mark.parametrize(
    "words",
    [["--help"], ["--version"], ["train", "--help"], ["embed", "--help"], ["inspect", "--help"], ["compare", "-h"]],
)
def test_help_and_version_load_nothing(words):
    code = (
        "import sys\nfrom jaxencoder.cli import main\ntry:\n    main(sys.argv[1:])\n"
        "except SystemExit as stop:\n    assert not stop.code\n"
        "assert not {'jax', 'numpy', 'tyro', 'flax'} & set(sys.modules)"
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


def test_a_mistyped_option_is_not_taken_for_a_setting(recipe, capsys):
    for words, close in ((["--rundir", "r"], "--run-dir"), (["--run_dir=r"], "--run-dir")):
        assert main(["train", recipe, *words]) == 2
        name = words[0].partition("=")[0]
        assert capsys.readouterr().err == f"jaxencoder: unknown option {name}; did you mean {close}?\n"


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
        (["evaluate", "run", "--task", "probing", "--data", "a"], False, "; name it with --label-field"),
        (["evaluate", "run", "--task", "retrieval", "--data", "a"], True, ""),  # BEIR's names are fixed
    ],
)
def test_a_missing_field_is_named_with_the_verb_s_own_option(words, of_text, advice, recipe, capsys, monkeypatch):
    from jaxencoder.text.sources import MissingField

    def fail(*_, **__):
        raise MissingField("a.jsonl:1", "b", {"xyz": ""}, of_text)

    monkeypatch.setattr(cli, "_refuse_mistyped", fail)  # in place of what the verb would do
    assert main([recipe if word == "RECIPE" else word for word in words]) == 2
    assert capsys.readouterr().err == f"jaxencoder: a.jsonl:1: no field 'b' among xyz{advice}\n"


def test_a_missing_text_of_a_file(tmp_path, capsys):
    (tmp_path / "a.jsonl").write_text('{"body": "a text"}\n')
    assert main(["tokenizer", "train", str(tmp_path / "a.jsonl"), "--output", str(tmp_path / "o")]) == 2
    said = capsys.readouterr().err
    assert said.endswith("a.jsonl:1: no field 'text' among body; name it with --text-field\n")


@pytest.mark.parametrize("words", [[], ["trian"], ["train"], ["embed", "run"], ["fill-mask", "run", "text", "--kk"]])
def test_wrong_words_show_the_usage(words, capsys):
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    assert "usage: jaxencoder" in capsys.readouterr().err


def test_train_gives_words_it_does_not_know_to_the_recipe(recipe, calls):
    record = calls("training.loop", "train")
    words = ["--training.steps", "60", "--run-dir", "out", "--mesh.data", "-1", "--training.checkpoint-every=10"]
    assert main(["train", recipe, *words]) == 0
    ((config, run_dir), _), *rest = record
    assert rest == []
    assert (config.training.steps, config.training.checkpoint_every, config.mesh.data) == (60, 10, -1)
    assert run_dir == Path("out")


def test_train_runs_in_runs_name_or_in_the_run_itself(recipe, calls, tmp_path):
    record = calls("training.loop", "train")
    assert main(["train", recipe]) == 0
    assert record[-1][0][1] == Path("runs/tiny")
    assert main(["train", recipe, "--name", "other"]) == 0
    assert record[-1][0][1] == Path("runs/other")

    from jaxencoder.config_io import save

    folder = tmp_path / "run"
    folder.mkdir()
    save(record[0][0][0], folder)
    for target in (folder, folder / "config.json"):
        assert main(["train", str(target)]) == 0
        assert record[-1][0] == (record[0][0][0], folder)
    assert main(["train", str(folder / "config.json"), "--run-dir", "again"]) == 0
    assert record[-1][0][1] == Path("again")


@pytest.mark.parametrize(
    ("verb", "there", "absent"),
    [
        ("fill-mask", ["The best words for each [MASK] of a text.", "folder of a run, of an adapter,"], []),
        ("glue", ["on GLUE's tasks"], []),
        ("embed", ["how token vectors become one (default", "; learned, if --pooling is)"], []),
        ("search", ["; learned, if --pooling is)"], []),
        ("predict", ["their mean by tokens)"], ["learned"]),
        ("evaluate", ["their mean by tokens)"], ["learned, if"]),
        ("extend", ["give global layers a window of W tokens to either side"], []),
    ],
)
def test_help_says_what_the_verb_has(verb, there, absent, capsys):
    with pytest.raises(SystemExit):
        main([verb, "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert all(words in said for words in there) and not any(words in said for words in absent), said


def test_train_help_lists_options_and_settings(recipe, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["train", recipe, "--help"])
    out = capsys.readouterr().out
    assert not caught.value.code
    assert "--run-dir" in out and "--training.batch-size" in out


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("data.train is empty;\n  name a source"), "data.train is empty; name a source"),
        (ValueError(), "ValueError"),
        (FileNotFoundError(2, "No such file or directory", "a.jsonl"), "a.jsonl: No such file or directory"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (OSError("the bucket is not there"), "the bucket is not there"),
    ],
)
def test_a_mistake_is_one_line(recipe, calls, capsys, monkeypatch, error, line):
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


def test_fill_mask(monkeypatch, capsys):
    class Model:
        def fill_mask(self, text, k):
            assert k == 3
            return [[("length", 0.625, text.replace("[MASK]", "length"))]]

    opened = []
    monkeypatch.setattr(jaxencoder, "load", lambda run: opened.append(run) or Model())
    assert main(["fill-mask", "runs/x", "the [MASK] of it", "-k", "3"]) == 0
    assert opened == ["runs/x"]
    assert capsys.readouterr().out.split() == ["62.50%", "length", "the", "length", "of", "it"]


def test_embed(calls, capsys):
    record = calls("inference.embed", "embed_file", result=7)
    words = ["--input", "a.jsonl", "--output", "b.parquet", "--pooling", "cls", "--batch-tokens", "512"]
    words += ["--prompt", "query: ", "--dimensions", "8"]
    words += ["--long", "windows", "--stride", "64", "--window-pooling", "learned"]
    assert main(["embed", "run", *words]) == 0
    settings = {"text_field": "text", "pooling": "cls", "batch_tokens": 512}
    settings |= {"long": "windows", "stride": 64, "window_pooling": "learned"}
    own = {"normalize": None, "prompt": "query: ", "dimensions": 8}
    assert record == [(("run", "a.jsonl", Path("b.parquet")), own | settings)]
    assert capsys.readouterr().out == "7 texts in b.parquet\n"


def test_search(calls, capsys):
    record = calls("inference.search", "search", result=[(0.5, {"body": "open\n a file"})])
    words = ["-k", "1", "--text-field", "body", "--long", "windows", "--query-prompt", "q: ", "--document-prompt", ""]
    assert main(["search", "run", "pydocs", "how to read", *words]) == 0
    settings = {"text_field": "body", "long": "windows", "query_prompt": "q: ", "document_prompt": ""}
    assert record == [(("run", "pydocs", "how to read", 1), settings)]
    assert capsys.readouterr().out.split() == ["0.5000", "open", "a", "file"]


def test_extend(calls, capsys):
    record = calls("inference.extend", "extend", result="hf")
    words = ["--max-length", "2048", "--method", "yarn", "--factor", "8", "--window", "64"]
    assert main(["extend", "run", "long", *words]) == 0
    assert record == [(("run", Path("long"), 2048, "yarn", 8.0, 64, False), {})]
    assert capsys.readouterr().out == "run for 2048 tokens in long, as a folder of transformers\n"


WINDOWS = ("long", "stride", "window_pooling")
PROMPTS = ("query_prompt", "document_prompt")


@pytest.mark.parametrize(
    ("module", "function", "arguments", "settings"),
    [
        (
            "inference.embed",
            "embed_file",
            3,
            ("normalize", "prompt", "dimensions", "text_field", "pooling", "batch_tokens", *WINDOWS),
        ),
        ("inference.embed", "embed_source", 2, WINDOWS),
        ("inference.search", "search", 4, ("text_field", "pooling", "batch_tokens", *PROMPTS)),
        ("inference.convert", "convert", 5, ()),
        ("inference.extend", "extend", 7, ()),
        ("inference.load", "load", 1, ()),
        ("training.loop", "train", 2, ()),
        ("evaluation.evaluate", "evaluate", 1, ("data", "step", "windows", *(x for x in OWN if x not in WINDOWS))),
        (
            "evaluation.evaluate",
            "evaluate_model",
            2,
            ("slice_by", "tune_threshold"),
        ),
        ("tasks.tables", "summary", 1, ()),
        ("tasks.classification.predict", "predict_classes", 2, ("windows", *(x for x in PREDICT if x not in WINDOWS))),
        ("tasks.compare", "compare", 4, ("step",)),
        ("inference.predict", "predict_file", 3, ("windows", *(x for x in PREDICT if x not in WINDOWS))),
        ("evaluation.evaluate", "evaluate_task", 3, ("output", "step")),
        ("tasks.tables", "table", 1, ()),
        *(("tasks." + task, "evaluate_" + task, 2, options) for task, options in TASKS.items()),
        ("training.setup", "with_start", 1, ()),
        ("text.row_cache", "prepare", 3, ()),
        ("text.sources", "read", 1, ("text_field",)),
        ("text.tokenizer", "train_tokenizer", 2, ()),
    ],
)
def test_functions_behind_the_verbs_take_what_they_are_given(module, function, arguments, settings):
    """The tests above replace them by stand-ins, which would take anything."""
    target = getattr(importlib.import_module(f"jaxencoder.{module}"), function)
    inspect.signature(target).bind(*range(arguments), **dict.fromkeys(settings))


def test_evaluate(calls, capsys):
    record = calls("evaluation.evaluate", "evaluate", result={"accuracy": 0.5})
    assert main(["evaluate", "run", "--data", "v.jsonl"]) == 0
    assert capsys.readouterr().out == "accuracy                 0.5000\n"
    assert (
        main(["evaluate", "run", "--slice-by", "lang", "--tune-threshold", "--report", "r", "--long", "windows"]) == 0
    )
    assert main(["evaluate", "run", "--step", "best"]) == 0
    words = ["--data", "t.jsonl", "--text-field", "body", "--label-field", "class", "--output", "r.json"]
    assert main(["evaluate", "organisation/model", *words]) == 0
    assert (
        main(
            [
                "evaluate",
                "run",
                "--data",
                "t.jsonl",
                "--tune-threshold",
                "v.jsonl",
                "--long",
                "windows",
                "--stride",
                "9",
            ]
        )
        == 0
    )
    more = {"slice_by": ["lang"], "tune_threshold": "validation", "report": Path("r"), "windows": WindowConfig()}
    assert record == [
        (("run",), {"data": "v.jsonl"}),
        (("run",), {"data": None} | more),
        (("run",), {"data": None, "step": "best"}),
        (
            ("organisation/model",),
            {"data": "t.jsonl", "text_field": "body", "label_field": "class", "output": Path("r.json")},
        ),
        (("run",), {"data": "t.jsonl", "tune_threshold": "v.jsonl", "windows": WindowConfig(9)}),
    ]


def test_predict(calls, capsys):
    record = calls("inference.predict", "predict_file", result=7)
    words = ["predict", "run", "--input", "a.jsonl", "--output", "b.jsonl"]
    assert main(words) == 0
    assert capsys.readouterr().out == "7 records in b.jsonl\n"
    more = ["--probabilities", "--long", "windows", "--stride", "64", "--text-field", "body", "--batch-tokens", "99"]
    assert main([*words, *more]) == 0
    options = {"probabilities": True, "windows": WindowConfig(64), "text_field": "body", "batch_tokens": 99}
    assert record == [(("run", "a.jsonl", Path("b.jsonl")), {}), (("run", "a.jsonl", Path("b.jsonl")), options)]


def test_compare(tmp_path, capsys):
    for name, wrong in (("a", 20), ("b", 0), ("c", 5)):
        found = [{"record": {"i": i}, "truth": "no", "prediction": "yes" if i < wrong else "no"} for i in range(50)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in found))
    a, b, c = (str(tmp_path / f"{name}.jsonl") for name in "abc")
    assert main(["compare", a, b]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"50 examples; A: {a}; B: {b}"
    assert lines[-1].startswith("B has a higher accuracy than A (+40.00 points, 95% interval")
    assert main(["compare", f"{a},{c}", b, "--seed", "1"]) == 0
    assert "75.00 ± 21.21" in capsys.readouterr().out
    assert main(["compare", a, b, "--data", "x.jsonl"]) == 2
    assert "leave --data out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("task", "words", "options"),
    [
        ("similarity", [], {}),
        ("similarity", ["--label-field", "gold", "--prompt", "query: "], {"label_field": "gold", "prompt": "query: "}),
        ("retrieval", ["--split", "dev", "--batch-tokens", "64"], {"split": "dev", "batch_tokens": 64}),
        ("retrieval", ["--output", "r.json", "--pooling", "cls"], {"output": Path("r.json"), "pooling": "cls"}),
        ("retrieval", ["--step", "12"], {"step": 12}),
        ("reranking", ["--first", "m", "-k", "7"], {"first": "m", "k": 7}),
        ("retrieval", ["--query-prompt", "query: "], {"query_prompt": "query: "}),
        ("reranking", ["--first", "m", "--document-prompt", "passage"], {"first": "m", "document_prompt": "passage"}),
        ("probing", ["--label-field", "obj"], {"label_field": "obj"}),
    ],
)
def test_evaluate_a_task(calls, capsys, task, words, options):
    record = calls("evaluation.evaluate", "evaluate_task", result={"a": {"pairs": 3}})
    assert main(["evaluate", "model", "--task", task, "--data", "a", "b", *words]) == 0
    assert record == [(("model", task, ["a", "b"]), options)]
    assert capsys.readouterr().out == "   pairs\na      3\n"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--task", "reranking", "--data", "a"], "name the model that searches with --first"),
        (["--task", "retrieval", "--data", "a", "--first", "m"], "--first is no option of --task retrieval"),
        (["--task", "similarity"], "name the data of --task similarity with --data"),
        (["--data", "a", "b"], "are those of one source; name a --task"),
        (["--split", "dev"], "--split is no option of a run's own metrics; name a --task"),
        (["--prompt", "query: "], "--prompt is no option of a run's own metrics"),
        (["--task", "retrieval", "--data", "a", "--text-field", "x"], "--text-field is no option of --task retrieval"),
        (["--task", "similar", "--data", "a"], "invalid choice: 'similar'"),
        (["--step", "last"], "'last' is neither best nor latest nor the number of a checkpoint"),
        (["--task", "retrieval", "--data", "a", "--slice-by", "x"], "--slice-by is no option of --task retrieval"),
    ],
)
def test_evaluate_mistakes(words, line, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["evaluate", "model", *words])
    assert caught.value.code == 2 and line in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "name at least one source, and the folder to write with --output"),
        (["a.txt", "--output", "o", "--kin", "bpe"], "unknown setting --kin; did you mean --kind?"),
        (["a.txt", "--output", "o", "--path", "x"], "--path x loads a tokenizer; to train one, leave it out"),
        (["a.txt", "--output", "o", "--vocab-size", "2"], "vocab_size is 2"),
    ],
)
def test_tokenizer_train_mistakes(words, line, capsys):
    assert main(["tokenizer", "train", *words]) == 2
    assert line in capsys.readouterr().err


def test_tokenizer_train(tmp_path):
    source, output = tmp_path / "a.txt", tmp_path / "tokenizer"
    source.write_text("the cat sat on the mat\n" * 20)
    assert (
        main(["tokenizer", "train", "--kind", "wordpiece", "--vocab-size", "40", str(source), "--output", str(output)])
        == 0
    )

    from jaxencoder.text.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(output)
    assert tokenizer.decode(tokenizer.encode_batch(["the cat"])[0].ids) == "the cat"


def test_several_hosts_train_and_prepare_alone(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setenv("JAXENCODER_DISTRIBUTED", "1")
    assert main(["embed", "run", "--input", "a.txt", "--output", "a.npy"]) == 2
    assert "several hosts train and prepare together" in capsys.readouterr().err
