"""GLUE: fine-tune a model on its nine tasks and evaluate it by the leaderboard's metrics, in one command.

Wang et al. 2018, arXiv:1804.07461. Numbers of epochs are those of ELECTRA (Clark et al. 2020, arXiv:2003.10555,
appendix B: 3, and 10 for RTE and STS-B), but for small tasks, which need more updates (Mosbach et al. 2021,
arXiv:2006.04884; Zhang et al. 2021, arXiv:2006.05987).
"""

import os
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from jaxencoder.config import RunConfig
from jaxencoder.config_io import load, override
from jaxencoder.evaluation.suite import Outcome, Run, format_failures, run_suite
from jaxencoder.evaluation.tables import format_mean, markdown_table, mean_and_sd

MISMATCHED = "mismatched"


class Task(NamedTuple):
    """One of the tasks: names of its fields, metrics, and training."""

    text: str
    pair: str  # empty for single texts
    metrics: tuple[str, ...]  # the official ones, whose mean is the score
    epochs: int  # passes over the training data, with 32 examples per update
    row_length: int = 128  # tokens; only the longest examples are truncated


# The fastest first, so that the table fills early. RTE, MRPC, CoLA and STS-B have 2,490 to 8,551 examples and get more
# epochs than the large tasks. WNLI does not: its validation pairs repeat training pairs with other labels, and no small
# encoder beats the majority class. RTE and QNLI contain paragraphs.
TASKS = {
    "wnli": Task("sentence1", "sentence2", ("accuracy",), 3),
    "rte": Task("sentence1", "sentence2", ("accuracy",), 10, row_length=256),
    "mrpc": Task("sentence1", "sentence2", ("f1", "accuracy"), 5),
    "cola": Task("sentence", "", ("matthews",), 5),
    "stsb": Task("sentence1", "sentence2", ("pearson", "spearman"), 10),
    "sst2": Task("sentence", "", ("accuracy",), 3),
    "qnli": Task("question", "sentence", ("accuracy",), 3, row_length=256),
    "qqp": Task("question1", "question2", ("f1", "accuracy"), 3),
    "mnli": Task("premise", "hypothesis", ("accuracy",), 3),
}
FROM_MNLI = ("rte", "mrpc", "stsb")  # as for RoBERTa, Liu et al. 2019, arXiv:1907.11692, section 5.1


class Sources(NamedTuple):
    train: str
    validation: str
    mismatched: str = ""  # the second validation set of MNLI; empty for other tasks


@dataclass(frozen=True)
class GlueOptions:
    """How to fine-tune on GLUE."""

    seeds: Sequence[int] = (0,)  # each task is trained once with each
    tasks: Sequence[str] = ()  # names in `TASKS`; empty: all. Tasks without data are skipped and reported as missing
    overrides: Sequence[str] = ()  # command-line options for all tasks, such as ["--optimizer.learning-rate", "3e-4"]
    limit: int = 0  # number of training examples per task, the first ones of its file; 0: all
    from_mnli: bool = False  # initialize RTE, MRPC and STS-B from the MNLI run with the same seed


def run_glue(
    data: str | Path, init_from: str, folder: str | Path, options: GlueOptions = GlueOptions(), jobs: int = 1
) -> str:
    """Fine-tune and evaluate a model on GLUE.

    Args:
        data: a folder with TASK/train.jsonl and TASK/validation.jsonl (for MNLI validation_matched.jsonl and
            validation_mismatched.jsonl), or .parquet, with the fields and labels of TFDS's `glue`; or "tfds".
        init_from: the model, as for RunConfig.init_from.
        folder: has the runs TASK/seed_N/ and the suite's results.json and report.md.
        jobs: as for `run_suite`.

    Returns:
        The report: a table with each task's scores x 100 (mean and standard deviation over the seeds), seconds and
        tokens per second, and the average over the tasks with results.

    Raises:
        ValueError: an unknown task or setting, no task has data, or every run has failed.
    """
    folder, start_time = Path(os.path.abspath(folder)), time.perf_counter()
    init_from = os.path.abspath(init_from) if os.path.isdir(init_from) else init_from  # as results.json names it
    runs, missing = plan_runs(str(data), init_from, folder, options)
    groups = {name: [run.name for run in runs[name]] for name in TASKS if name in runs}

    def summarize(outcomes: dict[str, Outcome]) -> tuple[dict[str, Any], str]:
        summary = summarize_tasks(outcomes, groups, missing)
        return summary, format_report(summary, outcomes, init_from)

    if options.from_mnli:  # the other runs start from these
        run_suite(runs["mnli"], folder, summarize, jobs)
    outcomes = run_suite([run for group in runs.values() for run in group], folder, summarize, jobs)
    return f"{summarize(outcomes)[1]}\n\n{time.perf_counter() - start_time:.0f} seconds this time, all included."


def plan_runs(
    data: str, init_from: str, folder: Path, options: GlueOptions
) -> tuple[dict[str, list[Run]], dict[str, str]]:
    """The runs of each task, in the order of training, and the reasons why tasks are missing; see `run_glue`."""
    if options.limit < 0:
        raise ValueError(f"limit is {options.limit}; give a number of examples, or 0 for all")
    if unknown := [name for name in options.tasks if name not in TASKS]:
        raise ValueError(f"no task of GLUE is called {unknown[0]!r}; they are {', '.join(TASKS)}")
    tasks = [name for name in TASKS if name in options.tasks or not options.tasks]
    if options.from_mnli:
        if "mnli" not in tasks:
            raise ValueError("to start from MNLI needs a run on MNLI; put mnli among the tasks")
        tasks.sort(key=lambda name: name != "mnli")
    runs: dict[str, list[Run]] = {}
    missing: dict[str, str] = {}
    for name in tasks:
        sources = find_sources(data, name, options.limit)
        if isinstance(sources, str):
            missing[name] = sources
            print(f"Skipping {name}: {sources}", flush=True)
            continue
        extra_data = {MISMATCHED: sources.mismatched} if sources.mismatched else {}
        runs[name] = []
        for seed in dict.fromkeys(options.seeds):
            from_mnli = options.from_mnli and name in FROM_MNLI
            initial = str(folder / "mnli" / f"seed_{seed}") if from_mnli else init_from
            config = task_config(TASKS[name], sources, initial, seed, options.overrides)
            runs[name].append(Run(f"{name}/seed_{seed}", config, extra_data))
    if not runs:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in missing.items())
        raise ValueError(f"there is nothing to train on in {data}: {reasons}")
    if options.from_mnli and "mnli" in missing:
        raise ValueError(f"to start from MNLI needs a run on MNLI, but {missing['mnli']}")
    return runs, missing


def find_sources(data: str, task: str, limit: int = 0) -> Sources | str:
    """The sources of a task, or a sentence that names the missing one; FileNotFoundError if `data` is no folder."""
    first = f"[:{limit}]" if limit else ""
    if data == "tfds":
        name = f"tfds:glue/{task}:"
        splits = ["validation_matched", "validation_mismatched"] if task == "mnli" else ["validation"]
        return Sources(f"{name}train{first}", *(name + split for split in splits))
    if not Path(data).is_dir():
        raise FileNotFoundError(f"no folder {data}; name one with a folder for each task, or tfds")
    folder = Path(os.path.abspath(data)) / task

    def find(*splits: str) -> str:
        paths = (folder / f"{split}{ending}" for split in splits for ending in (".jsonl", ".parquet"))
        return next((str(path) for path in paths if path.is_file()), "")

    train, validation = find("train"), find("validation_matched", "validation")
    if not (train and validation):
        return f"no {folder / ('validation' if train else 'train')}.jsonl"
    return Sources(train + first, validation, find("validation_mismatched"))


def task_config(task: Task, sources: Sources, init_from: str, seed: int, overrides: Sequence[str] = ()) -> RunConfig:
    """The configuration of a task's run: the recipe, then the task's options, then the user's overrides."""
    config = load("finetune_classification", [
        *("--data.text-field", task.text, "--data.pair-field", task.pair, "--data.label-field", "label"),
        *("--data.row-length", str(task.row_length), "--training.epochs", str(task.epochs)),
        *("--training.num-evaluations", str(task.epochs), "--training.batch-examples", "32"),
        *("--training.checkpoint-every", "1000", "--training.keep-checkpoints", "1"),
        *("--optimizer.learning-rate", "1e-4"),
    ])  # fmt: skip
    data = replace(config.data, train=(sources.train,), validation=(sources.validation,))
    training = replace(config.training, seed=seed)
    return override(replace(config, init_from=init_from, data=data, training=training), overrides, "jaxencoder glue")


def summarize_tasks(
    outcomes: Mapping[str, Outcome], groups: Mapping[str, Sequence[str]], missing: Mapping[str, str]
) -> dict[str, Any]:
    """Scores x 100, as in results.json, from outcomes of runs, names of the runs of each task, and reasons for no runs.

    Returns:
        "tasks": {name: {metric: `mean_and_sd`, ..., "score": that of the mean of the metrics, "seconds",
        "tokens_per_second": means over the runs}}, "average" over the scores, None without scores, and "missing".
    """
    tasks, reasons = {}, dict(missing)
    for name, runs in groups.items():
        if finished := [outcomes[run] for run in runs if "results" in outcomes.get(run, {})]:
            tasks[name] = _task_scores(TASKS[name], finished)
    for name in TASKS:
        if name not in tasks and name not in missing:
            reasons[name] = "no run has ended" if name in groups else "not asked for"
    means = [task["score"]["mean"] for task in tasks.values()]
    return {"average": statistics.fmean(means) if means else None, "tasks": tasks, "missing": reasons}


def _task_scores(task: Task, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    values_by_metric = {
        metric if part == "validation" else f"{metric}, {part}": [100 * x["results"][part][metric] for x in outcomes]
        for part in ("validation", MISMATCHED)
        if part in outcomes[0]["results"]
        for metric in task.metrics
    }
    scores: dict[str, Any] = {label: mean_and_sd(values) for label, values in values_by_metric.items()}
    scores["score"] = mean_and_sd([statistics.fmean(values) for values in zip(*values_by_metric.values(), strict=True)])
    for name in ("seconds", "tokens_per_second"):
        values = [outcome[name] for outcome in outcomes if name in outcome]
        scores[name] = statistics.fmean(values) if values else None
    return scores


def format_report(summary: Mapping[str, Any], outcomes: Mapping[str, Outcome], init_from: str) -> str:
    """The table of tasks, the average and the missing tasks, as Markdown."""
    rows = []
    for name, scores in summary["tasks"].items():
        metrics = {key: value for key, value in scores.items() if isinstance(value, dict) and key != "score"}
        formatted = "; ".join(f"{metric} {format_mean(mean, digits=1)}" for metric, mean in metrics.items())
        speed = ["" if scores[key] is None else f"{scores[key]:,.0f}" for key in ("seconds", "tokens_per_second")]
        rows.append([name, formatted, format_mean(scores["score"], digits=1), str(scores["score"]["runs"]), *speed])
    lines = [f"GLUE of {init_from}, validation data, x 100"]
    if rows:
        lines.append(markdown_table(["task", "metrics", "score", "seeds", "seconds", "tokens/s"], rows))
        average = f"Average of {len(rows)} of the {len(TASKS)} tasks: {summary['average']:.1f}"
        lines.append(average + ("." if len(rows) == len(TASKS) else "; without the others it is no GLUE score."))
    if summary["missing"]:
        lines.append("Missing: " + "; ".join(f"{name} ({reason})" for name, reason in summary["missing"].items()))
    return "\n\n".join(lines + format_failures(outcomes))
