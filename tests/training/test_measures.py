"""Runs of tasks that compare texts: killed, and measured on published sets, of which one chooses the checkpoint."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jaxencoder.checkpoints.orbax import restore_step
from jaxencoder.config import Embeddings, MultiVectors, Reranking, RunConfig, SparseEmbeddings
from jaxencoder.evaluation.evaluate import evaluate, evaluate_task, kept_step
from jaxencoder.objectives.objective import ObjectiveConfig
from jaxencoder.training.loop import train
from jaxencoder.training.setup import set_up

from .conftest import interrupted, losses

OBJECTIVES: dict[str, ObjectiveConfig] = {
    "dense": Embeddings(parts=2, dimensions=(16, 8)),
    "sparse": SparseEmbeddings(queries="table", regularizer_warmup=1.0),
    "multi-vector": MultiVectors(dimensions=8, query_length=8, document_length=12),
    "reranking": Reranking(loss="infonce"),
}
SETS = {
    "dense": ("similarity:sts/dev.jsonl",),
    "sparse": ("triplets:pairs.jsonl",),
    "multi-vector": ("retrieval:beir/qrels/dev.tsv",),
    "reranking": ("reranking:pairs.jsonl",),
}


@pytest.fixture(scope="module")
def folder(home: Path) -> Path:
    """Pairs with negatives, a set of similarity and a BEIR folder, of random words."""
    texts = [json.loads(line)["text"] for line in (home / "text.jsonl").read_text().splitlines()]
    texts = [" ".join(text.split()[:4]) for text in texts]
    names = ("anchor", "positive", "negative")

    def write(path: str, records: list[dict]) -> None:
        (home / path).parent.mkdir(exist_ok=True, parents=True)
        (home / path).write_text("".join(json.dumps(x) + "\n" for x in records))

    write("pairs.jsonl", [dict(zip(names, texts[i : i + 3], strict=True)) for i in range(0, 120, 2)])
    scored = [{"sentence1": texts[i], "sentence2": texts[i + 9], "score": i % 5} for i in range(11)]
    write("sts/dev.jsonl", scored)
    write("beir/corpus.jsonl", [{"_id": str(i), "text": text} for i, text in enumerate(texts[:20])])
    write("beir/queries.jsonl", [{"_id": f"q{i}", "text": text[:9]} for i, text in enumerate(texts[:5])])
    for folder in ("absent", "broken"):  # corpora
        write(f"{folder}/queries.jsonl", [{"_id": "q", "text": "a"}])
        (home / folder / "qrels.tsv").write_text("q\t0\t1\n")
    write("broken/corpus.jsonl", [{"text": "no id"}])
    write("one.jsonl", scored[:1])
    write("last.jsonl", [{"anchor": "a", "positive": "b", "negative": "c"}, {"anchor": "a", "positive": 3}])
    for split in ("dev", "test"):
        (home / "beir" / "qrels").mkdir(exist_ok=True)
        (home / "beir" / "qrels" / f"{split}.tsv").write_text("".join(f"q{i}\t{i}\t1\n" for i in range(5)))
    return home


@pytest.fixture
def run(config: RunConfig, folder: Path, monkeypatch) -> RunConfig:
    monkeypatch.chdir(folder)
    data = replace(config.data, train=("pairs.jsonl",), text_field="anchor", pair_field="positive", row_length=48)
    settings = {"steps": 4, "accumulation": 1, "batch_size": 4, "eval_every": 2, "checkpoint_every": 2}
    training = replace(config.training, **settings, keep_checkpoints=1)
    model = replace(config.model, num_layers=1, max_length=48)
    return replace(config, model=model, data=data, training=training)


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_killed_runs_end_alike(kind: str, run: RunConfig, tmp_path: Path, sigterm) -> None:
    """Losses, parameters and results, of which the best is kept; it is what `evaluate` finds afterwards."""
    training = replace(run.training, evaluations=SETS[kind], ema_decay=0.9 if kind == "dense" else 0.0)
    data = run.data if kind == "dense" else replace(run.data, validation_fraction=0.0)  # a set is enough
    config = replace(run, objective=OBJECTIVES[kind], data=data, training=training)
    result = train(config, tmp_path / "full")
    sigterm([3])
    interrupted(config, tmp_path / "cut")
    assert train(config, tmp_path / "cut") == result
    full, cut = tmp_path / "full", tmp_path / "cut"
    assert losses(cut) == losses(full)
    parts = [restore_step(x / "checkpoints", part="params")[1] for x in (full, cut)]
    assert jax.tree.all(jax.tree.map(np.array_equal, *parts))

    metric = config.training.evaluation_metrics[0]
    values = {x["step"]: x[f"validation_{metric}"] for x in losses(cut) if f"validation_{metric}" in x}
    assert list(values) == [2, 4]
    kept = {values[int(x.name)] for x in (cut / "checkpoints").iterdir()}
    assert kept == {max(values.values()), values[4]}
    task: Any
    task, source = SETS[kind][0].split(":")
    match kind:
        case "reranking":
            measured = evaluate(cut, source, step="best")
        case "multi-vector":
            (measured,) = evaluate_task(cut, task, ["beir"], step="best", split="dev").values()
        case _:
            (measured,) = evaluate_task(cut, task, [source], step="best").values()
    assert kept_step(config) == "best"
    assert measured[metric.rpartition("/")[2]] == pytest.approx(max(kept), abs=1e-6)


@pytest.mark.parametrize(
    ("objective", "evaluations", "message"),
    [
        ("dense", ("similarity:absent.jsonl",), "absent.jsonl"),
        ("dense", ("retrieval:beir/qrels/train.tsv",), "no file beir/qrels/train.tsv; its splits are dev, test"),
        ("dense", ("retrieval:absent",), "absent/corpus.jsonl"),
        ("dense", ("retrieval:broken",), 'broken/corpus.jsonl, record 1: "_id" is None'),
        ("dense", ("bitext:one.jsonl",), "one.jsonl holds 1 pair; bitext mining needs several"),
        ("reranking", ("reranking:last.jsonl",), "last.jsonl, record 2"),
        ("dense", ("reranking:pairs.jsonl",), "has reranking, but the objective is Embeddings, which is evaluated by"),
        ("reranking", ("retrieval:beir",), "has retrieval, but the objective is Reranking, .* evaluated by reranking"),
        ("multi-vector", ("similarity:sts/dev.jsonl",), "MultiVectors gives a vector for each token; evaluate it by"),
    ],
)
def test_sets_that_cannot_be_used(objective: str, evaluations: tuple, message: str, run: RunConfig, tmp_path) -> None:
    """The error comes before data is prepared."""
    training = replace(run.training, evaluations=evaluations)
    with pytest.raises((ValueError, OSError), match=message):
        set_up(replace(run, objective=OBJECTIVES[objective], training=training), tmp_path / "run")


def test_without_held_out_rows(run: RunConfig, tmp_path: Path) -> None:
    """A set alone chooses the best, by another of its metrics, for masked language models too."""
    settings = {"evaluations": ("triplets:pairs.jsonl", "similarity:sts/dev.jsonl"), "steps": 2}
    training = replace(run.training, **settings, best_metric="similarity/sts-dev/pearson")
    data = replace(run.data, validation_fraction=0.0, text_field="anchor", pair_field="")
    result = train(replace(run, data=data, training=training), tmp_path / "run")
    assert set(result) == {"triplets/pairs/accuracy", "similarity/sts-dev/spearman", "similarity/sts-dev/pearson"}
    with pytest.raises(ValueError, match="best_metric is 'loss', but this run measures triplets/pairs/accuracy, sim"):
        train(replace(run, data=data, training=replace(training, best_metric="loss")), tmp_path / "other")
