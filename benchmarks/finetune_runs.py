"""The fine-tunings that are compared: data sets, their runs, and a run before its first update."""

import argparse
import contextlib
import dataclasses
import itertools
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh
from train_step import DATA  # sets JAX_PLATFORMS

from jaxencoder.config import RunConfig, load
from jaxencoder.sharding import make_mesh
from jaxencoder.text.rows import prepare
from jaxencoder.training.checkpoint import Checkpoints
from jaxencoder.training.loop import compile_steps, feed_after
from jaxencoder.training.setup import Setup, set_up
from jaxencoder.training.start import find_start


class Task(NamedTuple):
    """A data set in the folder of its name, and the metrics by which it is judged.

    A task of another objective (words, spans) needs its recipe here, and in finetune_torch.py its examples, its class
    of transformers and its predictions.
    """

    text: str
    pair: str
    metrics: tuple[str, ...]
    recipe: str = "finetune_classification"


TASKS = {
    "cola": Task("sentence", "", ("matthews",)),
    "sst2": Task("sentence", "", ("accuracy",)),
    "mrpc": Task("sentence1", "sentence2", ("f1", "accuracy")),
    "rte": Task("sentence1", "sentence2", ("accuracy",)),
    "stsb": Task("sentence1", "sentence2", ("pearson", "spearman")),
}


def recipe(
    name: str, args: argparse.Namespace, *, dropout: float, steps: int = 0, seed: int = 0, rank: int = 0
) -> RunConfig:
    """The run of a task.

    Args:
        name: of the task.
        args: model, rate, lora_rate, limit, row_length, epochs, and examples: about as many are in an update's rows.
        dropout: everywhere.
        steps: updates; 0: as many as make args.epochs.
        seed: of the classifier's weights, the order of the rows and dropout.
        rank: of an adapter; 0: all is trained.
    """
    task, source = TASKS[name], DATA / "glue" / name
    rate = args.lora_rate if rank else args.rate
    words = ["--init-from", args.model, "--adapter.rank", rank, "--training.seed", seed]
    words += ["--data.train", training_file(source / "train.jsonl", args.limit), "--data.text-field", task.text]
    words += ["--data.validation", source / "validation.jsonl", "--data.pair-field", task.pair]
    words += ["--data.row-length", args.row_length, "--optimizer.learning-rate", rate]
    words += ["--model.dropout", dropout, "--model.attention-dropout", dropout, "--objective.dropout", dropout]
    config = load(task.recipe, [str(word) for word in words])
    with contextlib.redirect_stdout(sys.stderr):
        (store,) = prepare(config.data, find_start(args.model).tokenizer, "train")
    batch = max(1, round(args.examples * store.meta["rows"] / store.meta["pieces"]))
    steps = steps or round(args.epochs * store.meta["rows"] / batch)
    return dataclasses.replace(
        config, training=dataclasses.replace(config.training, batch_size=batch, steps=steps, epochs=0, batch_examples=0)
    )


def training_file(path: Path, limit: int) -> Path:
    """The file, or a copy of its first lines."""
    if not limit:
        return path
    folder = Path(tempfile.gettempdir()) / f"jaxencoder-finetune-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    short = folder / f"{path.parent.name}-{limit}.jsonl"
    with path.open(encoding="utf-8") as file:
        text = "".join(itertools.islice(file, limit))
    part = short.with_suffix(f".{os.getpid()}")
    part.write_text(text, encoding="utf-8")
    os.replace(part, short)
    return short


class Started(NamedTuple):
    """A run before its first update, by the parts of the trainer; `feed` gives its batches."""

    setup: Setup
    mesh: Mesh
    update: Any
    state: Any
    feed: Iterator[dict[str, jax.Array]]

    @property
    def params(self) -> dict[str, Any]:
        return jax.device_get(self.state.params)


@contextlib.contextmanager
def started(config: RunConfig) -> Iterator[Started]:
    with tempfile.TemporaryDirectory() as folder:
        with contextlib.redirect_stdout(sys.stderr):
            setup = set_up(config, Path(folder))
            mesh = make_mesh(config.mesh)
        with jax.set_mesh(mesh), contextlib.closing(Checkpoints(Path(folder) / "checkpoints")) as checkpoints:
            with contextlib.redirect_stdout(sys.stderr):
                (update,), state = compile_steps(setup, mesh, checkpoints)
            with contextlib.closing(feed_after(0, setup, mesh, lambda phase: None)) as feed:
                yield Started(setup, mesh, update, state, (batch for _, batch in feed))
