"""What fine-tuning has learned, as a small folder of its own, and put onto its base again.

An adapter's folder has config.json, the run's settings, and adapter.safetensors, every array that learned by its path.
It knows the weights that it stands on by a fingerprint of those that stayed. PEFT's folders are read and written too.
"""

import dataclasses
import hashlib
import logging
import os
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import jax
import numpy as np

from jaxencoder.adapters.lora import NAME as LORA
from jaxencoder.adapters.lora import merge_lora
from jaxencoder.adapters.peft import PREFIX, from_peft, to_peft
from jaxencoder.adapters.peft_heads import SEQUENCE, classifier_to_peft, heads_from_peft
from jaxencoder.checkpoints.checkpoint import Checkpoint
from jaxencoder.checkpoints.hub import resolve
from jaxencoder.checkpoints.initial import (
    ADAPTER_FILE,
    PEFT_CONFIG,
    is_published,
    raw_weights,
    saved_config,
    transformer_of,
)
from jaxencoder.checkpoints.transformers import read_model
from jaxencoder.checkpoints.weights import read_tensors, write_tensors
from jaxencoder.config import RunConfig
from jaxencoder.config_io import save
from jaxencoder.families.published import Published, check_publishable, family_of
from jaxencoder.families.tables import renamed
from jaxencoder.files import read_json, write_json
from jaxencoder.model.config import EncoderConfig
from jaxencoder.model.sentence import SentenceConfig
from jaxencoder.objectives.objective import Params
from jaxencoder.parameters import path_of
from jaxencoder.tasks.classification.classify import PUBLISHED_HEAD as SEQUENCE_HEAD
from jaxencoder.tasks.table import task_of
from jaxencoder.training.layerwise import trainable_mask

log = logging.getLogger(__name__)

M = TypeVar("M", bound=Checkpoint)

PEFT_FILE = "adapter_model.safetensors"
# Of an EncoderConfig, what a run may have otherwise than what it starts from, and what it may add.
_FREE, _ADAPTERS = ("dropout", "attention_dropout", "rope_theta"), ("bottleneck", "bottleneck_sublayers")
_BASE = "base"  # the fingerprint, in the metadata of the arrays


class Learned(NamedTuple):
    """A run that started from a model.

    Attributes:
        config: of the run.
        params: all of them, a low-rank adapter apart.
        paths: of those that an adapter's folder holds: what learned, and what stands on the encoder.
        base: fingerprint of the others.
    """

    config: RunConfig
    params: Params
    paths: frozenset[str]
    base: str


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter alone, ours or PEFT's."""
    return (folder / ADAPTER_FILE).is_file() or (folder / PEFT_CONFIG).is_file()


def base_of(folder: Path) -> str:
    """The model that an adapter's folder names as its base; ValueError if it names none."""
    if (folder / ADAPTER_FILE).is_file():
        return saved_config(folder).init_from
    name = read_json(folder / PEFT_CONFIG, dict).get("base_model_name_or_path")
    if not isinstance(name, str) or not name:
        raise ValueError(
            f"{folder} does not say which model it adapts; load that, and call with_adapter({str(folder)!r})"
        )
    return name


def with_adapter(model: M, folder: str | Path) -> M:
    """The model with an adapter on it; see `Model.with_adapter`."""
    folder = resolve(folder)
    if (folder / ADAPTER_FILE).is_file():
        return _with_own(model, folder)
    if (folder / PEFT_CONFIG).is_file():
        return _with_peft(model, folder)
    raise ValueError(f"{folder} holds no adapter: neither {ADAPTER_FILE} nor {PEFT_CONFIG}")


def learned(run: Path, step: int | Literal["latest", "best"] = "latest") -> Learned:
    """What a run has learned.

    Raises:
        ValueError: it did not start from a model, or nothing of the encoder has stayed; or as `raw_weights`.
        OSError: the run cannot be read.
    """
    if is_published(run):
        raise ValueError(f"{run} is no run, so it has learned nothing beside a base")
    config = saved_config(run)
    if not config.init_from:
        raise ValueError(f"{run} did not start from a model; an adapter needs a base, write it as a run or hf")
    number, params = raw_weights(run, config, step)
    config = config.at_step(number)
    patterns = config.trainable_patterns
    learns = _flat(trainable_mask(patterns)(params)) if patterns else {}
    stays = {path for path in _flat(params) if path.startswith("encoder/") and patterns and not learns[path]}
    if not stays:
        raise ValueError(f"all of {run} has learned, so it is no adapter on a base; write it as a run or hf")
    # In an average, what stays is itself only up to rounding.
    exact = raw_weights(run, config, number, average=False)[1] if config.training.ema_decay else params
    paths = frozenset(_flat(params)) - stays
    return Learned(config, params, paths, fingerprint(exact["encoder"], paths))


def fingerprint(encoder: Params, without: Collection[str] = ()) -> str:
    """A digest of an encoder's weights and their names, the same on every device and for every folder they come from.

    Args:
        encoder: params["encoder"].
        without: paths, from "encoder/", that do not count.
    """
    digest = hashlib.sha256()
    for path, x in sorted(_flat({"encoder": encoder}).items()):
        if path not in without:
            x = np.asarray(x, np.float32)
            # An update of 0 turns -0 and what is too small for a device into 0.
            x = np.where(np.abs(x) < np.finfo(np.float32).tiny, np.float32(0), x)
            digest.update(f"{path} {x.shape}\n".encode())
            digest.update(x.astype("<f4", copy=False).tobytes())
    return digest.hexdigest()


def write_adapter(found: Learned, folder: Path) -> None:
    """Write an adapter's folder, whole or not at all; it must be empty, or not there yet."""
    arrays = {path: np.asarray(x) for path, x in _flat(found.params).items() if path in found.paths}

    def write(part: Path) -> None:
        write_tensors(part / ADAPTER_FILE, arrays, {_BASE: found.base})
        save(found.config, part)

    _whole(folder, write)


def write_peft(found: Learned, folder: Path) -> list[str]:
    """Write a folder that PEFT loads onto transformers' model of the same base, whole or not at all.

    Returns:
        The names of the heads that it could not hold.

    Raises:
        ValueError: what learned is no low-rank adapter, or more than one.
    """
    config, params = found.config, found.params
    if config.model.bottleneck:
        raise ValueError(f"model.bottleneck is {config.model.bottleneck}, and PEFT has no bottleneck adapters")
    if not config.adapter.rank:
        raise ValueError("PEFT's format is written of low-rank adapters, and adapter.rank is 0; write an adapter")
    if others := sorted(path for path in found.paths if path.startswith("encoder/")):
        raise ValueError(f"{others[0]} has learned besides the low-rank adapter, which PEFT's format cannot hold")
    published, base = _published(config)
    tensors, settings = to_peft(config.adapter, params[LORA], params, published.family, config.model)
    heads, left_out = None, [name for name in params if name not in ("encoder", LORA)]
    task = task_of(config.objective)
    if task and task.published_head == SEQUENCE_HEAD:
        heads = classifier_to_peft(params["classifier"], config.objective.pooling, published, config.model)
    if heads:
        tensors |= heads.tensors
        left_out.remove("classifier")
    else:  # for transformers' class of the encoder alone, whose names have no prefix
        tensors = {name.removeprefix(published.family.prefix): x for name, x in tensors.items()}
    settings |= {
        "base_model_name_or_path": base,
        "task_type": SEQUENCE if heads else "FEATURE_EXTRACTION",
        "modules_to_save": heads.modules if heads else None,
    }

    def write(part: Path) -> None:
        named = {PREFIX + name: x for name, x in tensors.items()}
        write_tensors(part / PEFT_FILE, named, {"format": "pt", _BASE: found.base})
        write_json(part / PEFT_CONFIG, dict(sorted(settings.items())))

    _whole(folder, write)
    return left_out


def of_folder(folder: Path, base: Checkpoint) -> Learned:
    """What `write_adapter` wrote, with what it stands on.

    Raises:
        ValueError: the base is another model, or the folder is damaged.
    """
    config = saved_config(folder)
    arrays, metadata = read_tensors(folder / ADAPTER_FILE)
    _check_architecture(config.model, base.config.model, folder, config.init_from)
    if fingerprint(base.params["encoder"], arrays.keys()) != metadata.get(_BASE):
        raise ValueError(f"{folder} was trained on other weights than this model's; put it on {config.init_from}")
    params = {"encoder": base.params["encoder"]}
    for path, x in arrays.items():
        params = _put(params, path.split("/"), x)
    return Learned(config, params, frozenset(arrays), metadata[_BASE])


def _with_own(model: M, folder: Path) -> M:
    found = of_folder(folder, model)
    return dataclasses.replace(
        model,
        config=found.config,
        params=merge_lora(found.config.adapter, found.params),
        published=None,
        sentence=SentenceConfig(),
        generator=None,
        base=model,
    )


def _with_peft(model: M, folder: Path) -> M:
    settings = read_json(folder / PEFT_CONFIG, dict)
    arrays, metadata = read_tensors(folder / PEFT_FILE)
    config, base = model.config.model, model.params
    if _BASE in metadata and fingerprint(base["encoder"]) != metadata[_BASE]:
        name = settings.get("base_model_name_or_path")
        raise ValueError(f"{folder} was trained on other weights than this model's; put it on {name}")
    published = model.published
    if published is None:
        check_publishable(config)
        family = family_of(config, base)
        published = Published(family, family.settings(config), model.heads)
    family = published.family
    short = {name.removeprefix(PREFIX): x for name, x in arrays.items()}
    tensors = {standard: short[name] for standard, name in renamed(short, family.prefix, family.aliases).items()}
    published, heads, taken = heads_from_peft(tensors, settings, published, base, config, str(folder))
    params = base | heads
    lora, adapter, used = from_peft(tensors, settings, params, published, config, str(folder))
    if lost := sorted(tensors.keys() - taken - used):
        raise ValueError(f"{folder} holds {lost[0]}, which has no place in this model; only LoRA and heads can be read")
    return dataclasses.replace(
        model, params=merge_lora(lora, params | {LORA: adapter}), published=published, base=model
    )


def _published(config: RunConfig) -> tuple[Published, str]:
    """Family and settings of the model that a run started from, and what transformers calls that model."""
    try:
        folder = resolve(config.init_from, weights=False)
    except OSError:
        folder = None
    if folder is not None and is_published(folder):
        part = transformer_of(folder)[0]
        return read_model(part, weights=False).published, config.init_from if part == folder else str(part)
    family = family_of(config.model)
    log.warning("transformers cannot load %s itself: convert it with --to hf, and name that folder", config.init_from)
    return Published(family, family.settings(config.model), {}), config.init_from


def _check_architecture(model: EncoderConfig, base: EncoderConfig, folder: Path, known: str) -> None:
    free = _FREE if base.bottleneck else _FREE + _ADAPTERS
    base = dataclasses.replace(base, **{name: getattr(model, name) for name in free})
    for name, value in vars(model).items():
        if value != getattr(base, name):
            raise ValueError(
                f"{folder} is an adapter of a model whose {name} is {value}, and this model's is "
                f"{getattr(base, name)}; put it on {known}"
            )


def _whole(folder: Path, write: Any) -> None:
    """A folder that appears when all in it is written."""
    part = folder.absolute().with_name(f".{folder.absolute().name}.{os.getpid()}")
    folder.absolute().parent.mkdir(parents=True, exist_ok=True)
    try:
        part.mkdir()
        write(part)
        os.replace(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _put(tree: Mapping[str, Any], names: list[str], value: Any) -> Params:
    """The tree with another value at a path; what does not change is shared."""
    first, *rest = names
    return {**tree, first: _put(tree.get(first, {}), rest, value) if rest else value}


def _flat(tree: Params) -> dict[str, Any]:
    return {path_of(path): x for path, x in jax.tree.leaves_with_path(tree)}
