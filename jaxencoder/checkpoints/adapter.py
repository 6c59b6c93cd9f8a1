"""Adapters without their base: the arrays that a run has trained, in a small folder, and added to the base again.

The folder has config.json, the run's settings, and adapter.safetensors, every trained array by its path. A fingerprint
of the frozen weights makes sure that the base is the right one.
"""

import dataclasses
import hashlib
import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from jaxencoder.adapters.lora import merge_lora
from jaxencoder.checkpoints.checkpoint import Checkpoint
from jaxencoder.checkpoints.kind import ADAPTER_FILE, kind_of
from jaxencoder.checkpoints.run import read_params, saved_config
from jaxencoder.checkpoints.weights import read_tensors, write_tensors
from jaxencoder.config import RunConfig
from jaxencoder.config_io import save
from jaxencoder.families.roberta import PADDING_POSITION
from jaxencoder.model.sentence import QUERY_TOWER
from jaxencoder.objectives.objective import Params
from jaxencoder.parameters import flatten, set_path
from jaxencoder.training.layerwise import trainable_mask

M = TypeVar("M", bound=Checkpoint)

FINGERPRINT = "base"  # key of the base's fingerprint in the metadata of the arrays
_MAY_CHANGE = ("dropout", "attention_dropout", "rope_theta")  # settings of the encoder that a run may change
_MAY_ADD = ("bottleneck", "bottleneck_sublayers")  # and those that it may add to a base without them
_NOT_HASHED = f"encoder/embeddings/{PADDING_POSITION}"  # adapters of earlier builds have bases without it


class Adapter(NamedTuple):
    """The trained part of a run that started from a model, with its base."""

    config: RunConfig
    params: Params  # all parameters, with a low-rank adapter under "lora", not merged
    paths: frozenset[str]  # of the parameters in the adapter's folder: trained ones of the encoder, and the heads
    base_fingerprint: str  # of the encoder's other parameters


def trained_adapter(run: Path) -> Adapter:
    """Read the adapter of a run; ValueError if it did not start from a model, or trained all of the encoder."""
    if kind_of(run) != "run":
        raise ValueError(f"{run} is not a run, so it has no trained adapter")
    config = saved_config(run)
    if not config.init_from:
        raise ValueError(
            f"{run} did not start from a model, so it is no adapter of a base; write it with --to transformers"
        )
    number, params = read_params(run, config)
    if QUERY_TOWER in params:
        problem = f"{run} has an encoder for queries and one for documents, and an adapter is of one encoder"
        raise ValueError(f"{problem}; write it with --to sentence-transformers")
    config = config.at_step(number)
    patterns = config.trainable_patterns
    trainable = flatten(trainable_mask(patterns)(params)) if patterns else {}
    frozen = {path for path, is_trained in trainable.items() if path.startswith("encoder/") and not is_trained}
    if not frozen:
        raise ValueError(f"{run} trained all of the encoder, so it is no adapter; write it with --to transformers")
    # The moving average of a frozen weight equals it only up to rounding, so the weights themselves are hashed.
    exact = read_params(run, config, number, average=False)[1] if config.training.ema_decay else params
    paths = frozenset(flatten(params)) - frozen
    return Adapter(config, params, paths, fingerprint(exact["encoder"], paths))


def read_adapter(folder: Path, base: Checkpoint) -> Adapter:
    """Read a folder of `write_adapter`; ValueError for another base, or a damaged folder."""
    config = _on_base(saved_config(folder), base)
    arrays, metadata = read_tensors(folder / ADAPTER_FILE)
    # On a base with bottleneck adapters, others would replace them.
    may_differ = _MAY_CHANGE if base.config.model.bottleneck else _MAY_CHANGE + _MAY_ADD
    for name, value in vars(config.model).items():
        base_value = getattr(base.config.model, name)
        if name not in may_differ and value != base_value:
            difference = f"{name} is {value}, and this model's is {base_value}"
            raise ValueError(f"{folder} is an adapter of a model whose {difference}; add it to {config.init_from}")
    if fingerprint(base.params["encoder"], arrays.keys()) != metadata.get(FINGERPRINT):
        raise ValueError(f"{folder} was trained on other weights than this model's; add it to {config.init_from}")
    params: Params = {}
    for path, x in (flatten({"encoder": base.params["encoder"]}) | arrays).items():
        set_path(params, path, x)
    return Adapter(config, params, frozenset(arrays), metadata[FINGERPRINT])


def _on_base(config: RunConfig, base: Checkpoint) -> RunConfig:
    """The configuration of an adapter; one of a build before `position_pad_id` takes that of the base."""
    model, base_model = config.model, base.config.model
    if model.position_pad_id >= 0 or model.positions != base_model.positions:
        return config
    model = dataclasses.replace(model, position_pad_id=base_model.position_pad_id)
    return dataclasses.replace(config, model=model)


def add_adapter(model: M, folder: Path) -> M:
    """The model with the adapter in a folder of `write_adapter`; arrays that it does not change are shared."""
    adapter = read_adapter(folder, model)
    config, params = adapter.config, merge_lora(adapter.config.adapter, adapter.params)
    changed = {"config": config, "params": params, "sentence": config.objective.sentence}
    return dataclasses.replace(model, **changed, published=None, generator=None, base=model)


def write_adapter(adapter: Adapter, folder: Path) -> None:
    """Write an adapter's folder atomically. It must be empty or missing."""
    arrays = {path: np.asarray(x) for path, x in flatten(adapter.params).items() if path in adapter.paths}
    with new_folder(folder) as temporary:
        write_tensors(temporary / ADAPTER_FILE, arrays, {FINGERPRINT: adapter.base_fingerprint})
        save(adapter.config, temporary)


def fingerprint(encoder: Params, without: Collection[str] = ()) -> str:
    """A digest of an encoder's weights except those at `without`, equal on every device and for every format."""
    digest = hashlib.sha256()
    for path, x in sorted(flatten({"encoder": encoder}).items()):
        if path != _NOT_HASHED and path not in without:
            x = np.asarray(x, np.float32)
            # Adding an update of 0 turns -0 into 0, and some devices flush subnormal numbers: all are hashed as 0.
            x = np.where(np.abs(x) < np.finfo(np.float32).tiny, np.float32(0), x)
            digest.update(f"{path} {x.shape}\n".encode())
            digest.update(x.astype("<f4", copy=False).tobytes())
    return digest.hexdigest()


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder to write into, which is renamed to `folder` when all of its files are written."""
    temporary = folder.absolute().with_name(f".{folder.absolute().name}.{os.getpid()}")
    temporary.parent.mkdir(parents=True, exist_ok=True)
    try:
        temporary.mkdir()
        yield temporary
        os.replace(temporary, folder)  # accepts an existing folder only if it is empty
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
