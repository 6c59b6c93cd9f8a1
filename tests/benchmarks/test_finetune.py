"""The fine-tuning benchmark: batches for torch, scores that are not computed twice, and their table."""

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

pytest.importorskip("torch", reason="needs torch (pip install -e '.[peers]')")
pytest.importorskip("transformers", reason="needs transformers (pip install -e '.[peers]')")

from benchmarks import finetune_torch as peer

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def finetune(monkeypatch):
    """The script, which imports its neighbors as scripts do."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import finetune

    return finetune


def make_examples(lengths: list[int]) -> list[peer.Example]:
    return [peer.Example(np.full(n, 5, np.int32), np.zeros(n, np.int32), i) for i, n in enumerate(lengths)]


def test_examples_of_packed_rows_padded() -> None:
    rows = {
        "token_ids": np.array([[2, 7, 3, 2, 8, 9, 3, 0], [2, 6, 3, 0, 0, 0, 0, 0]]),
        "token_type_ids": np.array([[0, 0, 0, 0, 0, 1, 1, 0], [0] * 8]),
        "segment_ids": np.array([[1, 1, 1, 2, 2, 2, 2, 0], [1, 1, 1, 0, 0, 0, 0, 0]]),
        "labels": np.array([[1, 0], [2, -1]]),
    }
    batch = peer.pad(peer.unpack(rows))
    assert batch["input_ids"].tolist() == [[2, 7, 3, 0], [2, 8, 9, 3], [2, 6, 3, 0]]
    assert batch["token_type_ids"].tolist() == [[0, 0, 0, 0], [0, 0, 1, 1], [0, 0, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 1, 0]]
    assert batch["labels"].tolist() == [1, 0, 2]


def test_epochs_take_each_example_once() -> None:
    examples = make_examples([3] * 10)
    batches = list(peer.shuffled_batches(examples, 4, 5, seed=0))
    assert [len(batch) for batch in batches] == [4] * 5
    labels = [example.label for batch in batches for example in batch]
    assert sorted(labels[:10]) == sorted(labels[10:]) == list(range(10))
    assert labels[:10] != labels[10:]


def test_grouped_examples_are_sorted_by_length() -> None:
    examples = make_examples(np.random.default_rng(0).integers(3, 60, 250).tolist())
    batches = peer.grouped_batches(examples, 2, seed=0)
    assert sorted(example.label for batch in batches for example in batch) == list(range(250))
    lengths = [len(example.token_ids) for batch in batches for example in batch]
    for group in (lengths[:100], lengths[100:200], lengths[200:]):  # 50 batches of 2
        assert group == sorted(group, reverse=True)
    assert lengths != sorted(lengths, reverse=True)


def test_finished_scores_are_not_computed_again(finetune, monkeypatch, tmp_path) -> None:
    args = argparse.Namespace(
        scores=["rte"], seeds=[0, 1], sides=finetune.SIDES, output=tmp_path / "new" / "scores.jsonl", rate=1e-4,
        lora_rate=1e-3, limit=0, epochs=3, examples=32, row_length=128,
    )  # fmt: skip
    computed = []

    def score(side, name, seed, args):
        if len(computed) == 2:
            computed.clear()
            raise KeyboardInterrupt
        computed.append((side, seed))
        return finetune.line_key(side, name, seed, args) | {"metrics": {"accuracy": 0.5}}

    monkeypatch.setattr(finetune, "score", score)
    monkeypatch.setattr(finetune, "keep_freed_memory", lambda: None)
    monkeypatch.setattr(finetune, "use_threads", lambda threads: None)
    with pytest.raises(KeyboardInterrupt):
        finetune.scores(args)
    monkeypatch.setattr(
        finetune, "score", lambda *arguments: computed.append(arguments[:3]) or finetune.line_key(*arguments)
    )
    finetune.scores(args)
    assert computed == [("jaxencoder-lora", "rte", 0), *((side, "rte", 1) for side in finetune.SIDES)]
    args.rate, args.sides = 2e-4, ["torch"]
    finetune.scores(args)
    assert computed[4:] == [("torch", "rte", 0), ("torch", "rte", 1)]


def test_table_of_scores(finetune, tmp_path, capsys) -> None:
    values = {"torch": [0.60, 0.62, 0.64], "jaxencoder": [0.61, 0.66, 0.62], "jaxencoder-lora": [0.59]}
    settings = {"task": "rte", "limit": 0, "epochs": 3.0, "examples": 32, "row_length": 128, "rate": 1e-4}
    lines = [
        settings
        | {"side": side, "seed": seed, "metrics": {"accuracy": x}, "seconds": 10 + seed}
        | {"tokens_per_second": 9}
        for side, accuracies in values.items()
        for seed, x in enumerate(accuracies)
    ]
    path = tmp_path / "scores.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    finetune.table(path)
    header, _, row = capsys.readouterr().out.splitlines()
    p = scipy.stats.ttest_ind(values["torch"], values["jaxencoder"], equal_var=False).pvalue
    assert row.split(" | ")[1:7] == ["accuracy", "62.0 ± 2.0 (3)", "63.0 ± 2.6 (3)", "59.0 (1)", f"{p:.2f}", ""]
    assert row.endswith("| 11 / 11 / 10 | 9 / 9 / 9 |") and row.count("|") == header.count("|")
    path.write_text(path.read_text() + json.dumps(lines[0] | {"rate": 1.0}) + "\n")
    with pytest.raises(ValueError, match="learning rates"):
        finetune.table(path)
