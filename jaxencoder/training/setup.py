"""From a configuration to the things that a run is made of, with every open choice resolved and written down."""

import dataclasses
import hashlib
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxencoder.checkpoints.initial import InitialModel, open_initial_model, row_length_note, with_architecture
from jaxencoder.checkpoints.run import CHECKPOINT_FOLDER, TOKENIZER_FOLDER, saved_config
from jaxencoder.config import RunConfig
from jaxencoder.config_io import CONFIG_FILE, save, to_json
from jaxencoder.files import write_atomic
from jaxencoder.objectives.objective import Objective
from jaxencoder.sharding import make_mesh
from jaxencoder.tasks import table
from jaxencoder.tasks.task import TrainingLabels
from jaxencoder.text.row_cache import prepare
from jaxencoder.text.sources.fields import format_fields, infer_fields
from jaxencoder.text.store import Store
from jaxencoder.text.tokenizer_cache import load_or_train
from jaxencoder.text.tokenizers.tokenizer import Tokenizer
from jaxencoder.training.config import Phase

log = logging.getLogger(__name__)

DATA_FILE = "data.json"

# What may change when a run is continued: nothing that its past steps have depended on.
_MAY_CHANGE = {"name", "compute", "mesh", "phases", "data.cache", "data.workers", "tokenizer.path"} | {
    f"training.{name}"
    for name in (
        *("steps", "epochs", "log_every", "eval_every", "num_evaluations", "eval_batches", "checkpoint_every"),
        *("keep_checkpoints", "keep_best", "best_metric", "best_mode", "patience", "profile_steps", "tensorboard"),
    )
}
_RARE = 0.1  # of what a class would have if all had as many examples; one with less is warned of
_CONTENTS = ("settings", "tokenizer", "training rows", "held-out rows")


class Setup(NamedTuple):
    """A run before its first step: the resolved configuration, its data, and its pure functions.

    Attributes:
        train: of each phase, the rows of its sources.
        objective: of the finished model; that of a phase may mask more, or turn by other angles.
    """

    config: RunConfig
    tokenizer: Tokenizer
    train: tuple[tuple[Store, ...], ...]
    validation: tuple[Store, ...]
    objective: Objective


def set_up(config: RunConfig, run_dir: Path) -> Setup:
    """Prepare tokenizer and rows of all phases, resolve what depends on them, and open the run's folder.

    Every process of the run calls this; process 0 writes, once all of them have the same settings and data.

    Raises:
        ValueError: sections that contradict the data, the tokenizer, or the run that is already in the folder.
        OSError: the folder cannot be written.
    """
    try:
        setup = _prepare(config, run_dir)
    except (ValueError, OSError):
        _agree(None)  # the other processes are waiting
        raise
    _agree(_contents(setup))
    if jax.process_index() == 0:
        _open(setup, run_dir)
    return setup


def _prepare(config: RunConfig, run_dir: Path) -> Setup:
    _check_writable(run_dir)
    done = _newest(run_dir)
    saved = saved_config(run_dir) if done else None
    asked = dataclasses.replace(config, data=infer_fields(config.data, config.schema))
    config, tokenizer = with_start(asked, run_dir, saved)
    if saved and config.training.batch_examples:  # counted when the run began
        config = _with_training(config, batch_size=saved.training.batch_size)
    for name, old, new in (*_differences(saved, config), *_past(saved, config, done)) if saved else ():
        raise ValueError(
            f"{run_dir} already holds a run with {name} {old!r}, not {new!r}; "
            "give another --run-dir, or the run's own settings to continue it."
        )
    progress = jax.process_index() == 0
    if progress and (said := row_length_note(asked, config)):
        print(said, flush=True)
    train = training_rows(config, tokenizer, progress)
    validation = prepare(config.data, tokenizer, "validation", progress, config.schema)
    if progress and config.data.label_field:
        print(format_fields(config.data), flush=True)
    config = _counted(_resolve(_resumed(config, saved), tokenizer, train), train[0], bool(saved))
    setup = Setup(config, tokenizer, train, validation, config.build(tokenizer))
    if saved:
        _check_same_rows(run_dir, _digests(setup, len(saved.at_step(done).phase_configs)))
    return setup


def training_rows(config: RunConfig, tokenizer: Tokenizer, progress: bool = True) -> tuple[tuple[Store, ...], ...]:
    """The prepared rows of each phase, one store a source; phases of the same data share them. See `prepare`."""
    wanted = [part.data for part in config.phase_configs]
    found = {data: prepare(data, tokenizer, "train", progress, config.schema) for data in dict.fromkeys(wanted)}
    return tuple(found[data] for data in wanted)


def prepare_all(config: RunConfig) -> Iterator[tuple[str, Store]]:
    """Prepare the tokenizer and all rows of a run ahead of its training; yields each store with its split."""
    config, tokenizer = with_start(dataclasses.replace(config, data=infer_fields(config.data, config.schema)))
    splits = [*((phase.data, "train") for phase in config.phase_configs), (config.data, "validation")]
    for data, split in dict.fromkeys(splits):
        yield from ((split, store) for store in prepare(data, tokenizer, split, schema=config.schema))


def unique_stores(stores: tuple[tuple[Store, ...], ...]) -> tuple[Store, ...]:
    """The stores of all phases, each once."""
    return tuple(dict.fromkeys(store for phase in stores for store in phase))


def _check_writable(run_dir: Path) -> None:
    """Before minutes of preparation, not after them."""
    there = next(path for path in (run_dir, *run_dir.absolute().parents) if path.exists())
    if not there.is_dir():
        raise NotADirectoryError(f"{there} is a file; name a folder with --run-dir")
    if not os.access(there, os.W_OK | os.X_OK):
        raise PermissionError(f"{there} cannot be written; name another folder with --run-dir")


def _newest(run_dir: Path) -> int:
    """The last step of a run that is kept there; 0: none, and settings without a checkpoint bind to nothing."""
    checkpoints = run_dir / CHECKPOINT_FOLDER
    names = [path.name for path in checkpoints.iterdir()] if checkpoints.is_dir() else []
    newest = max((int(name) for name in names if name.isdecimal()), default=0)
    if newest and not (run_dir / CONFIG_FILE).is_file():
        raise ValueError(f"{run_dir} has checkpoints but no {CONFIG_FILE}; give another --run-dir, or delete it.")
    return newest


def with_start(
    config: RunConfig, run_dir: Path | None = None, saved: RunConfig | None = None
) -> tuple[RunConfig, Tokenizer]:
    """The configuration with what `init_from` decides, or the run that a folder holds, and the tokenizer.

    Args:
        run_dir, saved: of a run that is continued, its folder and its configuration.

    Raises:
        ValueError, OSError: no model to start from, or another tokenizer than its own.
    """
    if saved:
        start = InitialModel(saved.model, Tokenizer.load(run_dir / TOKENIZER_FOLDER), saved.tokenizer)
    elif config.init_from:
        start = open_initial_model(config.init_from)
    else:
        return config, load_or_train(config.tokenizer, config.data, config.schema)
    given, known = config.tokenizer.path, start.tokenizer_config.path
    if given and given != known and Tokenizer.load(given).fingerprint != start.tokenizer.fingerprint:
        source = run_dir if saved else config.init_from
        raise ValueError(f"tokenizer.path {given} is not the tokenizer that {source} was trained with; leave it out.")
    if not config.init_from:
        return config, start.tokenizer
    config = dataclasses.replace(with_architecture(config, start.model), tokenizer=start.tokenizer_config)
    return config, start.tokenizer


def _resumed(config: RunConfig, saved: RunConfig | None) -> RunConfig:
    """The configuration of a continued run, with what the data decided when it began."""
    if saved is None or not config.is_supervised:
        return config
    return dataclasses.replace(config, objective=config.objective.resumed(saved.objective))


def _counted(config: RunConfig, stores: tuple[Store, ...], begun: bool) -> RunConfig:
    """With the steps and the batch that epochs and examples come to; a run that has begun keeps its batch."""
    training, shares = config.training, 1
    if training.batch_examples and not begun:
        shape = make_mesh(config.mesh).shape
        shares = shape["data"] * shape["fsdp"]
    training = dataclasses.replace(training, batch_examples=0 if begun else training.batch_examples)
    training = training.resolve(sum(map(len, stores)), labeled_examples(config, stores), shares)
    training = dataclasses.replace(training, batch_examples=config.training.batch_examples)
    return dataclasses.replace(config, training=training)


def labeled_examples(config: RunConfig, stores: tuple[Store, ...]) -> int:
    """How many labelled examples there are in rows; 0 where the text is not labelled."""
    return sum(store.meta["pieces"] for store in stores) if config.data.label_field else 0


def _with_training(config: RunConfig, **settings: Any) -> RunConfig:
    return dataclasses.replace(config, training=dataclasses.replace(config.training, **settings))


def _resolve(config: RunConfig, tokenizer: Tokenizer, train: tuple[tuple[Store, ...], ...]) -> RunConfig:
    size = config.model.vocab_size or tokenizer.vocab_size
    if size < tokenizer.vocab_size:
        raise ValueError(
            f"model.vocab_size is {size}, but the tokenizer has {tokenizer.vocab_size} tokens; "
            "set it to 0 to take the tokenizer's size, or name another tokenizer.path."
        )
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, vocab_size=size))
    if config.is_supervised:
        names, *others = (tuple(store.meta["labels"]) for store in unique_stores(train))
        if any(other != names for other in others):
            raise ValueError(
                f"the phases have the classes {list(names)} and {list(next(x for x in others if x != names))}; "
                "name those of all in data.labels."
            )
        if len(names) == 1:
            raise ValueError(
                f"field {config.data.label_field!r} of the training data holds no class but {names[0]!r}; "
                "there is nothing to classify, name another data.label_field."
            )
        objective = config.objective.with_labels(_training_labels(config, names, train[0]))
        config = dataclasses.replace(config, objective=objective)
    if not config.training.best_metric:
        metric, mode = config.objective.best
        config = _with_training(config, best_metric=metric, best_mode=mode)
    return config


def _training_labels(config: RunConfig, names: tuple[str, ...], train: tuple[Store, ...]) -> TrainingLabels:
    kind, counts = train[0].meta["label_kind"], ()
    if names and kind in ("class", "classes"):
        counts = tuple(sum(store.label_counts() for store in train).tolist())
        _warn_of_rare(names, counts, labeled_examples(config, train))
    return TrainingLabels(config.data.label_field, kind, names, counts)


def _warn_of_rare(labels: tuple[str, ...], counts: tuple[int, ...], examples: int) -> None:
    """One warning of the classes that have few examples, or none, beside the others."""
    rare = {label: n for label, n in zip(labels, counts, strict=True) if n * len(counts) < _RARE * sum(counts)}
    if rare and jax.process_index() == 0:
        which = ", ".join(f"{label!r} ({n})" for label, n in sorted(rare.items(), key=lambda item: item[1])[:8])
        log.warning(
            "Rare among %d training examples: %s. Accuracy will not show them: watch macro_f1 and auprc, and see "
            "objective.loss and objective.class_weights.", examples, which,
        )  # fmt: skip


def _check_same_rows(run_dir: Path, digests: dict[str, str]) -> None:
    path = run_dir / DATA_FILE
    for name, old in json.loads(path.read_text(encoding="utf-8")).items() if path.is_file() else ():
        if digests.get(name, old) != old:
            raise ValueError(
                f"the {name} are not those that {run_dir} began with, because the data has changed; "
                f"give another --run-dir, or delete {path} to go on with the new ones."
            )


def _contents(setup: Setup) -> dict[str, str]:
    """What all processes of a run, and all its continuations, must have alike, each as a digest."""
    data = dataclasses.replace(setup.config.data, cache="", workers=0)
    choice = dataclasses.replace(setup.config.tokenizer, path="")  # where a host keeps its copy
    settings = to_json(dataclasses.replace(setup.config, data=data, tokenizer=choice))
    stores = (_described(unique_stores(setup.train)), _described(setup.validation))
    texts = (settings, setup.tokenizer.fingerprint, *(json.dumps(metas, sort_keys=True) for metas in stores))
    return {name: _digest(text) for name, text in zip(_CONTENTS, texts, strict=True)}


def _digests(setup: Setup, phases: int) -> dict[str, str]:
    """Of the rows of the first phases and those held out, by which a continued run knows its data."""
    rows = {
        f"training rows of phase {number}" if number else "training rows": setup.train[number]
        for number in range(phases)
    }
    rows["held-out rows"] = setup.validation
    digests = {}
    for name, stores in rows.items():
        metas = _described(stores)
        contents = [meta.pop("content") for meta in metas]  # apart: older runs have no digest of it
        digests[name] = _digest(json.dumps(metas, sort_keys=True))
        digests[f"contents of the {name}"] = _digest(json.dumps(contents))
    return digests


def _described(stores: tuple[Store, ...]) -> list[dict[str, Any]]:
    return [store.meta | {"token_counts": store.meta["token_counts"].tolist()} for store in stores]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _agree(contents: dict[str, str] | None) -> None:
    """Wait until every process is ready; ValueError where one has failed (None) or has other contents."""
    if jax.process_count() == 1:
        return
    digests = contents.values() if contents else ("",) * len(_CONTENTS)
    mine = np.array([list(hashlib.sha256(digest.encode()).digest()) for digest in digests], np.uint8)
    everyone, ready = multihost_utils.process_allgather((mine, np.array(bool(contents))))
    if contents and not ready.all():
        raise ValueError(f"process {int(ready.argmin())} of this run has failed; see what it says.")
    for i, name in enumerate(_CONTENTS):
        if contents and (everyone[:, i] != everyone[0, i]).any():  # [processes, contents, 32]
            raise ValueError(
                f"the processes of this run do not have the same {name}; give each the same command and the same files."
            )


def _open(setup: Setup, run_dir: Path) -> None:
    run_dir.mkdir(parents=True, exist_ok=True)
    if not _newest(run_dir):
        setup.tokenizer.save(run_dir / TOKENIZER_FOLDER)
    write_atomic(run_dir / DATA_FILE, json.dumps(_digests(setup, len(setup.train)), indent=2) + "\n")
    save(setup.config, run_dir)  # last: a folder with a configuration is a run


def _from_data() -> set[str]:
    """Settings that the training data decides if they are left at 0 or empty."""
    return {"model.vocab_size"} | {f"objective.{name}" for task in table.TASKS for name in task.objective.from_data}


def _differences(old: Any, new: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    for field in dataclasses.fields(old):
        name, a, b = prefix + field.name, getattr(old, field.name), getattr(new, field.name)
        if a == b or name in _MAY_CHANGE or (name in _from_data() and not b):
            continue
        if dataclasses.is_dataclass(a) and type(a) is type(b):
            yield from _differences(a, b, f"{name}.")
        else:
            yield name, a, b


def _past(old: RunConfig, new: RunConfig, done: int) -> Iterator[tuple[str, Any, Any]]:
    """Differences of phases that have begun; where the last of them ends may change, and what comes after it."""
    wanted = new.phases or (Phase(new.training.steps or old.training.steps),)  # epochs are counted later
    start = 0
    for number, phase in enumerate(old.at_step(done).phases or (Phase(old.training.steps),)):
        if number == len(wanted):
            yield "phases", len(old.phases), len(new.phases)
            return
        end, other = start + phase.steps, wanted[number]
        if end >= done and (start + other.steps >= done or number == len(wanted) - 1):
            other = dataclasses.replace(other, steps=phase.steps)
        yield from _differences(phase, other, f"phases.{number}.")
        start = end
