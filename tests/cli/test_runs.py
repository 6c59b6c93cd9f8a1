"""The verbs that train: what they pass on."""

from pathlib import Path

import pytest

from jaxencoder.cli.main import main


def test_train_gives_other_words_to_the_recipe(recipe, calls):
    record = calls("training.loop", "train")
    words = ["--training.steps", "60", "--run-dir", "out", "--mesh.data", "-1", "--training.checkpoint-every=10"]
    assert main(["train", recipe, *words]) == 0
    (((config, run_dir), _),) = record
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


def test_train_help_lists_options_and_settings(recipe, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["train", recipe, "--help"])
    out = capsys.readouterr().out
    assert not caught.value.code
    assert "--run-dir" in out and "--training.batch-size" in out


def test_sweep(calls, capsys):
    record = calls("evaluation.sweep", "run_sweep", result="report of sweep")
    words = ["--vary", "optimizer.learning_rate=1e-4,3e-4", "--seeds", "0", "1", "--training.steps", "7"]
    words += ["--vary", "optimizer.b1=0.8", "--jobs", "2"]
    assert main(["sweep", "quickstart", "--run-dir", "out", *words]) == 0
    (((config, *rest), options),) = record
    assert rest == [Path("out"), (0, 1), ("optimizer.learning_rate=1e-4,3e-4", "optimizer.b1=0.8"), 2]
    assert (config.name, config.training.steps, options) == ("quickstart", 7, {})
    assert capsys.readouterr().out == "report of sweep\n"
    assert main(["sweep", "quickstart", "--run-dir", "out"]) == 0
    assert record[1][0][1:] == (Path("out"), (), (), 1)


def test_glue(calls, capsys):
    record = calls("evaluation.glue", "run_glue", result="report of glue")
    words = ["--tasks", "rte", "cola", "--seeds", "0", "1", "--limit", "100", "--optimizer.learning-rate", "1e-3"]
    assert main(["glue", "data", "--init-from", "model", "--run-dir", "out", *words, "--from-mnli"]) == 0
    from jaxencoder.evaluation.glue import GlueOptions

    options = GlueOptions((0, 1), ("rte", "cola"), ("--optimizer.learning-rate", "1e-3"), 100, from_mnli=True)
    assert record == [(("data", "model", Path("out"), options, 1), {})]
    assert capsys.readouterr().out == "report of glue\n"


def test_the_tasks_of_glue_are_those_of_its_table():
    from typing import get_args

    from jaxencoder.cli.runs import GlueTask
    from jaxencoder.evaluation.glue import TASKS

    assert get_args(GlueTask) == tuple(TASKS)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["sweep", "--run-dir", "out"], "name RECIPE"),
        (["sweep", "quickstart"], "name --run-dir"),
        (["glue", "data", "--run-dir", "out"], "name --init-from"),
        (["glue", "data", "--init-from", "m", "--run-dir", "out", "--tasks", "imdb"], "--tasks"),
        (["tokenizer", "train"], "name --output"),
        (["tokenizer", "train", "--output", "o"], "name at least one SOURCE of texts"),
        (["tokenizer", "train", "a.txt", "--output", "o", "--kin", "bpe"], "unknown option --kin; did you mean --kind"),
        (["tokenizer", "train", "a.txt", "--output", "o", "--path", "x"], "--path x loads a tokenizer; to train one"),
        (["tokenizer", "train", "a.txt", "--output", "o", "--vocab-size", "2"], "tokenizer.vocab_size is 2"),
    ],
)
def test_mistakes(words, line, capsys):
    assert main(words) == 2
    assert capsys.readouterr().err.removeprefix("jaxencoder: ").startswith(line)


def test_a_missing_text_of_a_file(tmp_path, capsys):
    (tmp_path / "a.jsonl").write_text('{"body": "a text"}\n')
    assert main(["tokenizer", "train", str(tmp_path / "a.jsonl"), "--output", str(tmp_path / "o")]) == 2
    assert capsys.readouterr().err.endswith("a.jsonl:1: no field 'text' among body; name it with --text-field\n")


def test_tokenizer_train(tmp_path):
    source, output = tmp_path / "a.txt", tmp_path / "tokenizer"
    source.write_text("the cat sat on the mat\n" * 20)
    words = ["--kind", "wordpiece", "--vocab-size", "40", str(source), "--output", str(output)]
    assert main(["tokenizer", "train", *words]) == 0

    from jaxencoder.text.tokenizers.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(output)
    assert tokenizer.decode(tokenizer.encode_batch(["the cat"])[0].ids) == "the cat"
