"""What the loop runs, phase by phase: batches, jitted updates, and the state that a run starts or continues from."""

import contextlib
from collections import Counter
from collections.abc import Callable, Generator
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxencoder.adapters.lora import with_lora
from jaxencoder.checkpoints.initial import initial_params
from jaxencoder.checkpoints.orbax import CheckpointManager
from jaxencoder.model.config import EncoderConfig
from jaxencoder.objectives.objective import Metrics
from jaxencoder.sharding import batch_sharding, shardings
from jaxencoder.text.batches import Batches, prefetch
from jaxencoder.text.config import DataConfig
from jaxencoder.training.layerwise import stop_frozen_gradients, trainable_mask
from jaxencoder.training.optimizers import make_optimizer
from jaxencoder.training.setup import Setup
from jaxencoder.training.step import TrainState, checkpoint_parts, init_state, train_step

STREAM = 0x632BE59BD9B4E019  # distance between the seeds of different data

Update = Callable[[TrainState, dict[str, jax.Array]], tuple[TrainState, Metrics]]


def phase_batches(setup: Setup) -> tuple[Batches, ...]:
    """The batches of each phase, indexed by the step within the phase.

    A phase continues with the rows where an earlier phase of the same data ended, so that a growing batch still sees
    each row once per epoch. Different data has its own order.
    """
    streams: dict[DataConfig, int] = {}
    rows_used: Counter[DataConfig] = Counter()
    batches = []
    for phase, stores in zip(setup.config.phase_configs, setup.train, strict=True):
        data, size = phase.data, phase.training.batch_size
        seed = phase.training.seed + STREAM * streams.setdefault(data, len(streams))  # 0, 1, ... for new data
        batches.append(Batches(stores, data, size, seed, skip=rows_used[data]))
        rows_used[data] += phase.training.steps * size
    return tuple(batches)


def batches_after(
    step: int, setup: Setup, mesh: Mesh, on_phase: Callable[[int], None]
) -> Generator[tuple[int, dict[str, jax.Array]], None, None]:
    """The batches of the steps after `step`, each with the number of its phase, placed on the devices of the mesh.

    `on_phase` is called with the number of each phase before its first batch.
    """
    start = 0
    for number, (phase, batches) in enumerate(zip(setup.config.phase_configs, phase_batches(setup), strict=True)):
        steps = range(max(step - start, 0), phase.training.steps)
        start += phase.training.steps
        if steps:
            on_phase(number)
            with contextlib.closing(prefetch(batches, steps, partial(batch_sharding, mesh))) as feed:
                for batch in feed:
                    yield number, batch


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

    @cache  # phases that differ only in their rows share a function, and each shape is compiled once
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
    config = setup.config
    if not config.init_from:
        if config.is_supervised and jax.process_index() == 0:
            print("Starting from random weights: no --init-from", flush=True)
        return state
    params = initial_params(config.init_from, state.params, config.objective, config.reinitialize)
    params = jax.device_put(params, placement.params)
    # A copy: params and average are donated to the first update, which needs two buffers.
    return state._replace(params=params, ema=jax.tree.map(jnp.copy, params) if state.ema is not None else None)


def restore_state(checkpoints: CheckpointManager, shapes: TrainState, placement: TrainState) -> TrainState | None:
    """The state of the newest intact checkpoint on the devices of `placement`; None if there is no checkpoint."""
    abstract = jax.tree.map(lambda s, at: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=at), shapes, placement)
    if (restored := checkpoints.restore(checkpoint_parts(abstract))) is None:
        return None
    step, parts = restored
    count = jax.device_put(jnp.int32(step), placement.step)
    return TrainState(count, parts["params"], parts["optimizer"], parts.get("ema"))
