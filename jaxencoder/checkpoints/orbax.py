"""Checkpoints of a run: saved in the background, whole or not at all, read back onto any mesh.

Orbax (https://orbax.readthedocs.io) writes into a temporary folder and renames it when every process is done. It does
not notice a flipped bit nor an array of another shape, so each array is saved with a checksum and compared on reading.
"""

import gc
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp

log = logging.getLogger(__name__)

Tree = Any
State = dict[str, Tree]
CHECKSUMS = "checksums"


class MismatchError(ValueError):
    """The checkpoint is sound, but of another model."""


class DamagedError(ValueError):
    """The checkpoint cannot be read, or not as it was written."""


class Checkpoints:
    """The checkpoints in one folder. Every process calls every method, in the same order."""

    def __init__(self, folder: str | os.PathLike[str], keep: int = 2, best: str = "", higher_is_better: bool = False):
        """Opens the folder, creating it when missing and removing what an interrupted save left behind.

        Args:
            folder: a local path or gs:// address.
            keep: how many of the newest checkpoints to keep.
            best: name of the metric whose best checkpoint is kept besides; empty: none.
            higher_is_better: whether the best value is the highest.
        """
        if keep < 1:
            raise ValueError(f"Checkpoints to keep: {keep}; keep at least 1.")
        self.folder = _address(folder)
        self._best, self._sign = best, 1.0 if higher_is_better else -1.0
        policies = ocp.training.preservation_policies
        kept: list[Any] = [policies.LatestN(keep)]
        if best:
            kept.append(policies.BestN(get_metric_fn=self._rank, n=1, keep_checkpoints_without_metrics=False))
        with _quiet():
            self._checkpointer = ocp.training.Checkpointer(
                self.folder, preservation_policy=policies.AnyPreservationPolicy(kept), cleanup_tmp_directories=True
            )

    def _rank(self, metrics: dict[str, float]) -> float:
        value = self._sign * metrics.get(self._best, np.nan)
        return value if np.isfinite(value) else -np.inf

    def steps(self) -> list[int]:
        """Steps of the finished checkpoints, ascending."""
        return [checkpoint.step for checkpoint in self._checkpointer.checkpoints]

    def best(self) -> int | None:
        """The step whose checkpoint has the best metric, or None when none has it."""
        rated = [c for c in self._checkpointer.checkpoints if self._best and self._best in (c.metrics or {})]
        return max(rated, key=lambda c: self._rank(c.metrics)).step if rated else None

    def improves(self, metrics: dict[str, float]) -> bool:
        """Whether these metrics are better than those of every checkpoint so far."""
        if self._best not in metrics:
            return False
        rated = [self._rank(c.metrics) for c in self._checkpointer.checkpoints if c.metrics and self._best in c.metrics]
        return not rated or self._rank(metrics) > max(rated)

    def save(self, step: int, state: State, metrics: dict[str, float] | None = None, wait: bool = False) -> None:
        """Starts to save; returns once the arrays may be donated or changed. Waits for the save before, if any.

        Args:
            step: names the checkpoint; one that exists is replaced.
            state: pytrees of arrays by part, such as {"params": ..., "optimizer": ...}; parts can be read alone.
            metrics: numbers to choose the best checkpoint by; saved with it.
            wait: return only when the checkpoint is finished.

        Raises:
            OSError: this save, or the one before, could not be written.
        """
        self.wait()
        sums = {part: _checksums(tree) for part, tree in state.items()}
        metrics = {name: float(value) for name, value in metrics.items()} if metrics else None
        with self._writing(), _quiet():
            self._checkpointer.save_checkpointables_async(
                step,
                {**state, CHECKSUMS: sums},
                force=True,
                overwrite=step in self.steps(),
                metrics=metrics,
                custom_metadata={"metrics": metrics},  # Orbax reads `metrics` back through a Checkpointer alone
            )
        if wait:
            self.wait()

    def wait(self) -> None:
        """Returns when the save in progress, if any, is finished; raises OSError when it failed."""
        with self._writing():
            self._checkpointer.wait()

    def close(self) -> None:
        """Waits, and releases what Orbax holds."""
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
        """Reads the newest sound checkpoint; damaged newer ones are set aside as STEP.damaged, with one warning each.

        Args:
            abstract: the parts to read, as trees of `jax.ShapeDtypeStruct` with shardings (or arrays like them).

        Returns:
            The step and the state, each array with the sharding asked for; None when there is no checkpoint.

        Raises:
            ValueError: no checkpoint can be read, or shapes differ (the first parameter that differs is named).
        """
        steps = self.steps()
        damaged: dict[int, DamagedError] = {}
        for step in reversed(steps):
            try:
                state = _read(self.folder / str(step), abstract)
            except DamagedError as error:
                damaged[step] = error
                continue
            for bad, error in damaged.items():
                # Left under its name it would count as the newest, and push sound ones out.
                self._set_aside(bad)
                log.warning("Checkpoint %d in %s is damaged (%s); going on from %d.", bad, self.folder, error, step)
            return step, state
        if damaged:
            raise ValueError(_none_sound(self.folder, damaged))
        return None

    def _set_aside(self, step: int) -> None:
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
    """Reads one part of a checkpoint, and only that; nothing need be known of the run that wrote it.

    Args:
        folder: the folder of checkpoints.
        abstract: what to read, with shardings as in `Checkpoints.restore`, and cast to its dtypes; None: everything, as
            numpy arrays.
        step: which checkpoint; a damaged one is passed over with a warning, unless asked for by number.
        part: the part to read.
        metric, higher_is_better: what "best" means.

    Returns:
        The step, and the tree of parameters.

    Raises:
        FileNotFoundError: there is no checkpoint, or not that one.
        ValueError: none can be read, none has the metric, or shapes differ.
    """
    folder = _address(folder)
    found = (
        sorted((int(p.name) for p in folder.iterdir() if p.name.isdecimal()), reverse=True) if folder.exists() else []
    )
    if not found:
        raise FileNotFoundError(f"No checkpoint in {folder}; train first, or give the folder of a run that has one.")
    if isinstance(step, int) and step not in found:
        raise FileNotFoundError(f"No checkpoint {step} in {folder}; there are {', '.join(map(str, sorted(found)))}.")
    if isinstance(step, int):
        found = [step]
    elif step == "best":
        sign = 1.0 if higher_is_better else -1.0
        rated = {s: value for s in found if (value := _metric(folder / str(s), metric)) is not None}
        if not rated:
            raise ValueError(f'No checkpoint in {folder} was saved with the metric "{metric}"; ask for "latest".')
        found = sorted(rated, key=lambda s: sign * rated[s], reverse=True)
    damaged: dict[int, DamagedError] = {}
    for number in found:
        try:
            return number, _read(folder / str(number), {part: abstract})[part]
        except DamagedError as error:
            damaged[number] = error
            if number != found[-1]:
                log.warning("Checkpoint %d in %s is damaged (%s); trying another.", number, folder, error)
    raise ValueError(_none_sound(folder, damaged))


def _address(folder: str | os.PathLike[str]) -> epath.Path:
    text = os.fspath(folder)
    return epath.Path(text if "://" in text else os.path.abspath(text))


def _metric(path: epath.Path, name: str) -> float | None:
    try:
        with _quiet():
            value = float(ocp.checkpointables_metadata(path).custom_metadata["metrics"][name])
    except Exception:
        return None
    return value if np.isfinite(value) else None


def _none_sound(folder: epath.Path, damaged: dict[int, DamagedError]) -> str:
    newest = max(damaged)
    return (
        f"No checkpoint in {folder} can be read (tried {', '.join(map(str, damaged))}; {newest}: {damaged[newest]}); "
        "restore the folder from a copy, or move it away to start again."
    )


def _read(path: epath.Path, abstract: State) -> State:
    """Reads parts of one checkpoint, None standing for a whole part as numpy arrays; DamagedError or MismatchError."""
    try:
        with _quiet():
            saved = ocp.checkpointables_metadata(path).metadata
            written = saved.get(CHECKSUMS)
            if not written:
                raise DamagedError("it was not written, or not deleted, to the end")
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
        if isinstance(error.__cause__, PermissionError | MemoryError | jax.errors.JaxRuntimeError):
            raise error.__cause__ from None
        raise DamagedError(_reason(error)) from error
    sums = state.pop(CHECKSUMS)
    for part, tree in state.items():
        if not np.array_equal(sums[part], _checksums(tree)):
            raise DamagedError(f"the arrays of {part!r} are not those that were written")
        if abstract[part] is not None:
            state[part] = jax.tree.map(
                lambda x, like: x.astype(like.dtype) if hasattr(like, "dtype") else x, tree, abstract[part]
            )
    return state


def _plan(path: epath.Path, part: str, saved: Tree, wanted: Tree | None) -> Tree:
    """The tree to ask Orbax for: names and shapes compared with what is saved, dtypes as they are saved."""

    def plan(leaf: Any, like: Any) -> Any:
        if not hasattr(leaf, "shape"):
            return leaf
        sharding = getattr(like, "sharding", None)
        if sharding is None:
            # One zero seen everywhere: a shape and a dtype without the memory.
            return np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape)
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    if wanted is None:
        return jax.tree.map(lambda leaf: plan(leaf, None), saved)
    leaves = {_name(key): leaf for key, leaf in jax.tree.leaves_with_path(saved)}
    likes = {_name(key): like for key, like in jax.tree.leaves_with_path(wanted)}
    for name, like in likes.items():
        if name not in leaves:
            raise MismatchError(f"Checkpoint {path} has no {part} {name!r}; it belongs to another configuration.")
        if (there := getattr(leaves[name], "shape", ())) != (here := np.shape(like)):
            raise MismatchError(
                f"Checkpoint {path} has {part} {name!r} of shape {tuple(there)}, not {tuple(here)}; "
                "it belongs to another configuration."
            )
    for name in leaves:
        if name not in likes:
            raise MismatchError(f"Checkpoint {path} has {part} {name!r}, which this configuration has not.")
    return jax.tree.map_with_path(lambda key, like: plan(leaves[_name(key)], like), wanted)


def _name(key: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(key, simple=True, separator="/")


def _checksums(tree: Tree) -> np.ndarray:
    """One uint32 per array, in the tree's order; the same however the array is spread over devices."""
    leaves = [x for x in jax.tree.leaves(tree) if isinstance(x, jax.Array | np.ndarray)]
    on_device = iter(_device_checksums([x for x in leaves if isinstance(x, jax.Array)]))
    sums = [next(on_device) if isinstance(x, jax.Array) else _checksum(np, x) for x in leaves]
    return np.array([np.asarray(x) for x in sums], np.uint32)


@jax.jit
def _device_checksums(leaves: list[jax.Array]) -> list[jax.Array]:
    return [_checksum(jnp, x) for x in leaves]


def _checksum(xp: Any, x: Any) -> Any:
    """The sum of the bits as integers, each times an odd number of its index, modulo 2^32.

    Integer sums do not depend on their order, hence not on the mesh; odd weights let no single changed element through.
    """
    x = x.reshape(1) if x.ndim == 0 else x
    bits = x.view(np.dtype(f"uint{8 * x.dtype.itemsize}"))
    bits = (bits if x.dtype.itemsize <= 4 else bits ^ (bits >> 32)).astype(np.uint32)
    weight = xp.ones((), np.uint32)
    for axis, size in enumerate(x.shape):
        index = xp.arange(size, dtype=np.uint32).reshape(-1, *[1] * (x.ndim - 1 - axis))
        weight = weight + index * np.uint32(2654435762 + 2 * axis)
    return xp.sum(bits * weight, dtype=np.uint32)


def _not_from_orbax(record: logging.LogRecord) -> bool:
    return "orbax" not in Path(record.pathname).parts


# Its threads log whole tracebacks of failures that are raised here, in one sentence, when the save is awaited.
logging.getLogger("absl").addFilter(_not_from_orbax)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences what asyncio logs about a failure that is reported here."""
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
        text = "... " + text[-200:]  # the cause stands last
    return (text or type(error).__name__).rstrip(".")
