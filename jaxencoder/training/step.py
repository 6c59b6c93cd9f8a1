"""One update and one evaluation as pure functions: state and batch in, state and metrics out.

There is no I/O and no Python state: the loop compiles these functions once and calls them.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxencoder.objectives.objective import MIN_WEIGHT, Batch, Metrics, Objective, Params, mean


class TrainState(NamedTuple):
    """Everything that a step changes; `ema` is None without a moving average."""

    step: jax.Array  # int32 [], updates done
    params: Params
    optimizer: Any
    ema: Params | None


def init_state(
    objective: Objective, optimizer: optax.GradientTransformation, key: jax.Array, ema: bool = False
) -> TrainState:
    """The state before the first step."""
    params = objective.init(key)
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), params if ema else None)


def checkpoint_parts(state: TrainState) -> dict[str, Any]:
    """The parts of a state that a checkpoint holds, by name."""
    parts = {"params": state.params, "optimizer": state.optimizer}
    return parts if state.ema is None else parts | {"ema": state.ema}


def train_step(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    state: TrainState,
    batch: Batch,
    key: jax.Array,
    steps: int = 0,
    accumulation: int = 1,
    ema_decay: float = 0.0,
) -> tuple[TrainState, Metrics]:
    """One update of the parameters.

    Args:
        batch: arrays with leading dimension B.
        key: the run's key; the step number is folded into it.
        steps: steps of the run; if given, the batch gets "progress" [B], the fraction of steps done.
        accumulation: parts of the batch that are differentiated in sequence. Their losses, each term of them, are
            weighted as in the complete batch (`metrics["loss"][1]`, such as the number of predictions), so that the
            update is that of the complete batch.

    Returns:
        The new state, and the batch's metrics with these added: "gradient_norm" (unclipped), also for each part of the
        parameters ("gradient_norm_embeddings", "..._layers", "..._mlm_head"), "finite" (1 if loss, gradients and new
        parameters are finite), and "filled", the number of tokens in the batch's positions.
    """
    key = jax.random.fold_in(key, state.step)
    if steps:
        batch = batch | {"progress": jnp.full(len(batch["token_ids"]), state.step / steps, jnp.float32)}
    if accumulation == 1:
        (_, metrics), gradients = jax.value_and_grad(objective.loss, has_aux=True)(state.params, batch, key, True)
    else:
        gradients, metrics = _accumulate(objective, state.params, batch, key, accumulation)
    updates, optimizer_state = optimizer.update(gradients, state.optimizer, state.params)
    params: Any = optax.apply_updates(state.params, updates)
    ema: Any = None if state.ema is None else optax.incremental_update(params, state.ema, 1 - ema_decay)
    gradient_norm, params_norm, one = optax.tree.norm(gradients), optax.tree.norm(params), jnp.ones(())
    filled = batch["segment_ids"] > 0  # [B, T], no padding
    metrics = metrics | {
        "filled": (filled.sum().astype(jnp.float32), jnp.float32(filled.size)),
        "gradient_norm": (gradient_norm, one),
        **{f"gradient_norm_{name}": (optax.tree.norm(part), one) for name, part in _parts(gradients).items()},
        # NaN and infinity survive addition: one number tells of all gradients and parameters.
        "finite": (jnp.isfinite(gradient_norm + params_norm + mean(metrics)).astype(jnp.float32), one),
    }
    return TrainState(state.step + 1, params, optimizer_state, ema), metrics


def _parts(params: Params) -> dict[str, Params]:
    """The parts of the encoder, the heads, and any other model that is trained."""
    return params.get("encoder", {}) | {
        name: part for name, part in params.items() if name != "encoder" and jax.tree.leaves(part)
    }


def _accumulate(
    objective: Objective, params: Params, batch: Batch, key: jax.Array, parts: int
) -> tuple[Params, Metrics]:
    """The mean gradients of a batch and its summed metrics, part by part in a scan."""
    # [B, ...] -> [parts, B / parts, ...], interleaved so that each device already holds its rows of every part.
    split = jax.tree.map(lambda x: jnp.moveaxis(x.reshape(-1, parts, *x.shape[1:]), 1, 0), batch)
    keys = jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(parts))
    # The sum of one term is divided by its weight at the end. Several terms are added up in each part's loss, so that
    # their weights in the complete batch have to be known before.
    loss_weights, weights = objective.loss_weights, jnp.ones(())
    if loss_weights is not None:
        weights = jax.lax.map(lambda part: loss_weights(*part), (split, keys)).sum(0)  # [terms]

    def loss(params: Params, part: Batch, key: jax.Array) -> tuple[jax.Array, Metrics]:
        metrics = objective.loss(params, part, key, True)[1]
        return (metrics["loss"][0] / jnp.maximum(weights, MIN_WEIGHT)).sum(), metrics

    differentiate = jax.value_and_grad(loss, has_aux=True)

    def body(carry, part):
        (_, metrics), gradients = differentiate(params, *part)
        return jax.tree.map(jnp.add, carry, (gradients, metrics)), None

    first = jax.tree.map(lambda x: x[0], (split, keys))
    # The sums start with zeros in the shapes of one part's results.
    (_, metrics), gradients = jax.eval_shape(differentiate, params, *first)
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), (gradients, metrics))
    (total, metrics), _ = jax.lax.scan(body, zeros, (split, keys))
    if loss_weights is None:
        total = jax.tree.map(lambda g: g / jnp.maximum(metrics["loss"][1], MIN_WEIGHT), total)
    return total, metrics


def eval_step(objective: Objective, params: Params, batch: Batch, key: jax.Array) -> Metrics:
    """The metrics of a batch without dropout; `key` only draws the corruption, such as masks."""
    return objective.loss(params, batch, key, False)[1]


def means(metrics: Metrics) -> dict[str, float]:
    """(sum, weight) pairs as weighted means, on the host; those of several terms are added up."""
    return {
        name: float((np.asarray(total, np.float64) / np.maximum(weight, MIN_WEIGHT)).sum())
        for name, (total, weight) in metrics.items()
    }
