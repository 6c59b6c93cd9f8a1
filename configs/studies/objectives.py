"""Study of pretraining objectives at equal compute: a small encoder, real text, several seeds.

    python configs/studies/objectives.py --text novels.jsonl.xz textbooks.jsonl.xz reviews.jsonl.xz --glue GLUE_FOLDER

Every variant is pretrained with the same number of FLOPs (counted by `model.flops`), seeds and other settings. It is
measured by the held-out loss on the same masks (15% of single tokens; for replaced tokens, the generator's loss), and
by fine-tuning on SST-2, CoLA and RTE. GLUE_FOLDER holds sst2/train.jsonl, sst2/validation.jsonl and so on, with the
fields of the GLUE data sets.

Each result is one file in --runs, so that an interrupted command continues. After each result objectives.md and
objectives.png in --output are rewritten: mean and standard deviation over the seeds.

Cost: about two hours on 2 CPU cores with the defaults; --flops, --seeds and the sizes increase it. Two commands, each
pinned to one core (taskset -c 0 and -c 1) with half of the variants in --only, are faster and give the same results.
"""

import argparse
import dataclasses
import json
import math
import shutil
import statistics
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

import jaxencoder
from jaxencoder.config import (
    Classification,
    ComputeConfig,
    DataConfig,
    EncoderConfig,
    MaskedLM,
    Masking,
    OptimizerConfig,
    ReplacedToken,
    RunConfig,
    TokenizerConfig,
    TrainingConfig,
)
from jaxencoder.evaluation.evaluate import evaluate
from jaxencoder.files import write_atomic, write_table
from jaxencoder.text.batches import Batches
from jaxencoder.text.cache import prepare
from jaxencoder.training.loop import train
from jaxencoder.training.memory import keep_freed_memory
from jaxencoder.training.step import eval_step


class Variant(NamedTuple):
    """An objective, the sentence pairs that it needs, and the fraction of the FLOPs that it gets."""

    objective: MaskedLM | ReplacedToken
    pairs: str = "none"
    share: float = 1.0


VARIANTS = {
    "MLM 15%": Variant(MaskedLM()),
    "MLM 30%": Variant(MaskedLM(Masking(rate=0.3))),
    "MLM 45%": Variant(MaskedLM(Masking(rate=0.45))),
    "15%, all as [MASK]": Variant(MaskedLM(Masking(mask_probability=1.0, random_probability=0.0))),
    "whole words": Variant(MaskedLM(Masking(whole_words=True))),
    "spans": Variant(MaskedLM(Masking(spans="geometric"))),
    "MLM + NSP": Variant(MaskedLM(pairs=True), "nsp"),
    "MLM + SOP": Variant(MaskedLM(pairs=True), "sop"),
    "replaced tokens": Variant(ReplacedToken(generator_width=0.5)),
    "no pretraining": Variant(MaskedLM(), share=0.0),
}
# Task -> text and pair field, the metric of GLUE, and training steps.
TASKS = {
    "sst2": ("sentence", "", "accuracy", 300),
    "cola": ("sentence", "", "matthews", 100),
    "rte": ("sentence1", "sentence2", "accuracy", 75),
}
HELD_OUT_BATCHES = 64  # of 64 rows, drawn equally from all sources
MEASURES = {"loss": "held-out loss", "masked": "[MASK] only", "sst2": "SST-2", "cola": "CoLA", "rte": "RTE"}


def pretraining(name: str, seed: int, args: argparse.Namespace) -> RunConfig:
    """The run of a variant, with as many steps as its FLOPs allow."""
    objective, pairs, share = VARIANTS[name]
    model = EncoderConfig(
        vocab_size=args.vocabulary,
        num_layers=args.layers,
        hidden_size=args.hidden,
        mlp_size=2 * args.hidden,
        num_heads=args.hidden // 32,
        max_length=args.length,
        positions="rotary",
        norm_placement="pre",
        norm_epsilon=1e-5,
        first_attention_norm=False,
        gated_mlp=True,
        dropout=0.0,
        attention_dropout=0.0,
    )
    tokens = args.batch * args.length
    steps = max(1, round(share * args.flops / (tokens * objective.flops(model, args.length))))
    return RunConfig(
        name=f"{name}, seed {seed}",
        model=model,
        compute=ComputeConfig(dtype=args.dtype),
        objective=objective,
        tokenizer=TokenizerConfig(vocab_size=args.vocabulary),
        data=DataConfig(
            train=tuple(args.text), weights=(1.0,) * len(args.text), pairs=pairs, validation_fraction=0.02,
            row_length=args.length,
        ),
        optimizer=OptimizerConfig(
            name="muon", learning_rate=args.learning_rate, schedule="wsd", warmup_ratio=0.02, decay_ratio=0.3
        ),
        training=TrainingConfig(
            steps=steps, batch_size=args.batch, seed=seed, log_every=50, eval_every=0, eval_batches=8,
            checkpoint_every=10_000, keep_best=False, tensorboard=False,
        ),
    )  # fmt: skip


def fine_tuning(run: Path, task: str, seed: int, args: argparse.Namespace) -> RunConfig:
    text, pair, _, steps = TASKS[task]
    folder = Path(args.glue) / task
    return RunConfig(
        name=task,
        init_from=str(run),
        model=EncoderConfig(dropout=0.1, attention_dropout=0.1),  # the rest comes from the run
        compute=ComputeConfig(dtype=args.dtype),
        objective=Classification(pooling="mean"),
        data=DataConfig(
            train=(str(folder / "train.jsonl"),), validation=(str(folder / "validation.jsonl"),), text_field=text,
            pair_field=pair, label_field="label", row_length=args.length,
        ),
        optimizer=OptimizerConfig(learning_rate=1e-3, b2=0.999, warmup_ratio=0.1),
        training=TrainingConfig(
            steps=steps, batch_size=args.batch, seed=seed, log_every=50, eval_every=0, eval_batches=1,
            checkpoint_every=10_000, keep_best=False, tensorboard=False,
        ),
    )  # fmt: skip


def held_out_loss(run: Path) -> dict[str, float]:
    """Cross-entropy (nats) of the predicted tokens of held-out rows, the same rows and masks for every variant.

    "loss" is over all of them (80% replaced by [MASK], 10% by another token, 10% unchanged), "masked" over those
    replaced by [MASK], which every variant was trained on.
    """
    model = jaxencoder.load(run)
    model = model.generator or model
    config = model.config
    stores = prepare(dataclasses.replace(config.data, pairs="none"), model.tokenizer, "validation", progress=False)
    batches = Batches(stores, dataclasses.replace(config.data, weights=()), 64)
    objective = MaskedLM().build(config.model, model.compute, model.tokenizer)
    measure = jax.jit(lambda params, batch, key: eval_step(objective, params, batch, key))
    totals = np.zeros((2, 2))
    for number in range(min(batches.steps_per_epoch, HELD_OUT_BATCHES)):
        key = jax.random.fold_in(jax.random.key(0), number)
        metrics = measure(model.params, batches.batch(number), key)
        totals += np.array([metrics["loss"], metrics["loss_masked"]])
    return dict(zip(("loss", "masked"), (totals[:, 0] / totals[:, 1]).tolist(), strict=True))


def measured(name: str, seed: int, args: argparse.Namespace) -> dict[str, float]:
    """Pretrain and measure a variant."""
    folder = Path(args.runs) / f"{list(VARIANTS).index(name)}-{seed}"
    shutil.rmtree(folder, ignore_errors=True)
    config = pretraining(name, seed, args)
    train(config, folder / "pretrained")
    result = {"steps": config.training.steps}
    if VARIANTS[name].share:
        result |= held_out_loss(folder / "pretrained")
    for task, (_, _, metric, _) in TASKS.items():
        train(fine_tuning(folder / "pretrained", task, seed, args), folder / task)
        result[task] = 100 * evaluate(folder / task)[metric]
    shutil.rmtree(folder)
    return result


def result_file(name: str, seed: int, args: argparse.Namespace) -> Path:
    return Path(args.runs) / f"{list(VARIANTS).index(name)}-{seed}.json"


def report(args: argparse.Namespace) -> None:
    """Write the table and the plot of all results so far."""
    results = {}
    for name in VARIANTS:
        files = [file for seed in range(args.seeds) if (file := result_file(name, seed, args)).exists()]
        if files:
            results[name] = [json.loads(file.read_text()) for file in files]
    write_table(args.output / "objectives.md", text_report(results, args), "# Objectives")
    plot(results, args.output / "objectives.png")


def text_report(results: dict[str, list[dict[str, float]]], args: argparse.Namespace) -> str:
    lines = [
        f"| objective | steps | {' | '.join(MEASURES.values())} |",
        f"|---|---:|{'---:|' * len(MEASURES)}",
    ]
    for name, seeds in results.items():
        cells = []
        for measure in MEASURES:
            values = [result[measure] for result in seeds if measure in result]
            spread = statistics.stdev(values) if len(values) > 1 else math.nan
            digits = 1 if measure in TASKS else 3
            cells.append(f"{statistics.mean(values):.{digits}f} ± {spread:.{digits}f}" if values else "")
        steps = seeds[0]["steps"]
        lines.append(f"| {name} | {steps:.0f} | {' | '.join(cells)} |")
    fewest = min(map(len, results.values()))
    seeds = f"{args.seeds} seeds" if fewest == args.seeds else f"{fewest} to {args.seeds} seeds so far"
    size = f"{args.layers} layers of {args.hidden}, vocabulary {args.vocabulary}, rows of {args.length} tokens"
    head = f"{size}, {args.flops:.2g} FLOPs of pretraining each, {seeds}: mean ± standard deviation."
    return "\n".join([head, "", *lines, ""])


def plot(results: dict[str, list[dict[str, float]]], file: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(MEASURES), figsize=(15, 4.2), sharey=True, layout="constrained")
    for axis, (measure, title) in zip(axes, MEASURES.items(), strict=True):
        for row, seeds in enumerate(results.values()):
            values = [result[measure] for result in seeds if measure in result]
            axis.plot(values, [row] * len(values), "o", color="tab:blue", alpha=0.5)
            axis.plot([statistics.mean(values)] if values else [], [row] * bool(values), "|", color="black", ms=18)
        axis.set_title(title)
        axis.grid(axis="x", alpha=0.3)
    axes[0].set_yticks(range(len(results)), results)
    axes[0].invert_yaxis()
    figure.savefig(file, dpi=120)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", nargs="+", required=True, help="sources of pretraining, equally weighted")
    parser.add_argument("--glue", required=True, help="folder with sst2, cola and rte")
    parser.add_argument("--runs", default="runs/study-objectives")
    parser.add_argument("--output", type=Path, default=Path("docs/studies"))
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="VARIANT")
    parser.add_argument("--flops", type=float, default=1e13)
    for name, value in (("seeds", 3), ("layers", 3), ("hidden", 128), ("length", 128), ("batch", 16)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--vocabulary", type=int, default=4096)
    parser.add_argument("--learning-rate", type=float, default=4e-3)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    args = parser.parse_args()
    keep_freed_memory()
    runs = Path(args.runs)
    runs.mkdir(parents=True, exist_ok=True)
    jax.config.update("jax_compilation_cache_dir", str(runs / "programs"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)

    args.output.mkdir(parents=True, exist_ok=True)
    for seed in range(args.seeds):
        for name in args.only:
            file = result_file(name, seed, args)
            if not file.exists():
                result = measured(name, seed, args)
                write_atomic(file, json.dumps(result) + "\n")
                print(f"\n{name}, seed {seed}: {result}\n", flush=True)
                report(args)
    report(args)


if __name__ == "__main__":
    main()
