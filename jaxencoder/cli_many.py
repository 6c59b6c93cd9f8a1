"""The verbs of many runs in one command, `sweep` and `glue`: their options, and what they call."""

import argparse
from collections.abc import Callable
from pathlib import Path

from jaxencoder.cli_options import keep_freed_memory

# As TASKS of tasks/glue.py, which would load jax.
GLUE_TASKS = ("wnli", "rte", "mrpc", "cola", "stsb", "sst2", "qnli", "qqp", "mnli")


def add_sweep(verbs, with_overrides: Callable, load: Callable) -> None:
    """The verb `sweep`; the two functions are those of the command line for a verb that takes a recipe."""

    def run(args: argparse.Namespace) -> None:
        config = load(args)
        if args.run_dir is None:
            args.parser.error("name the folder of the runs with --run-dir")
        keep_freed_memory()
        from jaxencoder.tasks.sweep import sweep

        print(sweep(config, args.run_dir, args.seeds, args.vary, args.jobs))

    parser = with_overrides(verbs, "sweep", run, "train and measure a recipe over a grid of settings and seeds")
    parser.add_argument(
        "--vary",
        action="append",
        default=[],
        metavar="NAME=VALUE,VALUE",
        help="a setting and its values, such as optimizer.learning_rate=1e-4,3e-4; again for another",
    )
    _common(parser, [], "seeds, over which results are averaged (default: the recipe's own)")


def add_glue(verbs, verb: Callable) -> None:
    """The verb `glue`."""

    def run(args: argparse.Namespace) -> None:
        if args.run_dir is None:
            args.parser.error("name the folder of the runs with --run-dir")
        keep_freed_memory()
        from jaxencoder.tasks.glue import glue

        options = {name: getattr(args, name) for name in ("seeds", "tasks", "limit", "from_mnli", "jobs")}
        print(glue(args.data, args.init_from, args.run_dir, words=args.overrides, **options))

    parser = verb(
        verbs,
        "glue",
        run,
        "fine-tune a model on GLUE's tasks and measure it",
        epilog="settings of finetune_classification follow, for all tasks, such as --optimizer.learning-rate 3e-4",
    )
    parser.add_argument("data", metavar="DATA", help="folder with TASK/train.jsonl and TASK/validation.jsonl, or tfds")
    parser.add_argument("--init-from", required=True, metavar="MODEL", help="the model, as of train --init-from")
    parser.add_argument(
        "--tasks",
        nargs="+",
        default=[],
        choices=GLUE_TASKS,
        metavar="TASK",
        help=f"some of {', '.join(GLUE_TASKS)} (default: all)",
    )
    parser.add_argument("--limit", type=int, default=0, metavar="N", help="train on the first N examples of each task")
    parser.add_argument("--from-mnli", action="store_true", help="start rte, mrpc and stsb from the run on mnli")
    _common(parser, [0], "seeds, over which scores are averaged (default: 0)")
    parser.set_defaults(rest=True)


def _common(parser: argparse.ArgumentParser, seeds: list[int], help: str) -> None:
    parser.add_argument("--run-dir", type=Path, metavar="DIR", help="folder of the runs, results.json and report.md")
    parser.add_argument("--seeds", nargs="+", type=int, default=seeds, metavar="N", help=help)
    parser.add_argument(
        "--jobs",
        type=int,
        default=1,
        metavar="N",
        help="runs at a time, each on its share of the cores; 1 on an accelerator (default: 1)",
    )
