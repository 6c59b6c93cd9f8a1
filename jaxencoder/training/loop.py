"""The training loop around the pure step: next batch, update, log, evaluate, save."""

import contextlib
import logging
import os
from pathlib import Path

import jax
from jax.sharding import Mesh

from jaxencoder.checkpoints.orbax import CheckpointManager
from jaxencoder.checkpoints.run import CHECKPOINT_FOLDER
from jaxencoder.config import RunConfig
from jaxencoder.kernels.platform import before_ampere
from jaxencoder.sharding import make_mesh
from jaxencoder.training.evaluator import best_metric, evaluator, past_evaluations, should_stop
from jaxencoder.training.measures import measures
from jaxencoder.training.phases import batches_after, compile_updates
from jaxencoder.training.preemption import Interrupted, SigtermHandler
from jaxencoder.training.resolve import labeled_examples
from jaxencoder.training.setup import Setup, set_up
from jaxencoder.training.step import checkpoint_parts
from jaxencoder.training.telemetry import Telemetry

log = logging.getLogger(__name__)


def train(config: RunConfig, run_dir: str | Path) -> dict[str, float]:
    """Train a run to its last step, from its newest checkpoint if it has one.

    Args:
        config: the run; open choices (vocabulary size, number of classes) are resolved and saved with it.
        run_dir: the run's folder: config.json, tokenizer/, checkpoints/, metrics.jsonl, tensorboard/. A run that is
            continued from its newest intact checkpoint gives the numbers that an uninterrupted run gives.

    Returns:
        The last evaluation's metrics, on held-out rows and on the sets of training.evaluations; empty without both.

    Raises:
        ValueError: the configuration contradicts itself, the data, the devices or the run in the folder.
        Diverged: the loss became NaN or infinite; the last good checkpoint is kept.
        Interrupted: SIGTERM arrived; the state is saved.
    """
    initialize_distributed()
    run_dir, mesh = Path(run_dir), make_mesh(config.mesh)
    setup = _checked_setup(config, run_dir, mesh)
    settings, metric = setup.config.training, best_metric(setup)
    folder, higher_is_better = run_dir / CHECKPOINT_FOLDER, settings.best_mode == "max"
    kept = CheckpointManager(folder, settings.keep_checkpoints, metric, higher_is_better)
    with jax.set_mesh(mesh), SigtermHandler() as sigterm, contextlib.closing(kept) as checkpoints:
        updates, state = compile_updates(setup, mesh, checkpoints)
        step = int(state.step)
        evaluations = past_evaluations(run_dir, step)
        if step >= settings.steps or should_stop(evaluations, settings):
            return _report_finished(run_dir, step, settings.steps, evaluations)
        evaluate, measure, result = evaluator(setup, mesh), measures(setup.config, setup.tokenizer), {}
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
                    result = evaluate(state) | measure(state)
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
    numbers = (os.environ.get(name) for name in ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID"))
    processes, process = (int(number) if number else None for number in numbers)
    jax.distributed.initialize(os.environ.get("JAX_COORDINATOR_ADDRESS"), processes, process)


def _checked_setup(config: RunConfig, run_dir: Path, mesh: Mesh) -> Setup:
    if not config.training.batch_examples:
        check_shards(config, mesh)  # before minutes of preparing data, where it is possible
    setup = set_up(config, run_dir)
    check_shards(setup.config, mesh)
    if setup.config.compute.dtype == "bfloat16" and before_ampere():
        log.warning("These GPUs have no bfloat16 arithmetic; compute.dtype float32 is as fast.")
    return setup


def check_shards(config: RunConfig, mesh: Mesh) -> None:
    """Raise ValueError if a batch does not divide over the mesh."""
    shards = mesh.shape["data"] * mesh.shape["fsdp"]
    for training in (config.training, *(phase.training for phase in config.phase_configs)):
        if (training.batch_size // training.accumulation) % shards:
            raise ValueError(
                f"training.batch_size {training.batch_size} in {training.accumulation} part(s) is not divisible by "
                f"the {shards} data shards of these {mesh.size} devices; change it, or the axes of the mesh."
            )


def _print_start(telemetry: Telemetry, setup: Setup, run_dir: Path, step: int) -> None:
    """Rows, epochs and compiled programs of a fine-tuning run; with phases, of the first; and where a run continues."""
    if examples := labeled_examples(setup.config, setup.train[0]):
        phases, rows = setup.config.phase_configs, sum(map(len, setup.train[0]))
        sizes = [(phase.training.accumulation, phase.training.batch_size, phase.data.row_length) for phase in phases]
        programs = len({(p.objective, p.model, *size) for p, size in zip(phases, sizes, strict=True)})
        steps, (_, batch, length) = phases[0].training.steps, sizes[0]
        telemetry.print(
            f"{examples:,} examples in {rows:,} rows of {length} tokens, {examples / rows:.1f} per row; "
            f"{batch * examples / rows:.1f} per update, {steps * batch / rows:.2f} epochs in {steps:,} steps; "
            f"{programs + bool(setup.validation)} large programs to compile"
        )
    if step:
        telemetry.print(f"Continuing {run_dir} after step {step} of {setup.config.training.steps}")


def _report_finished(run_dir: Path, step: int, steps: int, evaluations: list[dict[str, float]]) -> dict[str, float]:
    result = evaluations[-1] if evaluations else {}
    if jax.process_index() == 0:
        values = ", ".join(f"{name} {value:.4g}" for name, value in result.items())
        print(f"{run_dir} is finished: {step} of {steps} steps. Last evaluation: {values or 'none'}", flush=True)
    return result
