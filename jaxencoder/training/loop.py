"""The loop around the pure step: next batch, step, write, evaluate, save."""

import contextlib
import functools
import logging
import math
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxencoder.adapters.lora import with_lora
from jaxencoder.checkpoints.initial import initial_params
from jaxencoder.checkpoints.orbax import Checkpoints
from jaxencoder.checkpoints.run import CHECKPOINT_FOLDER
from jaxencoder.config import RunConfig
from jaxencoder.kernels.platform import before_ampere
from jaxencoder.model.config import EncoderConfig
from jaxencoder.objectives.objective import Metrics
from jaxencoder.sharding import batch_sharding, make_mesh, shardings
from jaxencoder.text.batches import Batches, prefetch
from jaxencoder.text.config import DataConfig
from jaxencoder.text.store import Store
from jaxencoder.training.layerwise import stop_frozen_gradients, trainable_mask
from jaxencoder.training.optimizers import make_optimizer
from jaxencoder.training.setup import Setup, distinct, labelled, set_up, unigram_loss
from jaxencoder.training.step import TrainState, eval_step, init_state, train_step
from jaxencoder.training.stopping import past_evaluations, should_stop
from jaxencoder.training.telemetry import Telemetry

log = logging.getLogger(__name__)

STREAM = 0x632BE59BD9B4E019  # between the seeds of data that differ


class Interrupted(SystemExit):
    """SIGTERM arrived and the state is saved; the exit code is the one of a process ended by that signal."""


def train(config: RunConfig, run_dir: str | Path) -> dict[str, float]:
    """Train a run to its last step, from wherever it stands.

    Args:
        config: the run; choices left open (vocabulary size, number of classes) are resolved and saved with it.
        run_dir: the run's folder: config.json, tokenizer/, checkpoints/, metrics.jsonl, tensorboard/. One that holds a
            run is continued from its newest intact checkpoint, and gives the numbers that an uninterrupted run gives.

    Returns:
        The last evaluation's metrics; empty without held-out data.

    Raises:
        ValueError: the configuration contradicts itself, the data, the devices or the run in the folder.
        Diverged: the loss became NaN or infinite; the last good checkpoint is kept.
        Interrupted: SIGTERM arrived; the state is saved.
    """
    initialize_distributed()
    run_dir = Path(run_dir)
    mesh = make_mesh(config.mesh)
    if not config.training.batch_examples:
        _check_shares(config, mesh)
    setup = set_up(config, run_dir)
    _check_shares(setup.config, mesh)
    _check_dtype(setup.config)
    settings = setup.config.training
    best = _best_metric(setup)
    result: dict[str, float] = {}
    with (
        jax.set_mesh(mesh),
        Stop() as stop,
        contextlib.closing(
            Checkpoints(run_dir / CHECKPOINT_FOLDER, settings.keep_checkpoints, best, settings.best_mode == "max")
        ) as checkpoints,
    ):
        updates, state = compile_steps(setup, mesh, checkpoints)
        done = int(state.step)
        past = past_evaluations(run_dir, done)
        if done >= settings.steps or should_stop(past, settings):
            return _finished(run_dir, done, settings.steps, past)
        evaluate = evaluator(setup, mesh)
        with (
            Telemetry(run_dir, setup.config, state.params, start=done) as telemetry,
            contextlib.closing(feed_after(done, setup, mesh, telemetry.begin)) as feed,
        ):
            if examples := labelled(setup.config, setup.train[0]):
                telemetry.say(_in_examples(setup, examples))
            if done:
                telemetry.say(f"Continuing {run_dir} after step {done} of {settings.steps}")
            for phase, batch in feed:
                state, metrics = updates[phase](state, batch)
                done += 1
                telemetry.step(done, metrics)
                last, stopping, result = done == settings.steps, stop.requested(done), {}
                if last or (settings.eval_every and done % settings.eval_every == 0):
                    telemetry.flush()
                    result = evaluate(state)
                    telemetry.evaluation(done, result)
                    past = [*past, result]
                    if should_stop(past, settings) and not last:
                        telemetry.say(f"No better {best} in {settings.patience} evaluations: the run ends here")
                        last = True
                if last or stopping or done % settings.checkpoint_every == 0 or checkpoints.improves(result):
                    telemetry.flush()  # raises if a step since the last checkpoint was not finite
                    checkpoints.save(done, _parts(state), result)
                if stopping and not last:
                    telemetry.say(f"Stopping after step {done}: its state is kept; the same command continues the run")
                    raise Interrupted(128 + signal.SIGTERM)
                if last:
                    break
    return result


def _in_examples(setup: Setup, examples: int) -> str:
    """What fine-tuning comes to; in the first phase, where there are several."""
    first, *others = setup.config.phase_configs
    rows, size, steps = sum(map(len, setup.train[0])), first.training.batch_size, first.training.steps
    shapes = {
        (part.objective, part.model, part.training.accumulation, part.training.batch_size, part.data.row_length)
        for part in (first, *others)
    }
    return (
        f"{examples:,} examples in {rows:,} rows of {first.data.row_length} tokens, {examples / rows:.1f} a row; "
        f"{size * examples / rows:.1f} an update, {steps * size / rows:.2f} epochs in {steps:,} steps; "
        f"{len(shapes) + bool(setup.validation)} large programs to compile"
    )


def initialize_distributed() -> None:
    """Join the other processes of the run, where a launcher says that there are some: JAXENCODER_DISTRIBUTED=1.

    Processes of Slurm, of a TPU slice and of GKE find each other; elsewhere the environment must hold
    JAX_COORDINATOR_ADDRESS (host:port of process 0), JAX_NUM_PROCESSES and JAX_PROCESS_ID.
    """
    if not os.environ.get("JAXENCODER_DISTRIBUTED") or jax.distributed.is_initialized():
        return
    given = {name: os.environ.get(f"JAX_{name.upper()}") for name in ("num_processes", "process_id")}
    jax.distributed.initialize(
        os.environ.get("JAX_COORDINATOR_ADDRESS"), **{name: int(value) for name, value in given.items() if value}
    )


def phase_batches(setup: Setup) -> tuple[Batches, ...]:
    """The batches of each phase, whose batch s belongs to its step s.

    A phase goes on with the rows where an earlier one of the same data ended, so that a batch that grows sees each row
    once an epoch; other data has an order of its own.
    """
    streams: dict[DataConfig, int] = {}
    used: Counter[DataConfig] = Counter()
    found = []
    for part, stores in zip(setup.config.phase_configs, setup.train, strict=True):
        data, size = part.data, part.training.batch_size
        seed = part.training.seed + STREAM * streams.setdefault(data, len(streams))
        found.append(Batches(stores, data, size, seed, skip=used[data]))
        used[data] += part.training.steps * size
    return tuple(found)


def feed_after(
    done: int, setup: Setup, mesh: Mesh, begin: Callable[[int], None]
) -> Iterator[tuple[int, dict[str, jax.Array]]]:
    """The batches of the steps after `done`, each with the number of its phase, of which `begin` is told first."""
    start = 0
    for number, (part, batches) in enumerate(zip(setup.config.phase_configs, phase_batches(setup), strict=True)):
        steps = range(max(done - start, 0), part.training.steps)
        start += part.training.steps
        if steps:
            begin(number)
            with contextlib.closing(prefetch(batches, steps, partial(batch_sharding, mesh))) as feed:
                for batch in feed:
                    yield number, batch


def compile_steps(
    setup: Setup, mesh: Mesh, checkpoints: Checkpoints
) -> tuple[tuple[Callable[[TrainState, dict[str, jax.Array]], tuple[TrainState, Metrics]], ...], TrainState]:
    """Each phase's jitted update, and the state to go on from: the newest intact checkpoint's, or that of step 0."""
    config, settings = setup.config, setup.config.training
    optimizer = make_optimizer(config.optimizer, settings.steps, config.phase_learning_rates, config.trainable_patterns)
    key = jax.random.key(settings.seed)
    start = partial(init_state, setup.objective, optimizer, ema=settings.ema_decay > 0)
    places = shardings(jax.eval_shape(start, key), mesh)
    everywhere = NamedSharding(mesh, PartitionSpec())
    state = _restored(checkpoints, jax.eval_shape(start, key), places)
    if state is None:
        state = jax.jit(start, out_shardings=places)(key)
        if config.init_from:
            params = initial_params(config.init_from, state.params, config.objective, config.reinitialize)
            params = jax.device_put(params, places.params)
            state = state._replace(params=params, ema=jax.tree.map(jnp.copy, params) if state.ema is not None else None)
        elif config.is_supervised and jax.process_index() == 0:
            print("Starting from random weights: no --init-from", flush=True)

    @functools.cache  # phases that differ in nothing but their rows share a function, and each shape is compiled once
    def compiled(objective: Any, model: EncoderConfig, accumulation: int) -> Callable:
        built = with_lora(config.adapter, objective.build(model, config.compute, setup.tokenizer))
        if config.trainable_patterns:
            built = stop_frozen_gradients(built, trainable_mask(config.trainable_patterns))

        def update(state: TrainState, batch: dict[str, jax.Array], key: jax.Array) -> tuple[TrainState, Metrics]:
            return train_step(built, optimizer, state, batch, key, settings.steps, accumulation, settings.ema_decay)

        # The key is an argument, so that runs with other seeds are the same program in jax's cache on disk.
        return partial(jax.jit(update, donate_argnums=0, out_shardings=(places, everywhere)), key=key)

    parts = config.phase_configs
    return tuple(compiled(part.objective, part.model, part.training.accumulation) for part in parts), state


def evaluator(setup: Setup, mesh: Mesh) -> Callable[[TrainState], dict[str, float]]:
    """A function from the state to the metrics on the held-out rows: the same rows and masks every time.

    The model is that of the phase which the state has come to. Of several sources, such as languages, each has its loss
    apart too: "loss_SOURCE".
    """
    settings = setup.config.training
    if not setup.validation:
        return lambda state: {}
    limit = -(-settings.eval_batches // len(setup.validation))  # of each source
    sources = {}
    for name, store in zip(_source_names(setup.validation), setup.validation, strict=True):
        batches = Batches((store,), setup.config.data, settings.batch_size, settings.seed, shuffle=False)
        sources[name] = batches, min(limit or batches.steps_per_epoch, batches.steps_per_epoch)
    key = jax.random.key(settings.seed + 1)
    masked = setup.config.objective.masked_loss
    unigram = unigram_loss(distinct(setup.train), setup.validation) if masked else None

    @functools.cache
    def compiled(model: EncoderConfig) -> Callable:
        objective = setup.config.objective.build(model, setup.config.compute, setup.tokenizer)
        return jax.jit(partial(eval_step, with_lora(setup.config.adapter, objective)))

    def measure(run: Callable, params: Any, batches: Batches, count: int, first: int) -> Metrics:
        total: Any = None
        for i, batch in enumerate(prefetch(batches, range(count), partial(batch_sharding, mesh)), first):
            metrics = run(params, batch, jax.random.fold_in(key, i))
            total = metrics if total is None else jax.tree.map(jnp.add, total, metrics)
        return jax.device_get(total)

    def evaluate(state: TrainState) -> dict[str, float]:
        params = state.params if state.ema is None else state.ema
        run = compiled(setup.config.at_step(int(state.step)).model)
        found, first = {}, 0
        for name, (batches, count) in sources.items():
            found[name] = measure(run, params, batches, count, first)
            first += count
        result = _means(jax.tree.map(lambda *parts: sum(parts), *found.values()))
        if masked:
            result |= {"perplexity": math.exp(min(result[masked], 700.0)), "unigram_loss": unigram}
        if len(found) > 1:
            result |= {f"loss_{name}": _means(metrics)["loss"] for name, metrics in found.items()}
        return result

    return evaluate


def _means(metrics: Metrics) -> dict[str, float]:
    return {name: float(total) / max(float(weight), 1e-9) for name, (total, weight) in metrics.items()}


def _source_names(stores: tuple[Store, ...]) -> list[str]:
    """A short name for each source, numbered where two have the same."""
    files = [store.meta["source"].split("|") for store in stores]  # two, of aligned texts
    names = ["-".join(Path(path).name.partition(".")[0] or path for path in paths) for paths in files]
    return [name if names.count(name) == 1 else f"{name}_{number}" for number, name in enumerate(names)]


class Stop:
    """Turns SIGTERM into a question that the loop asks after each step; several processes agree on the step.

    Whoever ends a job often signals twice, so that a second SIGTERM must not end the save; Ctrl-C does. One that comes
    too late for the question raises Interrupted at the end, so that nothing else is begun.
    """

    def __enter__(self) -> "Stop":
        self._asked = False
        # Of several processes jax listens to the signal itself, and a thread cannot.
        self._listens = jax.process_count() == 1 and threading.current_thread() is threading.main_thread()
        if self._listens:
            self._before = signal.signal(signal.SIGTERM, self._ask)
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if self._listens:
            signal.signal(signal.SIGTERM, self._before or signal.SIG_DFL)
        if self._asked and error is None:
            raise Interrupted(128 + signal.SIGTERM)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self._asked = True

    def requested(self, step: int) -> bool:
        """Whether to save and stop after this step."""
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._asked


def _best_metric(setup: Setup) -> str:
    """The metric that decides which checkpoint is the best; empty where none is kept. ValueError if there is none."""
    settings = setup.config.training
    if not (settings.keep_best and setup.validation):
        if settings.patience:
            raise ValueError(f"training.patience is {settings.patience}, but nothing is held out; set it to 0.")
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


def _check_shares(config: RunConfig, mesh: Mesh) -> None:
    shares = mesh.shape["data"] * mesh.shape["fsdp"]
    for training in (config.training, *(part.training for part in config.phase_configs)):
        if (training.batch_size // training.accumulation) % shares:
            raise ValueError(
                f"training.batch_size {training.batch_size} in {training.accumulation} part(s) does not divide into "
                f"the {shares} shares of these {mesh.size} devices; change it, or the axes of the mesh."
            )


def _check_dtype(config: RunConfig) -> None:
    """One warning of arithmetic that these devices do not have."""
    if config.compute.dtype == "bfloat16" and before_ampere():
        log.warning("These GPUs do not multiply bfloat16 themselves; compute.dtype float32 is as fast.")


def _finished(run_dir: Path, done: int, steps: int, past: list[dict[str, float]]) -> dict[str, float]:
    """The last evaluation of a run that has nothing left to do."""
    found = past[-1] if past else {}
    if jax.process_index() == 0:
        values = ", ".join(f"{name} {value:.4g}" for name, value in found.items())
        print(f"{run_dir} is finished: {done} of {steps} steps. Last evaluation: {values or 'none'}", flush=True)
    return found


def _restored(checkpoints: Checkpoints, shapes: TrainState, places: TrainState) -> TrainState | None:
    abstract = jax.tree.map(lambda s, at: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=at), shapes, places)
    found = checkpoints.restore(_parts(abstract))
    if found is None:
        return None
    step, parts = found
    count = jax.device_put(jnp.int32(step), places.step)
    return TrainState(count, parts["params"], parts["optimizer"], parts.get("ema"))


def _parts(state: TrainState) -> dict[str, Any]:
    parts = {"params": state.params, "optimizer": state.optimizer}
    return parts if state.ema is None else parts | {"ema": state.ema}
