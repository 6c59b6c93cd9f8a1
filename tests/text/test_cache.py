"""The cache of rows and tokenizers: what addresses depend on; interrupted, concurrent and failed preparations."""

import dataclasses
import errno
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from jaxencoder.text import cache
from jaxencoder.text.cache import load_or_train, prepare
from jaxencoder.text.config import DataConfig, TokenizerConfig
from jaxencoder.text.tokenizers.training import train_tokenizer
from tests.text.corpus import config, content, documents, write


def test_the_cache_knows_content_and_settings(tmp_path, tokenizer):
    source = write(tmp_path / "a.jsonl", documents(20))
    base = config(source, cache=str(tmp_path / "cache"))
    first = prepare(base, tokenizer, "train")[0].path
    assert prepare(dataclasses.replace(base, workers=2, temperature=2.0), tokenizer, "train")[0].path == first
    other = train_tokenizer(documents(20), TokenizerConfig(vocab_size=120))
    changes = ({"row_length": 17}, {"packing": False}, {"validation_fraction": 0.3})
    stores = [prepare(dataclasses.replace(base, **change), tokenizer, "train") for change in changes]
    stores.append(prepare(base, other, "train"))
    write(tmp_path / "a.jsonl", documents(21))
    stores.append(prepare(base, tokenizer, "train"))
    assert len({first, *(store.path for (store,) in stores)}) == 6


@pytest.mark.parametrize("place", ["file/cache", "file", "/proc/nothing/cache"])
def test_a_cache_that_cannot_be_written(tmp_path, tokenizer, place):
    (tmp_path / "file").write_text("")
    source = write(tmp_path / "a.jsonl", documents(3))
    with pytest.raises(OSError, match="cannot write prepared rows to .*; set data.cache") as error:
        prepare(config(source, cache=str(tmp_path / place)), tokenizer, "train")
    assert "\n" not in str(error.value)


def test_a_full_disk_leaves_nothing(tmp_path, tokenizer, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    source = write(tmp_path / "a.jsonl", documents(3))
    monkeypatch.setattr("jaxencoder.text.store.write_atomic", full)
    with pytest.raises(OSError, match="No space left on device; set data.cache"):
        prepare(config(source, cache=str(tmp_path / "cache")), tokenizer, "train")
    assert [path.name for path in (tmp_path / "cache" / "rows").iterdir() if path.is_dir()] == []


SLOW = """
import sys, time
from jaxencoder.text import cache
from jaxencoder.text.config import DataConfig
from jaxencoder.text.tokenizers.tokenizer import Tokenizer
add = cache.Writer.add
def slow(self, row):
    add(self, row)
    if self.rows == 3:
        print("three rows", flush=True)
        time.sleep(float(sys.argv[4]))
cache.Writer.add = slow
data = DataConfig(train=(sys.argv[1],), cache=sys.argv[2], row_length=16, validation_fraction=0.0, workers=2)
cache.prepare(data, Tokenizer.load(sys.argv[3]), "train")
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_killed_and_concurrent_preparations(tmp_path, tokenizer):
    source = write(tmp_path / "a.jsonl", documents(200))
    cache = tmp_path / "cache"
    tokenizer.save(tmp_path / "tokenizer")

    def start(pause):
        command = [sys.executable, "-c", SLOW, source, str(cache), str(tmp_path / "tokenizer"), str(pause)]
        environment = {**os.environ, "PYTHONPATH": os.getcwd()}
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)

    def folders():
        return [path.name for path in (cache / "rows").iterdir() if path.is_dir()]

    killed = start(60)
    assert killed.stdout.readline() == "three rows\n"
    killed.kill()
    killed.wait()
    killed.stdout.close()
    assert len(folders()) == 1 and folders()[0].startswith(".")

    first = start(1.5)
    assert first.stdout.readline() == "three rows\n"
    began = time.monotonic()
    second = start(0)
    output = second.communicate(timeout=60)[0]
    assert time.monotonic() - began > 0.5
    first.communicate(timeout=60)
    assert (first.returncode, second.returncode) == (0, 0)
    assert "Waiting for another process" in output and "Reusing" in output
    assert len(folders()) == 1 and not folders()[0].startswith(".")
    clean = prepare(config(source, cache=str(tmp_path / "other")), tokenizer, "train")
    assert content(prepare(config(source, cache=str(cache)), tokenizer, "train")) == content(clean)


CONFIG = TokenizerConfig(vocab_size=40)


@pytest.fixture
def data(tmp_path: Path) -> DataConfig:
    source = tmp_path / "text.jsonl"
    source.write_text("".join(json.dumps({"text": "the cat sat", "other": "on a mat"}) + "\n" for _ in range(20)))
    return DataConfig(train=(str(source),), cache=str(tmp_path / "cache"))


@pytest.fixture
def trainings(monkeypatch) -> list[TokenizerConfig]:
    seen: list[TokenizerConfig] = []

    def counted(texts, config):
        seen.append(config)
        return train_tokenizer(texts, config)

    monkeypatch.setattr(cache, "train_tokenizer", counted)
    return seen


def test_trained_once(data: DataConfig, trainings) -> None:
    first, second = load_or_train(CONFIG, data), load_or_train(CONFIG, data)
    assert first.fingerprint == second.fingerprint == train_tokenizer(["the cat sat"] * 20, CONFIG).fingerprint
    assert len(trainings) == 1


def test_others_may_read_it(data: DataConfig) -> None:
    before = os.umask(0o077)
    try:
        load_or_train(CONFIG, data)
    finally:
        os.umask(before)
    (folder,) = (path for path in Path(data.cache, "tokenizers").iterdir() if path.is_dir())
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o644}


def test_pairs_are_read_too(data: DataConfig) -> None:
    both = DataConfig(train=data.train, cache=data.cache, pair_field="other")
    assert load_or_train(CONFIG, both).fingerprint != load_or_train(CONFIG, data).fingerprint


def test_aligned_texts_are_mixed_with_single_ones(data: DataConfig, tmp_path: Path) -> None:
    """Both texts of a pair train the tokenizer, and the texts of a source without pairs."""
    for name, text in (("a.txt", "a quick fox\n" * 9), ("b.txt", "ein flinker Fuchs\n" * 9)):
        (tmp_path / name).write_text(text)
    aligned = f"aligned:{tmp_path}/a.txt|{tmp_path}/b.txt"
    tokenizer = load_or_train(CONFIG, DataConfig(train=(aligned, data.train[0]), cache=data.cache))
    texts = [*["a quick fox", "ein flinker Fuchs"] * 9, *["the cat sat"] * 20]
    assert tokenizer.fingerprint == train_tokenizer(texts, CONFIG).fingerprint


def test_other_text_or_settings_give_another(data: DataConfig, trainings) -> None:
    load_or_train(CONFIG, data)
    load_or_train(TokenizerConfig(vocab_size=30), data)
    source = Path(data.train[0])
    source.write_text(source.read_text() * 2)
    load_or_train(CONFIG, data)
    assert len(trainings) == 3


def test_a_path_is_loaded(data: DataConfig, tmp_path: Path, trainings) -> None:
    loaded = train_tokenizer(["something else"] * 9, CONFIG)
    loaded.save(tmp_path / "loaded")
    path = TokenizerConfig(path=str(tmp_path / "loaded"))
    assert load_or_train(path, data).fingerprint == loaded.fingerprint and not trainings
    with pytest.raises(OSError, match="nowhere"):
        load_or_train(TokenizerConfig(path="nowhere"), data)


def test_two_at_once_train_one(data: DataConfig, trainings) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: load_or_train(CONFIG, data), range(4)))
    assert len(trainings) == 1


def test_interrupted(data: DataConfig, monkeypatch) -> None:
    def stopped(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(cache.os, "replace", stopped)
        with pytest.raises(KeyboardInterrupt):
            load_or_train(CONFIG, data)
    folder = Path(data.cache) / "tokenizers"
    assert [path.suffix for path in folder.iterdir()] == [".lock"]
    assert load_or_train(CONFIG, data).vocab_size <= 40


def test_cache_that_is_a_file(data: DataConfig, tmp_path: Path) -> None:
    (tmp_path / "cache").touch()
    with pytest.raises(OSError):
        load_or_train(CONFIG, data)


def test_remote_cache(data: DataConfig, tmp_path: Path, monkeypatch) -> None:
    """Rows go to an object store; a tokenizer stays on the local disk."""
    monkeypatch.setenv("JAXENCODER_CACHE", str(tmp_path / "local"))
    monkeypatch.chdir(tmp_path)
    load_or_train(CONFIG, DataConfig(train=data.train, cache="gs://bucket/prefix"))
    assert len(list((tmp_path / "local" / "tokenizers").iterdir())) == 2 and not (tmp_path / "gs:").exists()


def test_cache_folder(monkeypatch, tmp_path: Path) -> None:
    assert cache.cache_folder(DataConfig(cache="here")) == Path("here")
    monkeypatch.setenv("JAXENCODER_CACHE", str(tmp_path))
    assert cache.cache_folder(DataConfig()) == tmp_path
    monkeypatch.delenv("JAXENCODER_CACHE")
    assert cache.cache_folder(DataConfig()).parts[-2:] == (".cache", "jaxencoder")
