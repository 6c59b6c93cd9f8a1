"""The cache of rows: what its addresses depend on, and interrupted, concurrent and failed preparations."""

import dataclasses
import errno
import os
import signal
import subprocess
import sys
import time

import pytest

from jaxencoder.text.config import TokenizerConfig
from jaxencoder.text.row_cache import prepare
from jaxencoder.text.tokenizers.tokenizer import Tokenizer
from jaxencoder.text.tokenizers.training import train_tokenizer
from tests.text.corpus import WORDS, config, content, documents, write


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer([" ".join(WORDS)] * 5, TokenizerConfig(vocab_size=120))


def test_the_cache_knows_content_and_settings(tmp_path, tokenizer):
    source = write(tmp_path / "a.jsonl", documents(20))
    base = config(source, cache=str(tmp_path / "cache"))
    first = prepare(base, tokenizer, "train")[0].path
    assert prepare(dataclasses.replace(base, workers=2, temperature=2.0), tokenizer, "train")[0].path == first
    other = train_tokenizer(documents(20), TokenizerConfig(vocab_size=120))
    paths = {
        first,
        prepare(dataclasses.replace(base, row_length=17), tokenizer, "train")[0].path,
        prepare(dataclasses.replace(base, packing=False), tokenizer, "train")[0].path,
        prepare(dataclasses.replace(base, validation_fraction=0.3), tokenizer, "train")[0].path,
        prepare(base, other, "train")[0].path,
    }
    write(tmp_path / "a.jsonl", documents(21))
    paths.add(prepare(base, tokenizer, "train")[0].path)
    assert len(paths) == 6


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
    monkeypatch.setattr("jaxencoder.text.store.json.dump", full)
    with pytest.raises(OSError, match="No space left on device; set data.cache"):
        prepare(config(source, cache=str(tmp_path / "cache")), tokenizer, "train")
    assert [path.name for path in (tmp_path / "cache" / "rows").iterdir() if path.is_dir()] == []


SLOW = """
import sys, time
from jaxencoder.text import row_cache
from jaxencoder.text.config import DataConfig
from jaxencoder.text.tokenizers.tokenizer import Tokenizer
add = row_cache.Writer.add
def slow(self, row):
    add(self, row)
    if self.rows == 3:
        print("three rows", flush=True)
        time.sleep(float(sys.argv[4]))
row_cache.Writer.add = slow
data = DataConfig(train=(sys.argv[1],), cache=sys.argv[2], row_length=16, validation_fraction=0.0, workers=2)
row_cache.prepare(data, Tokenizer.load(sys.argv[3]), "train")
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_killed_and_concurrent_preparations(tmp_path, tokenizer):
    source = write(tmp_path / "a.jsonl", documents(200))
    cache = tmp_path / "cache"
    tokenizer.save(tmp_path / "tokenizer")

    def start(pause):
        command = [sys.executable, "-c", SLOW, source, str(cache), str(tmp_path / "tokenizer"), str(pause)]
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": os.getcwd()}
        )

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
