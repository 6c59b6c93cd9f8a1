"""Folders of PEFT (https://github.com/huggingface/peft): low-rank adapters and heads, read and written."""

import dataclasses
import logging
from collections.abc import Collection
from pathlib import Path
from typing import TypeVar

from jaxencoder.adapters.lora import NAME as LORA
from jaxencoder.adapters.lora import merge_lora
from jaxencoder.adapters.peft import PREFIX, from_peft, to_peft
from jaxencoder.adapters.peft_heads import SEQUENCE, classifier_to_peft, heads_from_peft
from jaxencoder.checkpoints.adapter import FINGERPRINT, Adapter, fingerprint, new_folder
from jaxencoder.checkpoints.checkpoint import Checkpoint
from jaxencoder.checkpoints.hub import resolve
from jaxencoder.checkpoints.initial import published_form, read_published
from jaxencoder.checkpoints.kind import PEFT_CONFIG
from jaxencoder.checkpoints.peft_files import PEFT_FILE, read_arrays
from jaxencoder.checkpoints.weights import write_tensors
from jaxencoder.config import RunConfig
from jaxencoder.families import FAMILIES
from jaxencoder.families.family import Family
from jaxencoder.families.published import Published, can_hold, form_in
from jaxencoder.families.tables import renamed
from jaxencoder.files import read_json, write_json
from jaxencoder.model.config import EncoderConfig
from jaxencoder.tasks.classification.objective import Classification

log = logging.getLogger(__name__)

M = TypeVar("M", bound=Checkpoint)


def add_peft(model: M, folder: Path) -> M:
    """The model with a PEFT adapter; arrays that the adapter does not change are shared.

    Raises ValueError if it was trained on another model, or holds more than low-rank adapters and heads.
    """
    settings = read_json(folder / PEFT_CONFIG, dict)
    arrays, metadata = read_arrays(folder)
    config, base = model.config.model, model.params
    if FINGERPRINT in metadata and fingerprint(base["encoder"]) != metadata[FINGERPRINT]:
        name = settings.get("base_model_name_or_path")
        raise ValueError(f"{folder} was trained on other weights than this model's; add it to {name}")
    short = {name.removeprefix(PREFIX): x for name, x in arrays.items()}
    published = model.published
    if published is None:
        family, config = _family_of_names(model, short)
        published = Published(family, family.settings(config), model.heads)
    written_as, family = published.family, published.family.named_as_in(short, config)
    published = published._replace(family=family)
    names = renamed(short, family.prefix, family.aliases)
    tensors = {standard: short[name] for standard, name in names.items()}
    published, heads, head_tensors = heads_from_peft(tensors, settings, published, base, config, str(folder))
    params = base | heads
    lora, adapter, lora_tensors = from_peft(tensors, settings, params, published, config, str(folder), names)
    if unused := sorted(tensors.keys() - head_tensors - lora_tensors):
        saved = "" if settings.get("modules_to_save") is None else f" (modules_to_save {settings['modules_to_save']!r})"
        raise ValueError(
            f"{folder} holds {names[unused[0]]}{saved}, but only LoRA of projections and tables, and heads, can be read"
        )
    params = merge_lora(lora, params | {LORA: adapter})
    return dataclasses.replace(model, params=params, published=published._replace(family=written_as), base=model)


def _family_of_names(run: Checkpoint, names: Collection[str]) -> tuple[Family, EncoderConfig]:
    """The family of a run by whose names an adapter was written, and the architecture there.

    That is the family in which the run is published; earlier builds took the first one that can hold the architecture.
    """
    family, form = published_form(run.config, run.params)
    holding = [(other, run.config.model) for other in FAMILIES if can_hold(other, run.config.model)]
    candidates = [(family, form), *holding]
    fitting = (pair for pair in candidates if any(name.startswith(pair[0].prefix) for name in names))
    return next(fitting, candidates[0])


def write_peft(adapter: Adapter, folder: Path) -> list[str]:
    """Write a folder for PEFT atomically; returns the names of the heads that the format cannot hold.

    Raises ValueError if anything else than a low-rank adapter was trained in the encoder.
    """
    config, params = adapter.config, adapter.params
    if config.model.bottleneck:
        raise ValueError(f"model.bottleneck is {config.model.bottleneck}, and PEFT has no bottleneck adapters")
    if not config.adapter.rank:
        raise ValueError("PEFT's format holds low-rank adapters, and adapter.rank is 0; write an adapter instead")
    if trained := sorted(path for path in adapter.paths if path.startswith("encoder/")):
        raise ValueError(f"{trained[0]} was trained besides the low-rank adapter; PEFT's format cannot hold it")
    published, base = _base(config)
    model = form_in(published.family, config.model) or config.model
    published = published._replace(family=published.family.by_modules())
    tensors, settings = to_peft(config.adapter, params[LORA], params, published.family, model)
    head, left_out = None, [name for name in params if name not in ("encoder", LORA)]
    if isinstance(config.objective, Classification) and config.objective.transform:
        head = classifier_to_peft(params["classifier"], config.objective.pooling, published, model)
    if head:
        head_tensors, modules = head
        tensors |= head_tensors
        left_out.remove("classifier")
        settings |= {"task_type": SEQUENCE, "modules_to_save": modules}
    else:  # transformers' class of the encoder alone has names without the prefix
        tensors = {name.removeprefix(published.family.prefix): x for name, x in tensors.items()}
        settings |= {"task_type": "FEATURE_EXTRACTION", "modules_to_save": None}
    with new_folder(folder) as temporary:
        named = {PREFIX + name: x for name, x in tensors.items()}
        write_tensors(temporary / PEFT_FILE, named, {"format": "pt", FINGERPRINT: adapter.base_fingerprint})
        write_json(temporary / PEFT_CONFIG, dict(sorted((settings | {"base_model_name_or_path": base}).items())))
    return left_out


def _base(config: RunConfig) -> tuple[Published, str]:
    """The published form of a run's initial model, and the folder or name under which transformers loads it."""
    try:
        folder = resolve(config.init_from, weights=False)
    except OSError:
        folder = None  # it has moved
    if folder is not None and (origin := read_published(folder)):
        encoder, published = origin
        return published, config.init_from if encoder == folder else str(encoder)
    (family, model), advice = published_form(config), "convert it with --to transformers, and name that folder"
    log.warning("transformers cannot load %s itself: %s", config.init_from, advice)
    return Published(family, family.settings(model), {}), config.init_from
