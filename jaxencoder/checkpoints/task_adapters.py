"""Adapters for the tasks of an embedder, which lie in its folder: read with it, and written with it.

A family says how a folder holds them (`jaxencoder.families.family.Tasks`): as adapters of PEFT in folders of their own,
or all in the file of the weights, as parametrizations of torch with a leading axis of tasks.
"""

import dataclasses
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np

from jaxencoder.adapters.lora import TaskAdapter
from jaxencoder.adapters.peft import PREFIX, from_peft, to_peft
from jaxencoder.checkpoints.checkpoint import Checkpoint
from jaxencoder.checkpoints.kind import PEFT_CONFIG
from jaxencoder.checkpoints.peft_files import PEFT_FILE, read_arrays
from jaxencoder.checkpoints.weights import Weights, has_weights, open_weights, write_tensors
from jaxencoder.families.family import Settings
from jaxencoder.families.published import Published
from jaxencoder.families.tables import Weight, renamed
from jaxencoder.files import read_json, write_json
from jaxencoder.model.config import EncoderConfig
from jaxencoder.text.messages import listed

M = TypeVar("M", bound=Checkpoint)
Tensors = Mapping[str, np.ndarray]
_STACKED = ".parametrizations.weight.0.lora_"


def add_tasks(model: M, folder: Path) -> M:
    """The model of a folder with the adapters and prompts of its tasks, of which the folder may have none."""
    published = model.published
    if published is None or published.family.tasks is None:
        return model
    prompts = published.family.tasks.prompts(published.settings)
    adapters = {
        task: _adapter(model, published, task, tensors, settings, source)
        for task, (tensors, settings, source) in _read(folder, published).items()
    }
    if not adapters and published.family.tasks.is_required:
        path = folder / next(iter(published.family.tasks.folders(published.settings).values()))
        raise ValueError(
            f"{folder} embeds nothing without the adapters for its tasks; add their folders, such as {path}"
        )
    if not adapters:
        return model
    tasks = {name: adapters[task] for name, (_, task) in prompts.items() if task in adapters}
    texts = {name: text for name, (text, _) in prompts.items() if name in tasks} | dict(model.sentence.prompts)
    sentence = dataclasses.replace(model.sentence, prompts=tuple(texts.items()))
    return dataclasses.replace(model, tasks=tasks, sentence=sentence)


def task_names(folder: Path, published: Published) -> tuple[str, ...]:
    """The tasks for which a folder has adapters."""
    tasks = published.family.tasks
    if tasks is None:
        return ()
    names = tasks.folders(published.settings)
    is_stacked = has_weights(folder) and any(_STACKED in name for name in open_weights(folder))
    return tuple(task for task, path in names.items() if is_stacked or (folder / path / PEFT_CONFIG).is_file())


def write_tasks(model: Checkpoint, folder: Path, heads: Collection[str], has_prefix: bool) -> None:
    """Write the adapters of the tasks in PEFT's format into the folder of their model.

    Args:
        heads: those that the folder has.
        has_prefix: whether transformers' class of the folder has the encoder below the family's prefix.
    """
    published = model.published
    if published is None or published.family.tasks is None:
        return
    family, paths = published.family.by_modules(), published.family.tasks.folders(published.settings)
    for adapter in {adapter.task: adapter for adapter in model.tasks.values()}.values():
        parts = {name: part for name, part in adapter.params.items() if name == "encoder" or name in heads}
        tensors, settings = to_peft(adapter.lora, parts, model.params, family, model.config.model, heads)
        prefix = "" if has_prefix else family.prefix
        named = {PREFIX + name.removeprefix(prefix): x for name, x in tensors.items()}
        path = folder / paths[adapter.task]
        path.mkdir(parents=True, exist_ok=True)
        write_tensors(path / PEFT_FILE, named, {"format": "pt"})
        write_json(path / PEFT_CONFIG, dict(sorted((settings | {"task_type": "FEATURE_EXTRACTION"}).items())))


def _read(folder: Path, published: Published) -> dict[str, tuple[Tensors, Settings, str]]:
    """The tensors, the settings as of PEFT, and the source of the adapter of each task that the folder has."""
    assert published.family.tasks is not None
    paths = {task: folder / path for task, path in published.family.tasks.folders(published.settings).items()}
    paths = {task: path for task, path in paths.items() if (path / PEFT_CONFIG).is_file()}
    if paths:
        return {
            task: (read_arrays(path)[0], read_json(path / PEFT_CONFIG, dict), str(path)) for task, path in paths.items()
        }
    return _unstacked(open_weights(folder), published, str(folder))


def _unstacked(weights: Weights, published: Published, source: str) -> dict[str, tuple[Tensors, Settings, str]]:
    """`_read` of adapters in the file of the weights, where a table's A is [tasks, V, rank], its B [tasks, rank, D]."""
    stacked = {name: weights[name] for name in weights if _STACKED in name}
    if not stacked:
        return {}
    assert published.family.tasks is not None
    settings, tasks = published.settings, tuple(published.family.tasks.folders(published.settings))
    peft = {"r": settings.get("lora_rank", 4), "lora_alpha": settings.get("lora_alpha", 1)}
    result = {}
    for number, task in enumerate(tasks):
        tensors = {}
        for name, array in stacked.items():
            if len(array) != len(tasks):
                expected = f"config.json has {len(tasks)} lora_adaptations: {listed(tasks)}"
                raise ValueError(f"{source}: {name} has adapters for {len(array)} tasks, but {expected}")
            module, _, part = name.partition(_STACKED)
            is_table = module.endswith("_embeddings")
            end = f"lora_embedding_{part}" if is_table else f"lora_{part}.weight"
            tensors[f"{module}.{end}"] = array[number].T if is_table else array[number]
        result[task] = tensors, peft | {"peft_type": "LORA"}, source
    return result


def _adapter(
    model: Checkpoint, published: Published, task: str, tensors: Tensors, settings: Settings, source: str
) -> TaskAdapter:
    config = model.config.model
    short = {name.removeprefix(PREFIX): x for name, x in tensors.items()}
    family = published.family.named_as_in(short, config)
    names = renamed(short, family.prefix, family.aliases)
    arrays = {standard: short[name] for standard, name in names.items()}
    base = {name: model.params[name] for name in ("encoder", *published.heads)}
    published = published._replace(family=family)
    lora, params, used = from_peft(arrays, settings, base, published, config, source, names)
    modules = {row.theirs.removesuffix(".weight") for row in _head_rows(published, config)}
    # Heads that the model lacks, such as the pooler, have adapters too.
    if unused := sorted(x for x in arrays.keys() - used if x.partition(".lora_")[0] not in modules):
        raise ValueError(f"{source} holds {names[unused[0]]}, but only LoRA of projections and tables can be read")
    return TaskAdapter(task, lora, params)


def _head_rows(published: Published, config: EncoderConfig) -> list[Weight]:
    tables = published.family.heads(config, published.settings).values()
    return [*published.family.mlm_head(config), *(row for table in tables for row in table.weights)]
