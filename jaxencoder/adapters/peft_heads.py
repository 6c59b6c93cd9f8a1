"""The heads that PEFT's adapters keep whole (modules_to_save), both ways, where a family's own is the same."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxencoder.families.classifier import to_heads
from jaxencoder.families.family import HEADS, Settings, with_labels
from jaxencoder.families.published import Published
from jaxencoder.families.shapes import parameter_shapes
from jaxencoder.families.tables import from_tensors, to_tensors
from jaxencoder.model.config import EncoderConfig
from jaxencoder.objectives.objective import Params

SEQUENCE = "SEQ_CLS"
_TASKS = {SEQUENCE: "sequence_head", "TOKEN_CLS": "token_head", "QUESTION_ANS": "span_head"}


class Saved(NamedTuple):
    """Heads as PEFT keeps them.

    Attributes:
        tensors: by name, without PREFIX.
        modules: for modules_to_save.
    """

    tensors: dict[str, np.ndarray]
    modules: list[str]


def classifier_to_peft(classifier: Params, pooling: str, published: Published, config: EncoderConfig) -> Saved | None:
    """The classifier of a run as the family's own, or None where the family's computes something else.

    Args:
        classifier: {"dense", "classifier"}, of `model.heads.Classifier`.
        pooling: how it pools.
        published: family and settings of the model that it stands on.
        config: of the encoder.
    """
    labels = classifier["classifier"]["bias"].shape[-1]
    heads = published.family.heads(config, with_labels(published.settings, labels))
    params = to_heads(classifier, pooling, {name: table.config for name, table in heads.items()})
    if params is None:
        return None
    rows = [row for name in params for row in heads[name].weights]
    tensors = to_tensors(rows, params, config)
    modules = dict.fromkeys(name.rpartition(".")[0].removeprefix(published.family.prefix) for name in tensors)
    whole = dict.fromkeys("classifier" if name.startswith("classifier.") else name for name in modules)
    return Saved(tensors, list(whole))


def heads_from_peft(
    tensors: Mapping[str, np.ndarray],
    settings: Settings,
    published: Published,
    params: Params,
    config: EncoderConfig,
    where: str,
) -> tuple[Published, Params, set[str]]:
    """The heads that an adapter brings.

    Args:
        tensors: by name, without PREFIX; those of the encoder do not matter.
        settings: of adapter_config.json, which says what the adapter is for.
        published: the model that it is put on, and its heads.
        params: of that model.
        config: of the encoder.
        where: the folder, for messages.

    Returns:
        (the model with its heads, their parameters, the names of the tensors that they were read from).

    Raises:
        ValueError: it is not said which head it is, or a tensor is missing or of another shape.
    """
    family = published.family
    if not settings.get("modules_to_save"):
        return published, {}, set()
    name = _head_name(settings, published)
    known = family.heads(config, published.settings)
    if name not in known:
        raise ValueError(f"{where} is for {settings.get('task_type')!r}, of which {family.name} has no head here")
    outputs = next(row.theirs for row in known[name].weights if row.ours == (f"{name}/output/kernel",))
    count = len(tensors[outputs]) if outputs in tensors else None
    own = published.settings if count is None else with_labels(published.settings, count)
    heads = family.heads(config, own)
    wanted = {name: heads[name]}
    if heads[name].config.inputs == "pooled":
        wanted = {"pooler": heads["pooler"], **wanted}
    rows = [row for table in wanted.values() for row in table.weights]
    used = {row.theirs for row in rows} & tensors.keys()
    # What PEFT has not kept is the base's: its own head's, or of the same name in its masked-language-model head.
    there = [table.weights for part, table in known.items() if part in published.heads]
    there += [family.mlm_head(config)] if "mlm_head" in params else []
    base = to_tensors([row for table in there for row in table], params, config)
    shapes = parameter_shapes(config, False, {part: table.config for part, table in wanted.items()})
    del shapes["encoder"]
    found, _ = from_tensors(rows, base | {key: tensors[key] for key in used}, shapes, config, where)
    configs = {part: table.config for part, table in wanted.items()}
    rest = {part: head for part, head in published.heads.items() if part not in configs}
    return published._replace(settings=own, heads=configs | rest), found, used


def _head_name(settings: Mapping[str, Any], published: Published) -> str:
    """Which head the adapter's are: what its task says, else its class, else what the base has."""
    if head := _TASKS.get(settings.get("task_type")):
        return head
    own = (settings.get("auto_mapping") or {}).get("base_model_class")
    kinds = [kind for kind in HEADS if published.family.class_name(kind) == own]
    names = [*(name for kind in kinds for name in HEADS[kind]), *published.heads]
    return next((name for name in names if name in ("choice_head", *_TASKS.values())), "sequence_head")
