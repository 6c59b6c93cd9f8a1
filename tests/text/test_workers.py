"""Worker processes: they report errors, end with their caller and load nothing that they do not need."""

import os
import signal
import subprocess
import sys

import psutil
import pytest

from jaxencoder.text import pieces
from jaxencoder.text.cache import prepare
from jaxencoder.text.workers import encode
from tests.text.corpus import config, write


def test_an_error_in_a_worker_is_the_same_sentence(tmp_path, tokenizer):
    source = write(tmp_path / "a.jsonl", [{"text": "alpha", "b": "beta"}])
    messages = []
    for count in (1, 2):
        # [CLS] a [SEP] b [SEP] does not fit into 4 tokens and leave something of both.
        with pytest.raises(ValueError, match="\\D2\\D") as error:
            next(encode(tokenizer, [(pieces.examples, ["alpha"], ["beta"], [0], 2)] * 2, count))
        messages.append(str(error.value))
    assert messages[0] == messages[1] and "\n" not in messages[0]
    assert prepare(config(source, row_length=5, pair_field="b"), tokenizer, "train")[0].meta["tokens"] == 5


def test_a_worker_that_dies_is_reported(tokenizer):
    tasks = [(lambda tokenizer: os.kill(os.getpid(), signal.SIGKILL),)] * 3
    with pytest.raises(OSError, match="a tokenizing process died .exit codes .*SIGKILL.*set data.workers") as error:
        list(encode(tokenizer, tasks, 2))
    assert "\n" not in str(error.value)


def test_no_worker_outlives_its_caller(tokenizer):
    results = encode(tokenizer, ((pieces.documents, ["alpha"], 8) for _ in range(1000)), 2)
    next(results)
    assert len(worker_processes()) == 2
    results.close()
    assert not worker_processes()


def worker_processes():
    return [p for p in psutil.Process().children() if "popen_loky" in " ".join(p.cmdline())]


ORPHANS = """
import os, sys, time
from jaxencoder.text.tokenizers.tokenizer import Tokenizer
from jaxencoder.text.workers import encode
def task(tokenizer):
    return os.getpid()
def slow(tokenizer):
    time.sleep(600)
results = encode(Tokenizer.load(sys.argv[1]), [(task,)] * 4 + [(slow,)] * 4, 2)
print(next(results), flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("send", [lambda pid: os.kill(pid, signal.SIGKILL), lambda pid: os.killpg(pid, signal.SIGINT)])
def test_workers_end_with_a_killed_or_interrupted_caller(tmp_path, tokenizer, send):
    tokenizer.save(tmp_path)
    command, pipe = [sys.executable, "-c", ORPHANS, str(tmp_path)], subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, start_new_session=True) as caller:
        worker = psutil.Process(int(caller.stdout.readline()))
        send(caller.pid)
        caller.communicate(timeout=30)
    worker.wait(10)


def test_workers_import_neither_jax_nor_flax(tokenizer):
    for modules in encode(tokenizer, [(lambda tokenizer: set(sys.modules),)] * 2, 2):
        assert "jaxencoder.text.workers" in modules and not {"jax", "flax", "tensorstore"} & modules
