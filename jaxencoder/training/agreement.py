"""What must agree: a continued run with its past, and all processes of a run with each other."""

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxencoder.checkpoints.run import CHECKPOINT_FOLDER
from jaxencoder.config import RunConfig
from jaxencoder.config_io import CONFIG_FILE, to_json
from jaxencoder.tasks import table
from jaxencoder.text.store import Store
from jaxencoder.text.tokenizers.tokenizer import Tokenizer
from jaxencoder.training.config import Phase
from jaxencoder.training.resolve import unique_stores

DATA_FILE = "data.json"

# Settings that may change when a run is continued: past steps have not depended on them.
_MAY_CHANGE = {"name", "compute", "mesh", "phases", "data.cache", "data.engine", "data.workers", "tokenizer.path"} | {
    f"training.{name}"
    for name in (
        *("steps", "epochs", "log_every", "eval_every", "num_evaluations", "eval_batches", "checkpoint_every"),
        *("keep_checkpoints", "keep_best", "evaluations", "best_metric", "best_mode", "patience"),
        *("profile_steps", "tensorboard"),
    )
}
_PARTS = ("settings", "tokenizer", "training rows", "held-out rows")


def newest_step(run_dir: Path) -> int:
    """The step of the newest checkpoint in a run's folder, 0 if there is none; ValueError without a config.json."""
    checkpoints = run_dir / CHECKPOINT_FOLDER
    # `glob` would pass over a folder that cannot be read, and the run would begin anew.
    names = [path.name for path in checkpoints.iterdir()] if checkpoints.is_dir() else []
    newest = max((int(name) for name in names if name.isdecimal()), default=0)
    if newest and not (run_dir / CONFIG_FILE).is_file():
        raise ValueError(f"{run_dir} has checkpoints but no {CONFIG_FILE}; give another --run-dir, or delete it.")
    return newest


def check_settings(run_dir: Path, saved: RunConfig, config: RunConfig, step: int) -> None:
    """Raise ValueError if a run that is continued after `step` has other settings than its past steps."""
    for name, old, new in (*_differences(saved, config), *_phase_differences(saved, config, step)):
        raise ValueError(
            f"{run_dir} already holds a run with {name} {old!r}, not {new!r}; "
            "give another --run-dir, or the run's own settings to continue it."
        )


def _differences(old: Any, new: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    # Settings decided when a run begins if they are left at 0 or empty.
    from_data = {f"objective.{name}" for task in table.TASKS for name in task.objective.from_data}
    for field in dataclasses.fields(old):
        name, a, b = prefix + field.name, getattr(old, field.name), getattr(new, field.name)
        if a == b or name in _MAY_CHANGE or (name in from_data | {"model.vocab_size"} and not b):
            continue
        if dataclasses.is_dataclass(a) and type(a) is type(b):
            yield from _differences(a, b, f"{name}.")
        else:
            yield name, a, b


def _phase_differences(old: RunConfig, new: RunConfig, step: int) -> Iterator[tuple[str, Any, Any]]:
    """Differences in the phases begun by `step`. The end of the last one may change, and so may later phases."""
    new_phases = new.phases or (Phase(new.training.steps or old.training.steps),)  # epochs become steps later
    start = 0
    for number, phase in enumerate(old.at_step(step).phases or (Phase(old.training.steps),)):
        if number == len(new_phases):
            yield "phases", len(old.phases), len(new.phases)
            return
        end, new_phase = start + phase.steps, new_phases[number]
        if end >= step and (start + new_phase.steps >= step or number == len(new_phases) - 1):
            new_phase = dataclasses.replace(new_phase, steps=phase.steps)
        yield from _differences(phase, new_phase, f"phases.{number}.")
        start = end


def row_digests(train: tuple[tuple[Store, ...], ...], validation: tuple[Store, ...]) -> dict[str, str]:
    """A digest of the training rows of each phase and of the held-out rows, to recognize a run's data."""
    rows = {f"training rows of phase {i}" if i else "training rows": stores for i, stores in enumerate(train)}
    rows |= {"held-out rows": validation}
    return {name: hashlib.sha256(_describe(stores).encode()).hexdigest() for name, stores in rows.items()}


def check_rows(run_dir: Path, digests: dict[str, str]) -> None:
    """Raise ValueError if the rows are not those that the run in the folder began with."""
    path = run_dir / DATA_FILE
    for name, old in json.loads(path.read_text(encoding="utf-8")).items() if path.is_file() else ():
        if digests.get(name, old) != old:
            raise ValueError(
                f"the {name} are not those that {run_dir} began with, because the data has changed; "
                f"give another --run-dir, or delete {path} to continue with the new ones."
            )


def common_texts(
    config: RunConfig, tokenizer: Tokenizer, train: tuple[tuple[Store, ...], ...], validation: tuple[Store, ...]
) -> list[str]:
    """A text for each of `_PARTS`, which all processes of a run must have in common."""
    data = dataclasses.replace(config.data, cache="", engine="process", workers=0)
    choice = dataclasses.replace(config.tokenizer, path="")  # hosts may keep their copies in different places
    settings = to_json(dataclasses.replace(config, data=data, tokenizer=choice))
    return [settings, tokenizer.fingerprint, _describe(unique_stores(train)), _describe(validation)]


def check_processes(texts: list[str] | None) -> None:
    """Wait until every process is ready; ValueError if one has failed, which gives None, or has other texts."""
    if jax.process_count() == 1:
        return
    # Hashes have the same size on every process, also on one that has failed: [parts, 32].
    mine = np.array([list(hashlib.sha256(x.encode()).digest()) for x in texts or [""] * len(_PARTS)], np.uint8)
    everyone, ready = multihost_utils.process_allgather((mine, np.array(bool(texts))))
    if texts and not ready.all():
        raise ValueError(f"process {int(ready.argmin())} of this run has failed; see its output.")
    for i, name in enumerate(_PARTS):
        if texts and (everyone[:, i] != everyone[0, i]).any():  # [processes, parts, 32]
            raise ValueError(
                f"the processes of this run do not have the same {name}; give each the same command and the same files."
            )


def of_first_process(value: Any) -> Any:
    """The value of process 0, of what JSON holds, on every process. Each must call it."""
    if jax.process_count() == 1:
        return value
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    size = multihost_utils.broadcast_one_to_all(np.int32(text.size))
    return json.loads(multihost_utils.broadcast_one_to_all(np.resize(text, int(size))).tobytes())


def _describe(stores: tuple[Store, ...]) -> str:
    metas = [store.meta | {"token_counts": store.meta["token_counts"].tolist()} for store in stores]
    return json.dumps(metas, sort_keys=True)
