"""The tasks of the fine-tuning benchmarks, their configurations, and a run before its first update."""

import argparse
import contextlib
import dataclasses
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh
from train_step import DATA  # sets JAX_PLATFORMS

from jaxencoder.checkpoints.initial import open_initial_model
from jaxencoder.checkpoints.orbax import CheckpointManager
from jaxencoder.config import RunConfig
from jaxencoder.config_io import load
from jaxencoder.sharding import make_mesh
from jaxencoder.text.cache import prepare
from jaxencoder.training.phases import batches_after, compile_updates
from jaxencoder.training.setup import Setup, set_up


class Task(NamedTuple):
    """A data set and its metrics.

    Attributes:
        metrics: names in the results of `jaxencoder.evaluation`.
        fields: of the records, if they differ from the recipe's.
        recipe: of the kind of task.
        files: of training and validation, in the folder of data sets, with {} for the task's name; without the second
            one, a tenth of the first is held out.
        row_length: tokens; 0: that of the command line.
    """

    metrics: tuple[str, ...]
    fields: Mapping[str, str] = MappingProxyType({})
    recipe: str = "finetune_classification"
    files: tuple[str, str] = ("glue/{}/train.jsonl", "glue/{}/validation.jsonl")
    row_length: int = 0


ONE, TWO = {"text_field": "sentence"}, {"text_field": "sentence1", "pair_field": "sentence2"}
WORDS = ("ner/{}/train.jsonl", "ner/{}/validation.jsonl")
TASKS = {
    "cola": Task(("matthews",), ONE),
    "sst2": Task(("accuracy",), ONE),
    "mrpc": Task(("f1", "accuracy"), TWO),
    "rte": Task(("accuracy",), TWO),
    "stsb": Task(("pearson", "spearman"), TWO),
    "wnut17": Task(("f1",), recipe="finetune_token_classification", files=WORDS),
    # This copy of the published development file has no answers.
    "tydiqa": Task(
        ("f1", "exact"), recipe="finetune_question_answering", files=("qa/{}/en.train.json", ""), row_length=384
    ),
}


def task_config(
    name: str, args: argparse.Namespace, *, dropout: float, steps: int = 0, seed: int = 0, rank: int = 0
) -> RunConfig:
    """The configuration of a task's run.

    Args:
        name: of the task.
        args: model, rate, lora_rate, limit, row_length, epochs, and examples, the approximate number per update.
        dropout: for all kinds of dropout.
        steps: number of updates; 0: args.epochs.
        seed: of the classifier's weights, the order of the rows and dropout.
        rank: of LoRA; 0: all parameters are trained.
    """
    task = TASKS[name]
    train, validation = (DATA / path.format(name) if path else None for path in task.files)
    rate = args.lora_rate if rank else args.rate
    options = ["--init-from", args.model, "--adapter.rank", rank, "--training.seed", seed]
    options += ["--data.train", f"{train}[:{args.limit}]" if args.limit else train, "--optimizer.learning-rate", rate]
    options += ["--data.validation", validation] if validation else ["--data.validation-fraction", 0.1]
    options += ["--data.row-length", task.row_length or args.row_length]
    options += [x for field, value in task.fields.items() for x in (f"--data.{field}", value)]
    options += ["--model.dropout", dropout, "--model.attention-dropout", dropout]
    # transformers has no dropout before the projection of a question-answering model.
    options += [] if task.recipe == "finetune_question_answering" else ["--objective.dropout", dropout]
    config = load(task.recipe, [str(option) for option in options])
    with contextlib.redirect_stdout(sys.stderr):
        (store,) = prepare(config.data, open_initial_model(args.model).tokenizer, "train", schema=config.schema)
    batch = max(1, round(args.examples * store.meta["rows"] / store.meta["pieces"]))
    steps = steps or round(args.epochs * store.meta["rows"] / batch)
    return dataclasses.replace(
        config, training=dataclasses.replace(config.training, batch_size=batch, steps=steps, epochs=0, batch_examples=0)
    )


class StartedRun(NamedTuple):
    """The trainer's parts of a run before its first update; `feed` yields its batches."""

    setup: Setup
    mesh: Mesh
    update: Any
    state: Any
    feed: Iterator[dict[str, jax.Array]]

    @property
    def params(self) -> dict[str, Any]:
        return jax.device_get(self.state.params)


@contextlib.contextmanager
def start_run(config: RunConfig) -> Iterator[StartedRun]:
    with tempfile.TemporaryDirectory() as folder:
        with contextlib.redirect_stdout(sys.stderr):
            setup = set_up(config, Path(folder))
            mesh = make_mesh(config.mesh)
        with jax.set_mesh(mesh), contextlib.closing(CheckpointManager(Path(folder) / "checkpoints")) as checkpoints:
            with contextlib.redirect_stdout(sys.stderr):
                (update,), state = compile_updates(setup, mesh, checkpoints)
            with contextlib.closing(batches_after(0, setup, mesh, lambda phase: None)) as feed:
                yield StartedRun(setup, mesh, update, state, (batch for _, batch in feed))
