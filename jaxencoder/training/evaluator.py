"""Evaluation on the held-out rows during training, the unigram baseline, and early stopping."""

import json
import math
from collections.abc import Callable, Collection
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxencoder.adapters.lora import with_lora
from jaxencoder.model.config import EncoderConfig
from jaxencoder.objectives.objective import Metrics
from jaxencoder.sharding import batch_sharding
from jaxencoder.text.batches import Batches, prefetch
from jaxencoder.text.sources.files import source_names
from jaxencoder.text.store import Store
from jaxencoder.training.agreement import of_first_process
from jaxencoder.training.config import TrainingConfig
from jaxencoder.training.resolve import unique_stores
from jaxencoder.training.setup import Setup
from jaxencoder.training.step import TrainState, eval_step, means
from jaxencoder.training.telemetry import METRICS_FILE


def evaluator(setup: Setup, mesh: Mesh) -> Callable[[TrainState], dict[str, float]]:
    """A function from the state to the metrics on the held-out rows, with the same rows and masks every time.

    It uses the model of the state's phase. With several sources, such as languages, each also has its own loss,
    "loss_SOURCE".
    """
    config, settings = setup.config, setup.config.training
    if not setup.validation:
        return lambda state: {}
    limit = -(-settings.eval_batches // len(setup.validation))  # batches per source; 0: all
    sources, names = {}, source_names([store.meta["source"] for store in setup.validation])
    for name, store in zip(names, setup.validation, strict=True):
        batches = Batches((store,), config.data, settings.batch_size, settings.seed, shuffle=False)
        sources[name] = batches, min(limit or batches.steps_per_epoch, batches.steps_per_epoch)
    key = jax.random.key(settings.seed + 1)
    masked_loss = config.objective.masked_loss
    baseline = unigram_loss(unique_stores(setup.train), setup.validation) if masked_loss else math.nan

    @cache
    def compiled(model: EncoderConfig) -> Callable:
        objective = config.objective.build(model, config.compute, setup.tokenizer)
        return jax.jit(partial(eval_step, with_lora(config.adapter, objective)))

    def evaluate(state: TrainState) -> dict[str, float]:
        params = state.params if state.ema is None else state.ema
        run = compiled(config.at_step(int(state.step)).model)
        totals, number = {}, 0  # batches are numbered over all sources: the same masks every time
        for name, (batches, count) in sources.items():
            total: Any = None
            for batch in prefetch(batches, range(count), partial(batch_sharding, mesh)):
                metrics = run(params, batch, jax.random.fold_in(key, number))
                total = metrics if total is None else jax.tree.map(jnp.add, total, metrics)
                number += 1
            totals[name] = jax.device_get(total)
        result = means(_summed(totals.values()))
        if masked_loss:
            result |= {"perplexity": math.exp(min(result[masked_loss], 700.0)), "unigram_loss": baseline}
        if len(totals) > 1:
            result |= {f"loss_{name}": means(metrics)["loss"] for name, metrics in totals.items()}
        return result

    return evaluate


def _summed(parts: Collection[Metrics]) -> Metrics:
    """The sum of each metric over the parts that have it: single texts have no accuracy."""
    names = dict.fromkeys(name for part in parts for name in part)
    of_name = {name: [part[name] for part in parts if name in part] for name in names}
    return {name: jax.tree.map(lambda *terms: sum(terms), *metrics) for name, metrics in of_name.items()}


def best_metric(setup: Setup) -> str:
    """The metric that decides which checkpoint is the best, empty if none is kept.

    ValueError if it is unknown, or if training.patience is set without held-out rows.
    """
    settings = setup.config.training
    if not (settings.keep_best and (setup.validation or settings.evaluations)):
        if settings.patience:
            raise ValueError(f"training.patience is {settings.patience}, but no data is held out; set it to 0.")
        return ""
    names = [*_objective_metrics(setup), *settings.evaluation_metrics]
    if settings.best_metric not in names:
        raise ValueError(
            f"training.best_metric is {settings.best_metric!r}, but this run measures {', '.join(names)}; "
            "choose one of them, or set training.keep_best to false."
        )
    return settings.best_metric


def _objective_metrics(setup: Setup) -> list[str]:
    """Names of the metrics on the held-out rows."""
    if not setup.validation:
        return []
    key, settings = jax.random.key(0), setup.config.training
    batch = Batches(setup.validation, setup.config.data, settings.batch_size, shuffle=False).batch(0)
    metrics = jax.eval_shape(partial(eval_step, setup.objective), jax.eval_shape(setup.objective.init, key), batch, key)
    return [*metrics, *(("perplexity",) if setup.config.objective.masked_loss else ())]


def unigram_loss(train: tuple[Store, ...], validation: tuple[Store, ...]) -> float:
    """Cross-entropy (nats per token) of the held-out tokens under the training tokens' frequencies, plus-1 smoothed."""
    counts = sum((np.asarray(store.meta["token_counts"], np.float64) for store in train), np.float64(1))
    held_out = sum((np.asarray(store.meta["token_counts"], np.float64) for store in validation), np.float64(0))
    return float(-(held_out * np.log(counts / counts.sum())).sum() / max(held_out.sum(), 1))


def past_evaluations(run_dir: Path, step: int) -> list[dict[str, float]]:
    """The held-out metrics of a run up to a step, in order, NaN where one was not finite. Every process must call it.

    They are read from metrics.jsonl, so that an interrupted run stops at the same step as an uninterrupted one. Later
    evaluations will be repeated.
    """
    # Only process 0 writes the file, and other hosts may not see it.
    return of_first_process(_read(run_dir / METRICS_FILE, step) if jax.process_index() == 0 else [])


def _read(path: Path, step: int) -> list[dict[str, float]]:
    if not (step and path.is_file()):
        return []
    with path.open(encoding="utf-8") as file:
        records = [json.loads(line) for line in file if '"validation_' in line and line.endswith("\n")]
    return [
        {name.removeprefix("validation_"): math.nan if x is None else x for name, x in record.items() if name != "step"}
        for record in records
        if record["step"] <= step
    ]


def should_stop(evaluations: list[dict[str, float]], settings: TrainingConfig) -> bool:
    """Whether training.patience evaluations have passed since the best one (Prechelt 1998, Early Stopping, but when?).

    Among equal results the first is the best; a result that is not finite is the worst.
    """
    sign = 1 if settings.best_mode == "max" else -1
    values = [sign * result[settings.best_metric] for result in evaluations if settings.best_metric in result]
    values = [x if math.isfinite(x) else -math.inf for x in values]
    return 0 < settings.patience < len(values) - values.index(max(values)) if values else False
