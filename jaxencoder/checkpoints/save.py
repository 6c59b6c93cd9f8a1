"""Folders that transformers and sentence-transformers load: what of a model their classes compute, and its labels."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jaxencoder.checkpoints import sentence_transformers
from jaxencoder.checkpoints.checkpoint import Checkpoint
from jaxencoder.checkpoints.initial import started_from
from jaxencoder.checkpoints.transformers import write_model
from jaxencoder.families import classifier
from jaxencoder.families.family import Family, with_labels
from jaxencoder.families.published import Published, can_hold, check_publishable, family_of
from jaxencoder.model.heads import HeadConfig
from jaxencoder.objectives.objective import Params
from jaxencoder.tasks.table import task_of_model
from jaxencoder.tasks.token_classification import objective as tokens

log = logging.getLogger(__name__)

_SPECIAL = {"pad": "pad", "bos": "cls", "cls": "cls", "eos": "sep", "sep": "sep"}  # their names of ids -> ours


class _Parts(NamedTuple):
    """What is written of a model: params, more of config.json, and of each head that cannot be written why."""

    params: Params
    settings: dict[str, Any]
    left_out: dict[str, str]


def save(model: Checkpoint, folder: Path, format: str) -> None:
    """Write a model's folder; see `Model.save`."""
    if format not in ("hf", "sentence-transformers"):
        raise ValueError(f"format is {format!r}; give hf or sentence-transformers")
    check_publishable(model.config.model)
    published = model.published or Published(_family(model), {}, {})
    if format == "sentence-transformers":
        _save_sentence_modules(model, folder)
        parts = _Parts({"encoder": model.params["encoder"]}, {}, {})
    elif (folder / sentence_transformers.MODULES_FILE).exists():
        raise ValueError(
            f"{folder} holds a {sentence_transformers.MODULES_FILE}, which would stay; save to an empty folder"
        )
    else:
        parts = _parts(model, published)
    ids = {}
    if model.tokenizer is not None:
        ids = {f"{theirs}_token_id": getattr(model.tokenizer, f"{ours}_id") for theirs, ours in _SPECIAL.items()}
        model.tokenizer.save(folder)
    write_model(folder, model.config.model, parts.params, ids | parts.settings, published)
    if parts.left_out:
        named = "; ".join(f"{name} ({why})" for name, why in parts.left_out.items())
        log.warning("%s: left out, as no class of %s computes it: %s", folder, published.family.name, named)


def _save_sentence_modules(model: Checkpoint, folder: Path) -> None:
    if model.tokenizer is None or model.tokenizer.name.startswith("sentencepiece"):
        kind = "no tokenizer" if model.tokenizer is None else f"a {model.tokenizer.name} tokenizer"
        raise ValueError(f"the model has {kind}; sentence-transformers needs one that tokenizer.json can hold")
    modules, hidden_size = model.params.get("sentence", {}), model.config.model.hidden_size
    sentence_transformers.write(folder, model.sentence, modules, hidden_size, model.max_length)


def _family(model: Checkpoint) -> Family:
    """The family that a run started from, if that can hold it, or else one that can."""
    start = started_from(model.config)
    if start is not None and can_hold(start.family, model.config.model):
        return start.family
    parts = {"sequence_head"} if classifier.NAME in model.params else model.params.keys()
    return family_of(model.config.model, parts)


def _parts(model: Checkpoint, published: Published) -> _Parts:
    config, family = model.config.model, published.family
    before = {**published.settings, **family.settings(config)}
    written = _Parts({name: model.params[name] for name in ("encoder", "mlm_head") if name in model.params}, {}, {})
    task = task_of_model(model)
    if classifier.NAME in model.params and not (task and task.published_head):
        written.left_out[classifier.NAME] = "it scores choices, which is not written yet"
    elif classifier.NAME in model.params:
        own = _labels_of_texts(model) | family.classifier
        pooling, heads = model.config.objective.pooling, _configs(family, model, before | own)
        if (found := classifier.to_heads(model.params[classifier.NAME], pooling, heads)) is not None:
            written.params.update(found)
            written.settings.update(own)
        else:
            theirs = heads.get("sequence_head")
            if theirs is not None and theirs.inputs == "pooled":
                theirs = heads["pooler"]
            ours = HeadConfig(pooling, activation="tanh")
            written.left_out[classifier.NAME] = _why(theirs, ours)
    for name, head in model.heads.items():
        own = {}
        if model.published is None and name == tokens.HEAD:
            own = with_labels({}, head.outputs, model.labels)
        theirs = _configs(family, model, before | own).get(name)
        if theirs == head:
            written.params[name] = model.params[name]
            written.settings.update(own)
        else:
            written.left_out[name] = _why(theirs, head)
    return written


def _labels_of_texts(model: Checkpoint) -> dict[str, Any]:
    """What config.json says of a run's classes, or of its values."""
    count = model.params[classifier.NAME]["classifier"]["bias"].shape[-1]
    return with_labels({}, count, model.labels) | {"problem_type": model.config.objective.problem_type}


def _configs(family: Family, model: Checkpoint, settings: Mapping[str, Any]) -> dict[str, HeadConfig]:
    return {name: table.config for name, table in family.heads(model.config.model, settings).items()}


def _why(theirs: HeadConfig | None, ours: HeadConfig) -> str:
    """In which settings heads differ, but for the number of their outputs, which is free."""
    if theirs is None:
        return "no such head"
    names = [field.name for field in dataclasses.fields(HeadConfig) if field.name != "outputs"]
    pairs = ((name, getattr(theirs, name), getattr(ours, name)) for name in names)
    return ", ".join(f"{name} {there} instead of {here}" for name, there, here in pairs if there != here)
