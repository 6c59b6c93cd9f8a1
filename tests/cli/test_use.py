"""The verbs that use a model: what they pass on, and what they print."""

from pathlib import Path

import pytest

from jaxencoder import api
from jaxencoder.bulk.embed import Report
from jaxencoder.cli.main import main
from jaxencoder.inference.options import EmbedOptions
from jaxencoder.text.config import WindowConfig


def test_fill_mask(monkeypatch, capsys):
    class Model:
        def fill_mask(self, text, k):
            assert k == 3
            return [[("length", 0.625, text.replace("[MASK]", "length"))]]

    opened = []
    monkeypatch.setattr(api, "load", lambda name: opened.append(name) or Model())
    assert main(["fill-mask", "runs/x", "the [MASK] of it", "-k", "3"]) == 0
    assert opened == ["runs/x"]
    assert capsys.readouterr().out.split() == ["62.50%", "length", "the", "length", "of", "it"]


def test_embed(calls, capsys):
    record = calls("inference.embed", "embed_file", result=7)
    words = ["--input", "a.jsonl", "--output", "b.parquet", "--pooling", "cls", "--batch-tokens", "512"]
    words += ["--prompt", "query: ", "--dimensions", "8", "--windows", "--stride", "64", "--window-pooling", "max"]
    assert main(["embed", "run", *words]) == 0
    options = EmbedOptions(
        pooling="cls", prompt="query: ", dimensions=8, batch_tokens=512, windows=WindowConfig(64, "max")
    )
    assert record == [(("run", "a.jsonl", Path("b.parquet"), "text", options), {})]
    assert capsys.readouterr().out == "7 texts in b.parquet\n"


@pytest.mark.parametrize(("option", "value"), [("--stride", "64"), ("--window-pooling", "max")])
def test_an_option_of_windows_without_windows(option, value, capsys):
    assert main(["embed", "run", "--input", "a", "--output", "b.npy", option, value]) == 2
    assert f"{option} is {value}, but texts are truncated; add --windows" in capsys.readouterr().err


def test_search(calls, capsys):
    record = calls("inference.search", "search", result=[(0.5, {"body": "open\n a file"})])
    words = ["-k", "1", "--text-field", "body", "--windows", "--query-prompt", "q: ", "--document-prompt", ""]
    assert main(["search", "run", "pydocs", "how to read", *words]) == 0
    options = EmbedOptions(prompt="", windows=WindowConfig())
    assert record == [(("run", "pydocs", "how to read", 1, "body", options, "q: "), {})]
    assert capsys.readouterr().out.split() == ["0.5000", "open", "a", "file"]


def test_predict(calls, capsys):
    record = calls("inference.predict", "predict_file", result=7)
    words = ["predict", "run", "--input", "a.jsonl", "--output", "b.jsonl"]
    assert main(words) == 0
    assert capsys.readouterr().out == "7 records in b.jsonl\n"
    more = ["--probabilities", "--windows", "--stride", "64", "--text-field", "body", "--batch-tokens", "99"]
    assert main([*words, *more]) == 0
    options = {"probabilities": True, "windows": WindowConfig(64), "text_field": "body", "batch_tokens": 99}
    assert record == [(("run", "a.jsonl", Path("b.jsonl")), {}), (("run", "a.jsonl", Path("b.jsonl")), options)]


def test_convert(calls, capsys):
    record = calls("checkpoints.convert", "convert")
    assert main(["convert", "run", "folder", "--to", "sentence-transformers", "--pooling", "cls", "--normalize"]) == 0
    assert record == [(("run", Path("folder"), "sentence-transformers", "cls", True), {})]
    assert capsys.readouterr().out == "run in folder, for sentence-transformers\n"


def test_extend(calls, capsys):
    record = calls("checkpoints.extend", "extend", result="transformers")
    words = ["--max-length", "2048", "--method", "yarn", "--factor", "8", "--window", "64"]
    assert main(["extend", "run", "long", *words]) == 0
    assert record == [(("run", Path("long"), 2048, "yarn", 8.0, 64, False), {})]
    assert capsys.readouterr().out == "run for 2048 tokens in long, a folder of kind transformers\n"


def test_keep_layers(calls, capsys):
    record = calls("checkpoints.layers", "keep_layers", result="transformers")
    assert main(["keep-layers", "run", "small", "--layers", "0", "2"]) == 0
    assert record == [(("run", Path("small"), (0, 2)), {})]
    assert capsys.readouterr().out == "Layers 0 2 of run in small, a folder of kind transformers\n"


def test_an_address_is_that_of_a_folder(calls, capsys):
    record = calls("bulk.embed", "embed_folder", result=Report(7, 7, 1, 1))
    assert main(["embed", "run", "--input", "a.jsonl", "--output", "s3://bucket/e5-v1.5"]) == 0
    assert record[0][0][2] == "s3://bucket/e5-v1.5"
    assert main(["embed", "run", "--input", "a.jsonl", "--output", "s3://bucket/x.parquet"]) == 2
    assert "s3://bucket/x.parquet is an address; end it with / for a folder of shards" in capsys.readouterr().err
