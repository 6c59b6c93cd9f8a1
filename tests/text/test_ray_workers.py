"""Tokenizing by tasks of Ray: the rows of one process, and errors that read the same."""

import os
from pathlib import Path

import pytest

from jaxencoder.text import pieces
from jaxencoder.text.cache import prepare
from jaxencoder.text.ray_workers import encode
from tests.ray_session import FILTERS, ray  # noqa: F401
from tests.text.corpus import config, documents, write

pytestmark = FILTERS


def files(folder: str) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


@pytest.mark.parametrize("pairs", ["none", "nsp"])
def test_rows_are_those_of_one_process(ray, tmp_path, tokenizer, monkeypatch, pairs):  # noqa: F811
    monkeypatch.setattr("jaxencoder.text.rows._TASK_DOCUMENTS", 40)
    source = write(tmp_path / "a.jsonl", documents(400))
    settings = [{"workers": 1}, {"workers": 2}, *({"engine": "ray", "workers": n} for n in (0, 1, 3))]
    stores = []
    for number, more in enumerate(settings):
        data = config(source, cache=str(tmp_path / f"cache{number}"), row_length=32, pairs=pairs, **more)
        stores += prepare(data, tokenizer, "train")
    # The engine is no part of the rows' address.
    assert len({Path(store.path).name for store in stores}) == 1
    first, *others = [files(store.path) for store in stores]
    assert len(first) > 1 and all(other == first for other in others)


def test_no_more_tasks_than_workers_are_under_way(ray, tmp_path, tokenizer):  # noqa: F811
    read = []

    def tasks():
        for number in range(20):
            read.append(number)
            yield pieces.documents, ["alpha"], 8

    results = encode(tokenizer, tasks(), 3)
    next(results)
    assert len(read) <= 5
    assert len(list(results)) == 19


def test_a_single_task_needs_no_ray(tokenizer, monkeypatch):
    monkeypatch.setattr("jaxencoder.text.ray_workers.connected", None)
    assert len(list(encode(tokenizer, [(pieces.documents, ["alpha"], 8)], 2))) == 1
    assert list(encode(tokenizer, [], 2)) == []


def test_an_error_in_a_task_is_the_same_sentence(ray, tokenizer):  # noqa: F811
    task = (pieces.examples, ["alpha"], ["beta"], [0], 2)
    with pytest.raises(ValueError) as expected:
        task[0](tokenizer, *task[1:])
    with pytest.raises(ValueError) as error:
        list(encode(tokenizer, [task] * 2, 2))
    assert str(error.value) == str(expected.value) and type(error.value) is ValueError


def test_a_process_that_dies_is_reported(ray, tokenizer):  # noqa: F811
    tasks = [(lambda tokenizer: os._exit(1),)] * 3
    with pytest.raises(OSError, match="a tokenizing process of Ray died.*set data.workers to fewer") as error:
        list(encode(tokenizer, tasks, 2))
    assert "\n" not in str(error.value)
