"""Checkpoints of a run: saved atomically in the background, and restored onto any mesh.

Orbax (https://orbax.readthedocs.io) writes into a temporary folder and renames it when every process is done. It does
not notice a flipped bit or an array of another shape, so each array has a checksum that is compared on reading.
"""

import gc
import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, cast

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp

from jaxencoder.parameters import flatten, map_with_paths

log = logging.getLogger(__name__)

Tree = Any
State = dict[str, Tree]
CHECKSUMS = "checksums"


class MismatchError(ValueError):
    """A checkpoint of another model."""


class DamagedError(ValueError):
    """A checkpoint that cannot be read, or that differs from what was written."""


class CheckpointManager:
    """The checkpoints in one folder. Every process calls every method, in the same order."""

    def __init__(self, folder: str | os.PathLike[str], keep: int = 2, best: str = "", higher_is_better: bool = False):
        """Open the folder. Creates it when missing, and removes the remains of an interrupted save.

        Args:
            folder: a local path or gs:// address.
            keep: how many of the newest checkpoints to keep.
            best: a metric whose best checkpoint is kept as well; empty: none.
            higher_is_better: whether the best value is the highest.
        """
        if keep < 1:
            raise ValueError(f"Checkpoints to keep: {keep}; keep at least 1.")
        self.folder = _address(folder)
        self._best, self._sign = best, 1.0 if higher_is_better else -1.0
        policies = cast(Any, ocp.training.preservation_policies)  # declared for other metadata than Checkpointer's
        preserved: list[Any] = [policies.LatestN(keep)]
        if best:
            preserved.append(policies.BestN(get_metric_fn=self._rank, n=1, keep_checkpoints_without_metrics=False))
        with _quiet():
            self._checkpointer = ocp.training.Checkpointer(
                self.folder, preservation_policy=policies.AnyPreservationPolicy(preserved), cleanup_tmp_directories=True
            )

    def _rank(self, metrics: Any) -> float:
        value = self._sign * metrics.get(self._best, np.nan)
        return value if np.isfinite(value) else -np.inf

    def _rated(self) -> dict[int, float]:
        checkpoints = self._checkpointer.checkpoints
        return {c.step: self._rank(c.metrics) for c in checkpoints if self._best and self._best in (c.metrics or {})}

    def steps(self) -> list[int]:
        """Steps of the finished checkpoints, ascending."""
        return [checkpoint.step for checkpoint in self._checkpointer.checkpoints]

    def best(self) -> int | None:
        """The step whose checkpoint has the best metric, or None if no checkpoint has the metric."""
        rated = self._rated()
        return max(rated, key=rated.__getitem__) if rated else None

    def improves(self, metrics: dict[str, float]) -> bool:
        """Whether these metrics are better than those of all checkpoints."""
        rated = self._rated().values()
        return self._best in metrics and (not rated or self._rank(metrics) > max(rated))

    def save(self, step: int, state: State, metrics: dict[str, float] | None = None, wait: bool = False) -> None:
        """Start to save. Returns once the arrays may be donated or changed; waits for the previous save first.

        Args:
            step: names the checkpoint; an existing one is replaced.
            state: pytrees of arrays by part, such as {"params": ..., "optimizer": ...}; each part can be read alone.
            metrics: numbers that choose the best checkpoint; saved with it.
            wait: return only when the checkpoint is finished.

        Raises:
            OSError: this save, or the previous one, could not be written.
        """
        self.wait()
        sums = {part: _checksums(tree) for part, tree in state.items()}
        numbers: dict[str, Any] | None = {name: float(value) for name, value in metrics.items()} if metrics else None
        # Only a Checkpointer reads `metrics` back, so they are in the metadata too.
        options = {"metrics": numbers, "custom_metadata": {"metrics": numbers}, "overwrite": step in self.steps()}
        with self._writing(), _quiet():
            self._checkpointer.save_checkpointables_async(step, {**state, CHECKSUMS: sums}, force=True, **options)
        if wait:
            self.wait()

    def wait(self) -> None:
        """Wait for the save in progress, if any; OSError if it failed."""
        with self._writing():
            self._checkpointer.wait()

    def close(self) -> None:
        """Wait, and release the resources of Orbax."""
        with self._writing():
            self._checkpointer.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            raise OSError(
                f"Could not save a checkpoint in {self.folder}: {_reason(error)}; check the disk's free space and "
                "permissions, earlier checkpoints are kept."
            ) from error

    def restore(self, abstract: State) -> tuple[int, State] | None:
        """Read the newest sound checkpoint: its step and state, with the shardings asked for; None if there is none.

        Damaged newer ones are renamed to STEP.damaged, with a warning each.

        Args:
            abstract: the parts to read, as trees of `jax.ShapeDtypeStruct` with shardings, or arrays like them.

        Raises:
            ValueError: no checkpoint can be read, or shapes differ (the first parameter that differs is named).
        """
        steps = self.steps()
        if not steps:
            return None
        step, state, damaged = _first_sound(self.folder, reversed(steps), abstract)
        for bad in damaged:
            self._set_aside(bad)
        return step, state

    def _set_aside(self, step: int) -> None:
        """Rename a damaged checkpoint: under its name it would count as the newest, and push sound ones out."""
        if jax.process_index() == 0:
            target = self.folder / f"{step}.damaged"
            if target.exists():
                target.rmtree()
            (self.folder / str(step)).rename(target)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("jaxencoder.checkpoint.set_aside")
        self._checkpointer.reload()


def restore_step(
    folder: str | os.PathLike[str],
    abstract: Tree | None = None,
    step: int | Literal["latest", "best"] = "latest",
    *,
    part: str = "params",
    metric: str = "loss",
    higher_is_better: bool = False,
) -> tuple[int, Tree]:
    """Read one part of a checkpoint, and no other: its step, and the tree. Needs no knowledge of the run.

    Args:
        folder: the folder of checkpoints.
        abstract: the tree to read, with shardings as in `CheckpointManager.restore`, and cast to its dtypes; None: all
            of it, as numpy arrays.
        step: which checkpoint. A damaged one is skipped with a warning, unless it is asked for by number.
        part: the part to read.
        metric, higher_is_better: the meaning of "best".

    Raises:
        FileNotFoundError: there is no checkpoint, or not that one.
        ValueError: none can be read, none has the metric, or shapes differ.
    """
    folder = _address(folder)
    names = [path.name for path in folder.iterdir()] if folder.exists() else []
    steps = sorted((int(name) for name in names if name.isdecimal()), reverse=True)
    if not steps:
        raise FileNotFoundError(f"No checkpoint in {folder}; train first, or give the folder of a run that has one.")
    if isinstance(step, int):
        if step not in steps:
            raise FileNotFoundError(f"No checkpoint {step} in {folder}; there are {', '.join(map(str, steps[::-1]))}.")
        steps = [step]
    elif step == "best":
        rated = {s: value for s in steps if (value := _metric(folder / str(s), metric)) is not None}
        if not rated:
            raise ValueError(f'No checkpoint in {folder} was saved with the metric "{metric}"; ask for "latest".')
        steps = sorted(rated, key=rated.__getitem__, reverse=higher_is_better)
    number, state, _ = _first_sound(folder, steps, {part: abstract})
    return number, state[part]


def _first_sound(folder: epath.Path, steps: Iterable[int], abstract: State) -> tuple[int, State, list[int]]:
    """The first sound checkpoint of these steps, its state, and the damaged ones before it; warns of those."""
    damaged: dict[int, DamagedError] = {}
    for step in steps:
        try:
            state = _read(folder / str(step), abstract)
        except DamagedError as error:
            damaged[step] = error
            continue
        for bad, error in damaged.items():
            log.warning("Checkpoint %d in %s is damaged (%s); using %d.", bad, folder, error, step)
        return step, state, list(damaged)
    newest = max(damaged)
    raise ValueError(
        f"No checkpoint in {folder} can be read (tried {', '.join(map(str, damaged))}; {newest}: {damaged[newest]}); "
        "restore the folder from a copy, or move it away to start again."
    )


def _address(folder: str | os.PathLike[str]) -> epath.Path:
    text = os.fspath(folder)
    return epath.Path(text if "://" in text else os.path.abspath(text))


def _metric(path: epath.Path, name: str) -> float | None:
    try:
        with _quiet():
            value = float(cast(Any, ocp.checkpointables_metadata(path).custom_metadata)["metrics"][name])
    except Exception:
        return None
    return value if np.isfinite(value) else None


def _read(path: epath.Path, abstract: State) -> State:
    """Read parts of one checkpoint; a part of None completely, as numpy arrays. DamagedError or MismatchError."""
    try:
        with _quiet():
            saved = ocp.checkpointables_metadata(path).metadata
            written = saved.get(CHECKSUMS)
            if not written:
                raise DamagedError("it was not completely written, or not completely deleted")
            plans = {CHECKSUMS: _plan(path, CHECKSUMS, written, None)}
            for part, tree in abstract.items():
                if part not in written:
                    raise MismatchError(f"Checkpoint {path} holds no {part!r}, only {', '.join(map(repr, written))}.")
                if part not in saved or (not jax.tree.leaves(saved[part]) and jax.tree.leaves(tree)):
                    raise DamagedError(f"{part!r} is missing")
                plans[part] = _plan(path, part, saved[part], tree)
            state = ocp.load_checkpointables(path, plans)
    except (MismatchError, MemoryError, PermissionError, jax.errors.JaxRuntimeError):
        raise
    except Exception as error:
        cause = error.__cause__
        if cause is not None and isinstance(cause, PermissionError | MemoryError | jax.errors.JaxRuntimeError):
            raise cause from None
        raise DamagedError(_reason(error)) from error
    sums = state.pop(CHECKSUMS)
    for part, tree in state.items():
        if not np.array_equal(sums[part], _checksums(tree)):
            raise DamagedError(f"the arrays of {part!r} differ from those that were written")
        if (like := abstract[part]) is not None:
            state[part] = jax.tree.map(lambda x, y: x.astype(y.dtype) if hasattr(y, "dtype") else x, tree, like)
    return state


def _plan(path: epath.Path, part: str, saved: Tree, abstract: Tree | None) -> Tree:
    """The tree to ask Orbax for: names and shapes checked against the saved ones, dtypes as saved."""

    def plan(leaf: Any, like: Any) -> Any:
        if not hasattr(leaf, "shape"):
            return leaf
        sharding = getattr(like, "sharding", None)
        if sharding is None:
            # A broadcast zero has the shape and dtype without the memory.
            return np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape)
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    if abstract is None:
        return jax.tree.map(lambda leaf: plan(leaf, None), saved)
    leaves, likes = flatten(saved), flatten(abstract)
    for name, like in likes.items():
        if name not in leaves:
            raise MismatchError(f"Checkpoint {path} has no {part} {name!r}; it belongs to another configuration.")
        saved_shape, shape = tuple(getattr(leaves[name], "shape", ())), np.shape(like)
        if saved_shape != shape:
            mismatch = f"{part} {name!r} of shape {saved_shape}, not {shape}"
            raise MismatchError(f"Checkpoint {path} has {mismatch}; it belongs to another configuration.")
    if extra := [name for name in leaves if name not in likes]:
        raise MismatchError(f"Checkpoint {path} has {part} {extra[0]!r}, which this configuration has not.")
    return map_with_paths(lambda name, like: plan(leaves[name], like), abstract)


def _checksums(tree: Tree) -> np.ndarray:
    """One uint32 per array, in the tree's order, whatever the sharding."""
    leaves = [x for x in jax.tree.leaves(tree) if isinstance(x, jax.Array | np.ndarray)]
    on_device = iter(_device_checksums([x for x in leaves if isinstance(x, jax.Array)]))
    sums = [next(on_device) if isinstance(x, jax.Array) else _checksum(np, x) for x in leaves]
    return np.array([np.asarray(x) for x in sums], np.uint32)


@jax.jit
def _device_checksums(leaves: list[jax.Array]) -> list[jax.Array]:
    return [_checksum(jnp, x) for x in leaves]


def _checksum(xp: Any, x: Any) -> Any:
    """The sum of the bits as integers, each times an odd number of its index, modulo 2^32.

    Integer sums do not depend on their order, and so not on the mesh. Odd weights detect every single changed element.
    """
    x = x.reshape(1) if x.ndim == 0 else x
    bits = x.view(np.dtype(f"uint{8 * x.dtype.itemsize}"))
    bits = (bits if x.dtype.itemsize <= 4 else bits ^ (bits >> 32)).astype(np.uint32)
    weight = xp.ones((), np.uint32)
    for axis, size in enumerate(x.shape):
        index = xp.arange(size, dtype=np.uint32).reshape(-1, *[1] * (x.ndim - 1 - axis))
        weight = weight + index * np.uint32(2654435762 + 2 * axis)
    return xp.sum(bits * weight, dtype=np.uint32)


# Threads of Orbax log whole tracebacks of failures that are raised here, in one sentence, when the save is awaited.
logging.getLogger("absl").addFilter(lambda record: "orbax" not in Path(record.pathname).parts)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what asyncio logs about a failure that is reported here."""
    logger = logging.getLogger("asyncio")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    except Exception:
        gc.collect()  # abandoned tasks log when they are collected
        raise
    finally:
        logger.setLevel(level)


def _reason(error: BaseException) -> str:
    """The root of an error in a few words, without the storage library's dump of its specification."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = " ".join(str(error).split()).partition(" [")[0]
    if len(text) > 200:
        text = "... " + text[-200:]  # the cause comes last
    return (text or type(error).__name__).rstrip(".")
