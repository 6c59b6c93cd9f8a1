"""Evaluation on the held-out rows during training, and the unigram baseline."""

import functools
import math
from collections.abc import Callable
from functools import partial
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
from jaxencoder.text.store import Store
from jaxencoder.training.resolve import unique_stores
from jaxencoder.training.setup import Setup
from jaxencoder.training.step import TrainState, eval_step


def evaluator(setup: Setup, mesh: Mesh) -> Callable[[TrainState], dict[str, float]]:
    """A function from the state to the metrics on the held-out rows, with the same rows and masks every time.

    It uses the model of the state's phase. With several sources, such as languages, each also has its own loss,
    "loss_SOURCE".
    """
    config, settings = setup.config, setup.config.training
    if not setup.validation:
        return lambda state: {}
    limit = -(-settings.eval_batches // len(setup.validation))  # batches per source
    sources = {}
    for name, store in zip(_source_names(setup.validation), setup.validation, strict=True):
        batches = Batches((store,), config.data, settings.batch_size, settings.seed, shuffle=False)
        sources[name] = batches, min(limit or batches.steps_per_epoch, batches.steps_per_epoch)
    key = jax.random.key(settings.seed + 1)
    masked_loss = config.objective.masked_loss
    baseline = unigram_loss(unique_stores(setup.train), setup.validation) if masked_loss else math.nan

    @functools.cache
    def compiled(model: EncoderConfig) -> Callable:
        objective = config.objective.build(model, config.compute, setup.tokenizer)
        return jax.jit(partial(eval_step, with_lora(config.adapter, objective)))

    def measure(run: Callable, params: Any, batches: Batches, count: int, first: int) -> Metrics:
        total: Any = None
        for i, batch in enumerate(prefetch(batches, range(count), partial(batch_sharding, mesh)), first):
            metrics = run(params, batch, jax.random.fold_in(key, i))
            total = metrics if total is None else jax.tree.map(jnp.add, total, metrics)
        return jax.device_get(total)

    def evaluate(state: TrainState) -> dict[str, float]:
        params = state.params if state.ema is None else state.ema
        run = compiled(config.at_step(int(state.step)).model)
        totals, first = {}, 0
        for name, (batches, count) in sources.items():
            totals[name] = measure(run, params, batches, count, first)
            first += count
        result = means(jax.tree.map(lambda *parts: sum(parts), *totals.values()))
        if masked_loss:
            result |= {"perplexity": math.exp(min(result[masked_loss], 700.0)), "unigram_loss": baseline}
        if len(totals) > 1:
            result |= {f"loss_{name}": means(metrics)["loss"] for name, metrics in totals.items()}
        return result

    return evaluate


def best_metric(setup: Setup) -> str:
    """The metric that decides which checkpoint is the best; empty if none is kept.

    Raises:
        ValueError: the objective does not have training.best_metric, or training.patience has no held-out rows.
    """
    settings = setup.config.training
    if not (settings.keep_best and setup.validation):
        if settings.patience:
            raise ValueError(f"training.patience is {settings.patience}, but no data is held out; set it to 0.")
        return ""
    key = jax.random.key(0)
    batch = Batches(setup.validation, setup.config.data, settings.batch_size, shuffle=False).batch(0)
    metrics = jax.eval_shape(partial(eval_step, setup.objective), jax.eval_shape(setup.objective.init, key), batch, key)
    names = [*metrics, *(("perplexity",) if setup.config.objective.masked_loss else ())]
    if settings.best_metric not in names:
        raise ValueError(
            f"training.best_metric is {settings.best_metric!r}, but this objective measures {', '.join(names)}; "
            "choose one of them, or set training.keep_best to false."
        )
    return settings.best_metric


def means(metrics: Metrics) -> dict[str, float]:
    """(sum, weight) pairs as weighted means."""
    return {name: float(total) / max(float(weight), 1e-9) for name, (total, weight) in metrics.items()}


def unigram_loss(train: tuple[Store, ...], validation: tuple[Store, ...]) -> float:
    """Cross-entropy (nats per token) of the held-out tokens under the training tokens' frequencies, plus-1 smoothed."""
    counts = sum((np.asarray(store.meta["token_counts"], np.float64) for store in train), np.float64(1))
    held_out = sum((np.asarray(store.meta["token_counts"], np.float64) for store in validation), np.float64(0))
    return float(-(held_out * np.log(counts / counts.sum())).sum() / max(held_out.sum(), 1))


def _source_names(stores: tuple[Store, ...]) -> list[str]:
    """A short name for each source, numbered if two are equal."""
    files = [store.meta["source"].split("|") for store in stores]  # aligned texts have two files
    names = ["-".join(Path(path).name.partition(".")[0] or path for path in paths) for paths in files]
    return [name if names.count(name) == 1 else f"{name}_{number}" for number, name in enumerate(names)]
