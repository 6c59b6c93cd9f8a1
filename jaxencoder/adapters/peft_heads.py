"""Heads in PEFT's adapters (modules_to_save), read and written for families that have the same head."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxencoder.families.classifier import to_heads
from jaxencoder.families.family import HEADS, Settings
from jaxencoder.families.labels import labels, with_labels
from jaxencoder.families.published import Published
from jaxencoder.families.tables import from_tensors, parameter_shapes, to_tensors
from jaxencoder.model.config import EncoderConfig
from jaxencoder.objectives.objective import Params

SEQUENCE = "SEQ_CLS"
_TASKS = {SEQUENCE: "sequence_head", "TOKEN_CLS": "token_head", "QUESTION_ANS": "span_head"}


def classifier_to_peft(
    classifier: Params, pooling: str, published: Published, config: EncoderConfig
) -> tuple[dict[str, np.ndarray], list[str]] | None:
    """The classifier of a run as the family's head, or None if that computes something else.

    Args:
        classifier, pooling: parameters of `model.heads.Classifier`, {"dense", "classifier"}, and its pooling.

    Returns:
        (tensors by name, without PREFIX; the names in modules_to_save).
    """
    labels = classifier["classifier"]["kernel"].shape[-1]
    heads = published.family.heads(config, with_labels(published.settings, labels))
    params = to_heads(classifier, pooling, {name: table.config for name, table in heads.items()})
    if params is None:
        return None
    rows = [row for name in params for row in heads[name].weights]
    tensors = to_tensors(rows, params, config)
    modules = dict.fromkeys(name.rpartition(".")[0].removeprefix(published.family.prefix) for name in tensors)
    saved = dict.fromkeys("classifier" if name.startswith("classifier.") else name for name in modules)
    return tensors, list(saved)


def heads_from_peft(
    tensors: Mapping[str, np.ndarray],
    settings: Settings,
    published: Published,
    params: Params,
    config: EncoderConfig,
    source: str,
) -> tuple[Published, Params, set[str]]:
    """Read the heads in an adapter.

    Args:
        tensors: by name, without PREFIX; tensors of the encoder are ignored.
        settings: content of adapter_config.json, which names the task.
        published, params, config: the base model with its heads, its parameters and its encoder.
        source: the folder, for messages.

    Returns:
        (the model with its heads, their parameters, names of the tensors that were read).

    Raises:
        ValueError: the family has no head for the task, or a tensor is missing or of another shape.
    """
    family = published.family
    if not settings.get("modules_to_save"):
        return published, {}, set()
    name = _head_name(settings, published)
    base_heads = family.heads(config, published.settings)
    head_names = {row.theirs for table in base_heads.values() for row in table.weights}
    if unreadable := sorted(x for x in tensors if ".lora_" not in x and x not in head_names):
        saved = f"modules_to_save {settings['modules_to_save']!r} and holds {unreadable[0]}"
        raise ValueError(f"{source} has {saved}; only the family's heads can be read beside LoRA")
    if name not in base_heads:
        task = settings.get("task_type")
        raise ValueError(f"{source} has task_type {task!r}, for which {family.name} has no head here")
    output = next(row.theirs for row in base_heads[name].weights if row.ours == (f"{name}/output/kernel",))
    model_settings = published.settings
    if output in tensors and len(tensors[output]) != labels(model_settings):  # else the base's names are kept
        model_settings = with_labels(model_settings, len(tensors[output]))
    heads = family.heads(config, model_settings)
    names = ["pooler", name] if heads[name].config.inputs == "pooled" else [name]
    rows = [row for part in names for row in heads[part].weights]
    used = {row.theirs for row in rows} & tensors.keys()
    # Parts that PEFT has not saved are the base's: of its own head, or of the same name in its MLM head.
    base_rows = [row for part, head in base_heads.items() if part in published.heads for row in head.weights]
    base_rows += family.mlm_head(config) if "mlm_head" in params else []
    configs = {part: heads[part].config for part in names}
    shapes = parameter_shapes(config, False, configs)
    del shapes["encoder"]
    values = to_tensors(base_rows, params, config) | {key: tensors[key] for key in used}
    head_params, _ = from_tensors(rows, values, shapes, config, source)
    kept = {part: head for part, head in published.heads.items() if part not in configs}
    return published._replace(settings=model_settings, heads=configs | kept), head_params, used


def _head_name(settings: Mapping[str, Any], published: Published) -> str:
    """The head of the adapter: by its task, else by its base class, else by the heads of the base."""
    if head := _TASKS.get(settings.get("task_type", "")):
        return head
    class_name = (settings.get("auto_mapping") or {}).get("base_model_class")
    kinds = [kind for kind in HEADS if published.family.class_name(kind) == class_name]
    names = [*(name for kind in kinds for name in HEADS[kind]), *published.heads]
    return next((name for name in names if name in ("choice_head", *_TASKS.values())), "sequence_head")
