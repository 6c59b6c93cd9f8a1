"""GLUE: its nine tasks fine-tuned and measured in one command, by the metrics of its leaderboard.

Wang et al. 2018, arXiv:1804.07461. The numbers of epochs are those of ELECTRA (Clark et al. 2020, arXiv:2003.10555,
appendix B: 3, and 10 for RTE and STS-B) but for small tasks, which want more updates than that (Mosbach et al. 2021,
arXiv:2006.04884; Zhang et al. 2021, arXiv:2006.05987).
"""

import dataclasses
import os
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxencoder.config import RunConfig
from jaxencoder.config_io import load, override
from jaxencoder.evaluation.suite import Outcome, Run, markdown, mean_and_sd, perform, spread, told

RECIPE = "finetune_classification"
MISMATCHED = "mismatched"


class Task(NamedTuple):
    """One of the tasks.

    text, pair: fields; no pair: single texts.
    metrics: the official ones, whose mean is the score.
    epochs: passes over the training data; with 32 examples an update.
    row_length: long enough for all but the longest examples; the rest is truncated.
    """

    text: str
    pair: str
    metrics: tuple[str, ...]
    epochs: int
    row_length: int = 128

    @property
    def words(self) -> tuple[str, ...]:
        """The task as settings of the recipe."""
        return (
            *("--data.text-field", self.text, "--data.pair-field", self.pair, "--data.label-field", "label"),
            *("--data.row-length", str(self.row_length), "--training.epochs", str(self.epochs)),
            *("--training.num-evaluations", str(self.epochs), "--training.batch-examples", "32"),
            *("--training.checkpoint-every", "1000", "--training.keep-checkpoints", "1"),
            *("--optimizer.learning-rate", "1e-4"),
        )


# From the fastest to the slowest, so that the table says much early. RTE, MRPC, CoLA and STS-B have 2,490 to 8,551
# examples and are given more epochs than the large ones. WNLI's pairs come again in its other split with other labels:
# no small encoder beats the more frequent class there, and more epochs would be for nothing. RTE and QNLI have
# paragraphs among their texts.
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
FROM_MNLI = ("rte", "mrpc", "stsb")  # as RoBERTa has it, Liu et al. 2019, arXiv:1907.11692, section 5.1


class Sources(NamedTuple):
    """Of a task what to train and to measure on; `mismatched` is MNLI's second set, empty if there is none."""

    train: str
    validation: str
    mismatched: str = ""


def glue(
    data: str | Path,
    init_from: str,
    folder: str | Path,
    seeds: Sequence[int] = (0,),
    tasks: Sequence[str] = (),
    words: Sequence[str] = (),
    limit: int = 0,
    from_mnli: bool = False,
    jobs: int = 1,
) -> str:
    """Fine-tune and measure a model on GLUE.

    Args:
        data: a folder with TASK/train.jsonl and TASK/validation.jsonl (of MNLI also validation_matched.jsonl and
            validation_mismatched.jsonl), as .parquet too, with the fields and labels of TFDS's `glue`; or "tfds".
        init_from: the model, as RunConfig.init_from.
        folder: TASK/seed_N/ are the runs; results.json and report.md are kept up to date.
        seeds: each task is trained once with each.
        tasks: some of `TASKS`; empty: all. One without data is skipped and said to be missing.
        words: command-line words for all tasks, such as ["--optimizer.learning-rate", "3e-4"].
        limit: train on so many examples of each task, the first of its file; 0: all.
        from_mnli: RTE, MRPC and STS-B start from the run on MNLI with the same seed.
        jobs: runs at a time, see `perform`.

    Returns:
        The report: a table with each task's scores x 100 (mean and standard deviation over the seeds), seconds and
        tokens a second, and the average over the tasks that have run.

    Raises:
        ValueError: a task or a setting is unknown, no task has data, or every run has failed.
        OSError: the data cannot be found, or the folder cannot be written.
    """
    if limit < 0:
        raise ValueError(f"limit is {limit}; give a number of examples, or 0 for all")
    chosen = _chosen(tasks)
    if from_mnli and "mnli" not in chosen:
        raise ValueError("to start from MNLI needs a run on MNLI; put mnli among the tasks")
    folder, began = Path(os.path.abspath(folder)), time.perf_counter()
    init_from = os.path.abspath(init_from) if os.path.isdir(init_from) else str(init_from)  # the same from anywhere
    missing: dict[str, str] = {}
    runs: dict[tuple[str, int], Run] = {}
    for name in chosen:
        found = find_sources(str(data), name, limit)
        if isinstance(found, str):
            missing[name] = found
            print(f"Skipping {name}: {found}", flush=True)
            continue
        for seed in dict.fromkeys(seeds):
            start = str(folder / "mnli" / f"seed_{seed}") if from_mnli and name in FROM_MNLI else init_from
            config = settings(TASKS[name], found, start, seed, words)
            others = {MISMATCHED: found.mismatched} if found.mismatched else {}
            runs[name, seed] = Run(f"{name}/seed_{seed}", config, others)
    if not runs:
        raise ValueError(
            f"there is nothing to train on in {data}: " + "; ".join(f"{n}: {w}" for n, w in missing.items())
        )
    if from_mnli and "mnli" in missing:
        raise ValueError(f"to start from MNLI needs a run on MNLI, but {missing['mnli']}")
    groups: dict[str, list[str]] = {}
    for (name, _), run in runs.items():
        groups.setdefault(name, []).append(run.name)
    report = ""

    def summarize(outcomes: dict[str, Outcome]) -> tuple[dict[str, Any], str]:
        nonlocal report
        summary = summary_of(outcomes, groups, missing)
        report = report_of(summary, outcomes, init_from)
        return summary, report

    def order(key: tuple[str, int]) -> int:
        return -1 if from_mnli and key[0] == "mnli" else list(TASKS).index(key[0])

    ordered = [runs[key] for key in sorted(runs, key=order)]
    if from_mnli:  # those that others start from come to their end before
        perform([run for run in ordered if run.name.startswith("mnli/")], folder, summarize, jobs)
    perform(ordered, folder, summarize, jobs)
    return f"{report}\n\n{time.perf_counter() - began:.0f} seconds this time, all included."


def _chosen(tasks: Sequence[str]) -> list[str]:
    unknown = [name for name in tasks if name not in TASKS]
    if unknown:
        raise ValueError(f"no task of GLUE is called {unknown[0]!r}; they are {', '.join(TASKS)}")
    return [name for name in TASKS if name in tasks or not tasks]


def find_sources(data: str, task: str, limit: int = 0) -> Sources | str:
    """The sources of a task, or a sentence that says what is missing.

    Raises:
        FileNotFoundError: no such folder.
    """
    first = f"[:{limit}]" if limit else ""
    if data == "tfds":
        name = f"tfds:glue/{task}"
        if task == "mnli":
            return Sources(f"{name}:train{first}", f"{name}:validation_matched", f"{name}:validation_mismatched")
        return Sources(f"{name}:train{first}", f"{name}:validation")
    if not Path(data).is_dir():
        raise FileNotFoundError(f"no folder {data}; name one with a folder for each task, or tfds")
    data = os.path.abspath(data)
    there = {}
    for split in ("train", "validation", "validation_matched", "validation_mismatched"):
        paths = (Path(data) / task / f"{split}{ending}" for ending in (".jsonl", ".parquet"))
        there[split] = next((str(path) for path in paths if path.is_file()), "")
    validation = there["validation_matched"] or there["validation"]
    for split, path in (("train", there["train"]), ("validation", validation)):
        if not path:
            return f"no {Path(data) / task / split}.jsonl"
    return Sources(there["train"] + first, validation, there["validation_mismatched"])


def settings(task: Task, sources: Sources, init_from: str, seed: int, words: Sequence[str] = ()) -> RunConfig:
    """The run of a task: the recipe, the task's settings, and over both the user's words."""
    config = load(RECIPE, task.words)
    data = dataclasses.replace(config.data, train=(sources.train,), validation=(sources.validation,))
    training = dataclasses.replace(config.training, seed=seed)
    return override(
        dataclasses.replace(config, init_from=init_from, data=data, training=training), words, "jaxencoder glue"
    )


def summary_of(
    outcomes: Mapping[str, Outcome], groups: Mapping[str, Sequence[str]], missing: Mapping[str, str]
) -> dict[str, Any]:
    """What results.json says of the tasks, scores x 100.

    Returns:
        "tasks": {name: {metric: {"mean", "sd", "runs"}, ..., "score": the same of their mean, "seconds",
        "tokens_per_second": means of the runs}}, "average" of the scores, None if there are none, and "missing".
    """
    tasks = {}
    for name, runs in groups.items():
        ended = [outcomes[run] for run in runs if "results" in outcomes.get(run, {})]
        if ended:
            tasks[name] = _scores(TASKS[name], ended)
    means = [task["score"]["mean"] for task in tasks.values()]
    why = {name: why for name, why in missing.items()}
    for name in TASKS:
        if name not in tasks and name not in why:
            why[name] = "no run has ended" if name in groups else "not asked for"
    return {"average": statistics.fmean(means) if means else None, "tasks": tasks, "missing": why}


def _scores(task: Task, ended: Sequence[Outcome]) -> dict[str, Any]:
    found, by_seed = {}, [[] for _ in ended]
    for part in ("validation", MISMATCHED):
        metrics = spread(ended, part)
        for metric in task.metrics if metrics else ():
            label = metric if part == "validation" else f"{metric}, {part}"
            values = [100 * one["results"][part][metric] for one in ended]
            found[label] = mean_and_sd(values)
            for scores, value in zip(by_seed, values, strict=True):
                scores.append(value)
    found["score"] = mean_and_sd([statistics.fmean(scores) for scores in by_seed])
    for name in ("seconds", "tokens_per_second"):
        values = [one[name] for one in ended if name in one]
        found[name] = statistics.fmean(values) if values else None
    return found


def report_of(summary: Mapping[str, Any], outcomes: Mapping[str, Outcome], init_from: str) -> str:
    """The table, the average and what is missing, as Markdown."""
    rows = []
    for name, found in summary["tasks"].items():
        metrics = "; ".join(
            f"{metric} {told(part, digits=1)}"
            for metric, part in found.items()
            if isinstance(part, dict) and metric != "score"
        )
        speed = [f"{found[x]:,.0f}" if found[x] is not None else "" for x in ("seconds", "tokens_per_second")]
        rows.append([name, metrics, told(found["score"], digits=1), str(found["score"]["runs"]), *speed])
    lines = [f"GLUE of {init_from}, validation data, x 100"]
    if rows:
        lines.append(markdown(["task", "metrics", "score", "seeds", "seconds", "tokens/s"], rows))
        count = len(rows)
        average = f"Average of {count} of the {len(TASKS)} tasks: {summary['average']:.1f}"
        lines.append(average + ("." if count == len(TASKS) else "; without the others it is no GLUE score."))
    if summary["missing"]:
        lines.append("Missing: " + "; ".join(f"{name} ({why})" for name, why in summary["missing"].items()))
    lines += [
        f"{name} has {how}: {one[how]}"
        for name, one in outcomes.items()
        for how in ("diverged", "failed")
        if how in one
    ]
    return "\n\n".join(lines)
