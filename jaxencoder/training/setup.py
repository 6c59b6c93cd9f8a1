"""Setup of a run: prepare its data and tokenizer, resolve open choices, and open its folder."""

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax

from jaxencoder.checkpoints.initial import InitialModel, open_initial_model, row_length_note, with_architecture
from jaxencoder.checkpoints.run import TOKENIZER_FOLDER, saved_config
from jaxencoder.config import RunConfig
from jaxencoder.config_io import save
from jaxencoder.files import write_json
from jaxencoder.objectives.objective import Objective
from jaxencoder.tasks.task import TaskObjective
from jaxencoder.text.cache import load_or_train, prepare
from jaxencoder.text.sources.fields import format_fields, infer_fields
from jaxencoder.text.store import Store
from jaxencoder.text.tokenizers.tokenizer import Tokenizer
from jaxencoder.training import agreement
from jaxencoder.training.measures import check_sets
from jaxencoder.training.resolve import resolve_from_data, with_training
from jaxencoder.training.teacher import with_vectors


class Setup(NamedTuple):
    """A run before its first step: the resolved configuration, its data, and its pure functions."""

    config: RunConfig
    tokenizer: Tokenizer
    train: tuple[tuple[Store, ...], ...]  # the rows of each phase, one store per source
    validation: tuple[Store, ...]
    objective: Objective  # of the finished model; a phase may have another masking rate or other rotary wavelengths


def set_up(config: RunConfig, run_dir: Path) -> Setup:
    """Prepare tokenizer and rows of all phases, resolve open choices, and open the run's folder.

    Every process of the run calls this. Process 0 writes, once all processes have the same settings and data.
    ValueError if sections contradict the data, the tokenizer, or the run that is already in the folder.
    """
    try:
        setup = _prepare_run(config, run_dir)
    except (ValueError, OSError):
        agreement.check_processes(None)  # the other processes are waiting
        raise
    agreement.check_processes(agreement.common_texts(setup.config, setup.tokenizer, setup.train, setup.validation))
    if jax.process_index() == 0:
        _open_folder(setup, run_dir)
    return setup


def _prepare_run(config: RunConfig, run_dir: Path) -> Setup:
    _check_writable(run_dir)
    step = agreement.newest_step(run_dir)
    saved = saved_config(run_dir) if step else None  # without a checkpoint the saved settings do not matter
    requested = dataclasses.replace(config, data=infer_fields(config.data, config.schema))
    config, tokenizer = with_initial_model(requested, run_dir, saved)
    if saved and config.training.batch_examples:  # resolved when the run began
        config = with_training(config, batch_size=saved.training.batch_size)
    if saved:
        agreement.check_settings(run_dir, saved, config, step)
    check_sets(config)
    progress = jax.process_index() == 0
    if progress and (note := row_length_note(requested, config)):
        print(note, flush=True)
    train = training_rows(config, tokenizer, progress)
    validation = prepare(config.data, tokenizer, "validation", progress, config.schema)
    if progress and config.is_supervised and not config.schema.by_source:
        print(format_fields(config.data), flush=True)
    config, train, validation = with_vectors(config, train, validation, progress)
    config = resolve_from_data(config, tokenizer, train, saved)
    if saved:
        begun = train[: len(saved.at_step(step).phase_configs)]
        agreement.check_rows(run_dir, agreement.row_digests(begun, validation))
    return Setup(config, tokenizer, train, validation, config.build(tokenizer))


def training_rows(config: RunConfig, tokenizer: Tokenizer, progress: bool = True) -> tuple[tuple[Store, ...], ...]:
    """The prepared rows of each phase, one store per source; phases of the same data share them. See `prepare`."""
    phases = [phase.data for phase in config.phase_configs]
    stores = {data: prepare(data, tokenizer, "train", progress, config.schema) for data in dict.fromkeys(phases)}
    return tuple(stores[data] for data in phases)


def prepare_all(config: RunConfig) -> Iterator[tuple[str, Store]]:
    """Prepare the tokenizer, rows and vectors of a run ahead of its training; yields each store with its split."""
    config, tokenizer = with_initial_model(dataclasses.replace(config, data=infer_fields(config.data, config.schema)))
    splits: list[Any] = [*((phase.data, "train") for phase in config.phase_configs), (config.data, "validation")]
    for data, split in dict.fromkeys(splits):
        yield from ((split, store) for store in prepare(data, tokenizer, split, schema=config.schema))
    if isinstance(config.objective, TaskObjective) and config.objective.vectors_of:
        train = training_rows(config, tokenizer, progress=False)
        with_vectors(config, train, prepare(config.data, tokenizer, "validation", False, config.schema))


def with_initial_model(
    config: RunConfig, run_dir: Path | None = None, saved: RunConfig | None = None
) -> tuple[RunConfig, Tokenizer]:
    """The configuration of a command with the architecture of the model that it starts from, and the tokenizer.

    `run_dir` and `saved` are the folder and the configuration of the run to continue, if any. ValueError or OSError if
    the initial model cannot be opened, or its tokenizer is another one.
    """
    if saved and run_dir:
        tokenizer = Tokenizer.load(run_dir / TOKENIZER_FOLDER)
        objective = saved.objective
        settings = objective.sentence, objective.heads(saved.model), objective.multi_vector(saved.model)
        initial = InitialModel(saved.model, tokenizer, saved.tokenizer, *settings)
    elif config.init_from:
        initial = open_initial_model(config.init_from)
    else:
        return _completed(config, load_or_train(config.tokenizer, config.data, config.schema))
    path = config.tokenizer.path
    if (
        path not in ("", initial.tokenizer_config.path)
        and Tokenizer.load(path).fingerprint != initial.tokenizer.fingerprint
    ):
        source = run_dir if saved else config.init_from
        raise ValueError(f"tokenizer.path {path} is not the tokenizer of {source}; leave it out.")
    if not config.init_from:
        return _completed(config, initial.tokenizer)
    config = dataclasses.replace(with_architecture(config, initial.model), tokenizer=initial.tokenizer_config)
    if isinstance(config.objective, TaskObjective):
        objective, begun = config.objective, saved and saved.objective
        if isinstance(begun, type(objective)):
            objective = objective.continued_from(begun)
        else:
            objective = objective.started_from(initial.sentence)
        objective = objective.started_with_heads(initial.heads)
        config = dataclasses.replace(config, objective=objective.started_from_tokens(initial.multi_vector))
    return _completed(config, initial.tokenizer)


def _completed(config: RunConfig, tokenizer: Tokenizer) -> tuple[RunConfig, Tokenizer]:
    """The configuration with what its objective takes from the encoder, and the tokenizer with the tokens it needs."""
    if not isinstance(config.objective, TaskObjective):
        return config, tokenizer
    objective = config.objective.for_encoder(config.model)
    return dataclasses.replace(config, objective=objective), objective.with_special_tokens(tokenizer)


def _check_writable(run_dir: Path) -> None:
    """Check the folder before minutes of preparation, not after them."""
    existing = next(path for path in (run_dir, *run_dir.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise NotADirectoryError(f"{existing} is a file; name a folder with --run-dir")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise PermissionError(f"{existing} cannot be written; name another folder with --run-dir")


def _open_folder(setup: Setup, run_dir: Path) -> None:
    run_dir.mkdir(parents=True, exist_ok=True)
    if not agreement.newest_step(run_dir):
        setup.tokenizer.save(run_dir / TOKENIZER_FOLDER)
    write_json(run_dir / agreement.DATA_FILE, agreement.row_digests(setup.train, setup.validation))
    save(setup.config, run_dir)  # last: a folder with a configuration is a run
