"""From a configuration to the things that a run is made of, with every open choice resolved and written down."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxencoder.config import CONFIG_FILE, RunConfig, from_json, save, to_json
from jaxencoder.model.config import EncoderConfig
from jaxencoder.objectives.classification import Classification
from jaxencoder.objectives.objective import Objective, Params
from jaxencoder.text.prepare import load_or_train
from jaxencoder.text.rows import prepare
from jaxencoder.text.store import Store
from jaxencoder.text.tokenizer import Tokenizer
from jaxencoder.training.checkpoint import restore_params

TOKENIZER_FOLDER = "tokenizer"
CHECKPOINT_FOLDER = "checkpoints"
DATA_FILE = "data.json"

# What may change when a run is continued: nothing that its past steps have depended on.
_MAY_CHANGE = {"name", "compute", "mesh", "data.cache", "data.workers", "tokenizer.path"} | {
    f"training.{name}"
    for name in (
        *("steps", "log_every", "eval_every", "eval_batches", "checkpoint_every", "keep_checkpoints", "keep_best"),
        *("best_metric", "best_mode", "profile_steps", "tensorboard"),
    )
}
# Choices that the data makes where the user has left them at 0.
_OPEN = ("model.vocab_size", "objective.labels")
_CONTENTS = ("settings", "tokenizer", "training rows", "held-out rows")


class Setup(NamedTuple):
    """A run before its first step: the resolved configuration, its data, and its pure functions."""

    config: RunConfig
    tokenizer: Tokenizer
    train: tuple[Store, ...]
    validation: tuple[Store, ...]
    objective: Objective


def set_up(config: RunConfig, run_dir: Path) -> Setup:
    """Prepare tokenizer and rows, resolve the settings that depend on them, and open the run's folder.

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
    contents = _contents(setup)
    _agree(contents)
    if jax.process_index() == 0:
        _open(setup, run_dir, {name: contents[name] for name in _CONTENTS[2:]})
    return setup


def initial_params(init_from: str, params: Params) -> Params:
    """The encoder of the run `init_from`, its heads where `params` has the same ones, and the rest of `params`.

    Raises:
        ValueError: the encoders do not have the same shapes.
        FileNotFoundError: the run has no checkpoint.
    """
    source = restore_params(Path(init_from) / CHECKPOINT_FOLDER)
    shapes = {name: jax.tree.map(np.shape, part) for name, part in source.items()}
    taken = [name for name, part in params.items() if shapes.get(name) == jax.tree.map(np.shape, part)]
    if "encoder" not in taken:
        raise ValueError(f"the encoder of init_from {init_from} has other shapes than this model's; start a new run.")
    if jax.process_index() == 0:
        new = ", ".join(name for name in params if name not in taken) or "nothing"
        print(f"Starting from {init_from}: {', '.join(taken)}; new: {new}", flush=True)
    return {name: source[name] if name in taken else part for name, part in params.items()}


def with_architecture(config: RunConfig, model: EncoderConfig) -> RunConfig:
    """A configuration with the architecture of what it starts from; its rates of dropout stay."""
    rates = {name: getattr(config.model, name) for name in ("dropout", "attention_dropout")}
    return dataclasses.replace(config, model=dataclasses.replace(model, **rates))


def _prepare(config: RunConfig, run_dir: Path) -> Setup:
    _check_writable(run_dir)
    saved = _saved(run_dir) if _is_begun(run_dir) else None
    config, tokenizer = _start(config, run_dir, saved)
    for name, old, new in _differences(saved, config) if saved else ():
        raise ValueError(
            f"{run_dir} already holds a run with {name} {old!r}, not {new!r}; "
            "give another --run-dir, or the run's own settings to continue it."
        )
    progress = jax.process_index() == 0
    train = prepare(config.data, tokenizer, "train", progress)
    validation = prepare(config.data, tokenizer, "validation", progress)
    config = _resolve(config, tokenizer, train)
    setup = Setup(config, tokenizer, train, validation, config.objective.build(config.model, config.compute, tokenizer))
    if saved:
        _check_same_rows(run_dir, _contents(setup))
    return setup


def _check_writable(run_dir: Path) -> None:
    """Before minutes of preparation, not after them."""
    there = next(path for path in (run_dir, *run_dir.absolute().parents) if path.exists())
    if not there.is_dir():
        raise NotADirectoryError(f"{there} is a file; name a folder with --run-dir")
    if not os.access(there, os.W_OK | os.X_OK):
        raise PermissionError(f"{there} cannot be written; name another folder with --run-dir")


def _is_begun(run_dir: Path) -> bool:
    """Whether steps of a run are kept there: settings without a checkpoint bind to nothing."""
    checkpoints = run_dir / CHECKPOINT_FOLDER
    begun = checkpoints.is_dir() and any(path.name.isdecimal() for path in checkpoints.iterdir())
    if begun and not (run_dir / CONFIG_FILE).is_file():
        raise ValueError(f"{run_dir} has checkpoints but no {CONFIG_FILE}; give another --run-dir, or delete it.")
    return begun


def _start(config: RunConfig, run_dir: Path, saved: RunConfig | None) -> tuple[RunConfig, Tokenizer]:
    """The tokenizer, and the configuration with what a continued run or `init_from` decides."""
    source = run_dir if saved else Path(config.init_from)
    if not saved and not config.init_from:
        return config, load_or_train(config.tokenizer, config.data)
    origin = saved or _saved(source)
    tokenizer = Tokenizer.load(source / TOKENIZER_FOLDER)
    given = config.tokenizer.path
    if given and given != origin.tokenizer.path and Tokenizer.load(given).fingerprint != tokenizer.fingerprint:
        raise ValueError(f"tokenizer.path {given} is not the tokenizer that {source} was trained with; leave it out.")
    if not config.init_from:
        return config, tokenizer
    path = origin.tokenizer.path if saved else str(source / TOKENIZER_FOLDER)
    choice = dataclasses.replace(origin.tokenizer, path=path)
    return dataclasses.replace(with_architecture(config, origin.model), tokenizer=choice), tokenizer


def _saved(run_dir: Path) -> RunConfig:
    path = run_dir / CONFIG_FILE
    if not path.is_file():
        raise ValueError(f"{run_dir} is not a run: it has no {CONFIG_FILE}.")
    return from_json(path.read_text(encoding="utf-8"), str(path))


def _resolve(config: RunConfig, tokenizer: Tokenizer, train: tuple[Store, ...]) -> RunConfig:
    size = config.model.vocab_size or tokenizer.vocab_size
    if size < tokenizer.vocab_size:
        raise ValueError(
            f"model.vocab_size is {size}, but the tokenizer has {tokenizer.vocab_size} tokens; "
            "set it to 0 to take the tokenizer's size, or name another tokenizer.path."
        )
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, vocab_size=size))
    if isinstance(config.objective, Classification):
        found = len(train[0].meta["labels"]) or 1
        if len(train[0].meta["labels"]) == 1:
            raise ValueError(
                f"field {config.data.label_field!r} of the training data is {train[0].meta['labels'][0]!r} everywhere; "
                "there is nothing to classify, name another data.label_field."
            )
        if config.objective.labels not in (0, found):
            raise ValueError(
                f"objective.labels is {config.objective.labels}, but the training data has {found}; set it to 0."
            )
        config = dataclasses.replace(config, objective=dataclasses.replace(config.objective, labels=found))
    return config


def _check_same_rows(run_dir: Path, contents: dict[str, str]) -> None:
    path = run_dir / DATA_FILE
    for name, old in json.loads(path.read_text(encoding="utf-8")).items() if path.is_file() else ():
        if contents[name] != old:
            raise ValueError(
                f"the {name} are not those that {run_dir} began with, because the text has changed; "
                f"give another --run-dir, or delete {path} to go on with the new ones."
            )


def _contents(setup: Setup) -> dict[str, str]:
    """What all processes of a run, and all its continuations, must have alike, each as a digest."""
    data = dataclasses.replace(setup.config.data, cache="", workers=0)

    def rows(stores: tuple[Store, ...]) -> str:
        metas = [store.meta | {"token_counts": store.meta["token_counts"].tolist()} for store in stores]
        return json.dumps(metas, sort_keys=True)

    settings = to_json(dataclasses.replace(setup.config, data=data))
    parts = (settings, setup.tokenizer.fingerprint, rows(setup.train), rows(setup.validation))
    return {name: hashlib.sha256(part.encode()).hexdigest() for name, part in zip(_CONTENTS, parts, strict=True)}


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


def _open(setup: Setup, run_dir: Path, rows: dict[str, str]) -> None:
    run_dir.mkdir(parents=True, exist_ok=True)
    if not _is_begun(run_dir):
        setup.tokenizer.save(run_dir / TOKENIZER_FOLDER)
        (run_dir / DATA_FILE).write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    save(setup.config, run_dir)  # last: a folder with a configuration is a run


def _differences(old: Any, new: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    for field in dataclasses.fields(old):
        name, a, b = prefix + field.name, getattr(old, field.name), getattr(new, field.name)
        if a == b or name in _MAY_CHANGE or (name in _OPEN and not b):
            continue
        if dataclasses.is_dataclass(a) and type(a) is type(b):
            yield from _differences(a, b, f"{name}.")
        else:
            yield name, a, b


def unigram_loss(train: tuple[Store, ...], validation: tuple[Store, ...]) -> float:
    """Cross-entropy (nats a token) of the held-out tokens under the training tokens' frequencies, each count plus 1."""
    counts = sum(np.asarray(store.meta["token_counts"], np.float64) for store in train) + 1
    held_out = sum(np.asarray(store.meta["token_counts"], np.float64) for store in validation)
    return float(-(held_out * np.log(counts / counts.sum())).sum() / max(held_out.sum(), 1))
