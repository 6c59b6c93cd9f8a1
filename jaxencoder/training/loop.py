"""The training loop around the pure step: next batch, update, log, evaluate, save."""

import contextlib
import logging
import os
from pathlib import Path

import jax
from jax.sharding import Mesh

from jaxencoder.adapters.lora import with_lora
from jaxencoder.checkpoints.initial import initial_params
from jaxencoder.checkpoints.orbax import CheckpointManager
from jaxencoder.checkpoints.run import CHECKPOINT_FOLDER
from jaxencoder.config import RunConfig
from jaxencoder.kernels.platform import before_ampere
from jaxencoder.sharding import make_mesh
from jaxencoder.training.evaluator import best_metric, evaluator
from jaxencoder.training.feed import batches_after
from jaxencoder.training.preemption import Interrupted, SigtermHandler
from jaxencoder.training.setup import Setup, labeled_examples, set_up
from jaxencoder.training.stopping import past_evaluations, should_stop
from jaxencoder.training.telemetry import Telemetry
from jaxencoder.training.updates import checkpoint_parts, compile_updates

log = logging.getLogger(__name__)


def train(config: RunConfig, run_dir: str | Path) -> dict[str, float]:
    """Train a run to its last step, from its newest checkpoint if it has one.

    Args:
        config: the run; open choices (vocabulary size, number of classes) are resolved and saved with it.
        run_dir: the run's folder: config.json, tokenizer/, checkpoints/, metrics.jsonl, tensorboard/. A run that is
            continued from its newest intact checkpoint gives the numbers that an uninterrupted run gives.

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
            CheckpointManager(run_dir / CHECKPOINT_FOLDER, settings.keep_checkpoints, best, settings.best_mode == "max")
        ) as checkpoints,
    ):
        updates, state = compile_steps(setup, mesh, checkpoints)
        done = int(state.step)
        past = past_evaluations(run_dir, done)
        if done >= settings.steps or should_stop(past, settings):
            return _finished(run_dir, done, settings.steps, past)
        evaluate = evaluator(setup, mesh)
        with (
            Telemetry(run_dir, setup.config, state.params, start=step) as telemetry,
            contextlib.closing(batches_after(step, setup, mesh, telemetry.begin_phase)) as feed,
        ):
            _print_start(telemetry, setup, run_dir, step)
            for phase, batch in feed:
                state, metrics = updates[phase](state, batch)
                step += 1
                telemetry.step(step, metrics)
                is_last, is_stopped, result = step == settings.steps, sigterm.should_stop(step), {}
                if is_last or (settings.eval_every and step % settings.eval_every == 0):
                    telemetry.flush()
                    result = evaluate(state)
                    telemetry.evaluation(step, result)
                    evaluations = [*evaluations, result]
                    if should_stop(evaluations, settings) and not is_last:
                        telemetry.print(f"Stopping early: {settings.patience} evaluations without a better {metric}")
                        is_last = True
                if is_last or is_stopped or step % settings.checkpoint_every == 0 or checkpoints.improves(result):
                    telemetry.flush()  # raises if a step since the last checkpoint was not finite
                    checkpoints.save(step, checkpoint_parts(state), result)
                if is_last:
                    break
                if is_stopped:
                    telemetry.print(f"Stopped after step {step}; its state is saved, repeat the command to continue")
                    raise Interrupted
    return result


def initialize_distributed() -> None:
    """Join the other processes of the run if the launcher sets JAXENCODER_DISTRIBUTED=1.

    Processes of Slurm, of a TPU slice and of GKE find each other; elsewhere the environment must hold
    JAX_COORDINATOR_ADDRESS (host:port of process 0), JAX_NUM_PROCESSES and JAX_PROCESS_ID.
    """
    if not os.environ.get("JAXENCODER_DISTRIBUTED") or jax.distributed.is_initialized():
        return
    numbers = {name: os.environ.get(f"JAX_{name.upper()}") for name in ("num_processes", "process_id")}
    jax.distributed.initialize(
        os.environ.get("JAX_COORDINATOR_ADDRESS"), **{name: int(value) for name, value in numbers.items() if value}
    )


def _checked_setup(config: RunConfig, run_dir: Path, mesh: Mesh) -> Setup:
    """The setup of a run that fits the devices; what can be checked before its data is prepared is checked first."""
    if not config.training.batch_examples:
        check_shards(config, mesh)
    setup = set_up(config, run_dir)
    check_shards(setup.config, mesh)
    check_dtype(setup.config)
    return setup


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
    setup: Setup, mesh: Mesh, checkpoints: CheckpointManager
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
                f"training.batch_size {training.batch_size} in {training.accumulation} part(s) is not divisible by "
                f"the {shards} data shards of these {mesh.size} devices; change it, or the axes of the mesh."
            )


def check_dtype(config: RunConfig) -> None:
    """Warn of a dtype that the devices do not compute in."""
    if config.compute.dtype == "bfloat16" and before_ampere():
        log.warning("These GPUs have no bfloat16 arithmetic; compute.dtype float32 is as fast.")


def _print_start(telemetry: Telemetry, setup: Setup, run_dir: Path, step: int) -> None:
    if examples := labeled_examples(setup.config, setup.train[0]):
        telemetry.print(_describe_examples(setup, examples))
    if step:
        telemetry.print(f"Continuing {run_dir} after step {step} of {setup.config.training.steps}")


def _describe_examples(setup: Setup, examples: int) -> str:
    """Rows, epochs and compiled programs of a fine-tuning run; with phases, of the first."""
    first, *later = setup.config.phase_configs
    rows, size, steps = sum(map(len, setup.train[0])), first.training.batch_size, first.training.steps
    shapes = {
        (phase.objective, phase.model, phase.training.accumulation, phase.training.batch_size, phase.data.row_length)
        for phase in (first, *later)
    }
    return (
        f"{examples:,} examples in {rows:,} rows of {first.data.row_length} tokens, {examples / rows:.1f} per row; "
        f"{size * examples / rows:.1f} per update, {steps * size / rows:.2f} epochs in {steps:,} steps; "
        f"{len(shapes) + bool(setup.validation)} large programs to compile"
    )


def _report_finished(run_dir: Path, step: int, steps: int, evaluations: list[dict[str, float]]) -> dict[str, float]:
    """Print and return the last evaluation of a run that is already finished."""
    result = evaluations[-1] if evaluations else {}
    if jax.process_index() == 0:
        values = ", ".join(f"{name} {value:.4g}" for name, value in found.items())
        print(f"{run_dir} is finished: {done} of {steps} steps. Last evaluation: {values or 'none'}", flush=True)
    return found


def _restored(checkpoints: CheckpointManager, shapes: TrainState, places: TrainState) -> TrainState | None:
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
