"""The jitted update of each phase, and the state that a run starts or continues from."""

import functools
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxencoder.adapters.lora import with_lora
from jaxencoder.checkpoints.initial import initial_params
from jaxencoder.checkpoints.orbax import CheckpointManager
from jaxencoder.model.config import EncoderConfig
from jaxencoder.objectives.objective import Metrics
from jaxencoder.sharding import shardings
from jaxencoder.training.layerwise import stop_frozen_gradients, trainable_mask
from jaxencoder.training.optimizers import make_optimizer
from jaxencoder.training.setup import Setup
from jaxencoder.training.step import TrainState, init_state, train_step

Update = Callable[[TrainState, dict[str, jax.Array]], tuple[TrainState, Metrics]]


def compile_updates(setup: Setup, mesh: Mesh, checkpoints: CheckpointManager) -> tuple[tuple[Update, ...], TrainState]:
    """The jitted update of each phase, and the state of the newest intact checkpoint or of step 0."""
    config, settings = setup.config, setup.config.training
    optimizer = make_optimizer(config.optimizer, settings.steps, config.phase_learning_rates, config.trainable_patterns)
    key = jax.random.key(settings.seed)
    init = partial(init_state, setup.objective, optimizer, ema=settings.ema_decay > 0)
    placement = shardings(jax.eval_shape(init, key), mesh)
    replicated = NamedSharding(mesh, PartitionSpec())
    state = restore_state(checkpoints, jax.eval_shape(init, key), placement)
    if state is None:
        state = _with_initial_params(jax.jit(init, out_shardings=placement)(key), setup, placement)

    @functools.cache  # phases that differ only in their rows share a function, and each shape is compiled once
    def compiled(objective: Any, model: EncoderConfig, accumulation: int) -> Update:
        built = with_lora(config.adapter, objective.build(model, config.compute, setup.tokenizer))
        if config.trainable_patterns:
            built = stop_frozen_gradients(built, trainable_mask(config.trainable_patterns))

        def update(state: TrainState, batch: dict[str, jax.Array], key: jax.Array) -> tuple[TrainState, Metrics]:
            return train_step(built, optimizer, state, batch, key, settings.steps, accumulation, settings.ema_decay)

        # The key is an argument, so that runs with other seeds are the same program in jax's cache on disk.
        return partial(jax.jit(update, donate_argnums=0, out_shardings=(placement, replicated)), key=key)

    phases = config.phase_configs
    return tuple(compiled(phase.objective, phase.model, phase.training.accumulation) for phase in phases), state


def _with_initial_params(state: TrainState, setup: Setup, placement: TrainState) -> TrainState:
    """A state of random weights, with those that init_from has replaced."""
    config = setup.config
    if not config.init_from:
        if config.is_supervised and jax.process_index() == 0:
            print("Starting from random weights: no --init-from", flush=True)
        return state
    params = initial_params(config.init_from, state.params, config.objective, config.reinitialize)
    params = jax.device_put(params, placement.params)
    return state._replace(params=params, ema=jax.tree.map(jnp.copy, params) if state.ema is not None else None)


def restore_state(checkpoints: CheckpointManager, shapes: TrainState, placement: TrainState) -> TrainState | None:
    """The state of the newest intact checkpoint on the devices of `placement`; None if there is no checkpoint."""
    abstract = jax.tree.map(lambda s, at: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=at), shapes, placement)
    restored = checkpoints.restore(checkpoint_parts(abstract))
    if restored is None:
        return None
    step, parts = restored
    count = jax.device_put(jnp.int32(step), placement.step)
    return TrainState(count, parts["params"], parts["optimizer"], parts.get("ema"))


def checkpoint_parts(state: TrainState) -> dict[str, Any]:
    """The parts of a state that a checkpoint holds, by name."""
    parts = {"params": state.params, "optimizer": state.optimizer}
    return parts if state.ema is None else parts | {"ema": state.ema}
