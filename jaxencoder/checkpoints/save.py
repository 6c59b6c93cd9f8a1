"""Writing a model for transformers or sentence-transformers, with its heads as the classes of its family."""

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxencoder.checkpoints import cross_encoder, multi_vector, sentence_transformers, sparse
from jaxencoder.checkpoints.checkpoint import Checkpoint
from jaxencoder.checkpoints.initial import published_form
from jaxencoder.checkpoints.kind import MODULES_FILE
from jaxencoder.checkpoints.task_adapters import write_tasks
from jaxencoder.checkpoints.transformers import write_model
from jaxencoder.families import classifier
from jaxencoder.families.labels import with_labels
from jaxencoder.families.published import Published
from jaxencoder.families.roberta import PAD, with_padding_position
from jaxencoder.model.heads import HeadConfig
from jaxencoder.objectives.objective import Params
from jaxencoder.tasks.classification.objective import VALUE, Classification
from jaxencoder.tasks.table import task_of_model
from jaxencoder.tasks.token_classification import objective as tokens

log = logging.getLogger(__name__)

_APPROXIMATE = (
    "other software reads tokenizer.json alone, which imitates SentencePiece: it splits half-width katakana with "
    "voicing marks, decomposed Hangul, marks after ligatures and rare spaces otherwise than this package"
)
_SPECIAL = {"pad": "pad", "bos": "cls", "cls": "cls", "eos": "sep", "sep": "sep"}  # their names of ids -> ours

# Settings of config.json by which families choose their heads, the default first.
_CHOICES: tuple[dict[str, Any], ...] = (
    {},
    *({"classifier_pooling": value} for value in ("cls", "mean", "bos", "late")),
    *({"pooler_hidden_act": value} for value in ("tanh", "gelu")),
)


def save(model: Checkpoint, folder: Path, format: str) -> None:
    """Write a model's folder; see `jaxencoder.api.Model.save`."""
    if format not in ("transformers", "sentence-transformers"):
        raise ValueError(f"format is {format!r}; give transformers or sentence-transformers")
    if model.queries is not None and format == "transformers":
        problem = "the model has an encoder for queries and one for documents, which transformers cannot hold"
        raise ValueError(f"{problem}; give sentence-transformers")
    model, published = _published_form(model)
    params, settings, skipped = {"encoder": model.params["encoder"]}, {}, {}
    tokenizer = None if model.tokenizer is None else model.tokenizer.with_tokenizer_json()
    if format == "transformers" or model.cross_encoder is not None:
        params, settings, skipped = _published_heads(model, published)
        settings |= _activation(model)
        if model.cross_encoder is not None and (missing := skipped.keys() & {"pooler", "sequence_head"}):
            reason = skipped[min(missing)]
            problem = f"no class of {published.family.name} has the head of this model: {reason}"
            raise ValueError(f"{problem}; to write its encoder alone, convert it with a pooling")
    encoders = [(model, folder)]
    if format == "sentence-transformers":
        if tokenizer is None:
            raise ValueError("the model has no tokenizer, which sentence-transformers needs; add one to its folder")
        if model.cross_encoder is not None:
            cross_encoder.write(folder, model.cross_encoder, model.max_length)
        elif model.multi_vector is not None and model.multi_vector.is_only:
            modules = model.params.get("multi_vector", {})
            multi_vector.write(folder, model.multi_vector, modules, model.max_length)
        elif model.sentence.sparse is not None:
            params |= {name: model.params[name] for name in ("mlm_head",) if name in model.params}
            encoders = [(model, sparse.write(folder, model, tokenizer))]
        else:
            encoders = sentence_transformers.write(folder, model)
    elif (folder / MODULES_FILE).exists():
        raise ValueError(f"{folder} holds a {MODULES_FILE}, which would stay; save to an empty folder")
    for tower, encoder_folder in encoders:
        if tower is model:
            _write_encoder(encoder_folder, model, params, settings, published)
        else:
            tower, form = _published_form(tower)
            _write_encoder(encoder_folder, tower, {"encoder": tower.params["encoder"]}, {}, form)
    if model.tasks:
        has_prefix = not params.keys() <= {"encoder", "pooler"}  # a head of its own, beside the encoder
        write_tasks(model, folder, [name for name in params if name not in ("encoder", "mlm_head")], has_prefix)
        if format == "sentence-transformers":
            log.warning("%s: sentence-transformers itself applies no adapter for a task", folder)
    if (tokens := model.multi_vector) is not None and (format == "transformers" or not tokens.is_only):
        skipped["multi_vector"] = f"only {'a folder of sentence-transformers' if tokens.is_only else 'bge-m3'} has it"
    if skipped:
        reasons = "; ".join(f"{name} ({why})" for name, why in skipped.items())
        log.warning("%s: left out, as no class of %s computes it: %s", folder, published.family.name, reasons)


def _write_encoder(
    folder: Path, model: Checkpoint, params: Params, settings: dict[str, Any], published: Published
) -> None:
    """Write a model's tokenizer, if it has one, and these parameters with settings for config.json."""
    if model.tokenizer is not None:
        tokenizer = model.tokenizer.with_tokenizer_json()
        settings = settings | {f"{x}_token_id": tokenizer.role_ids.get(ours) for x, ours in _SPECIAL.items()}
        pools_by_id = model.published is not None and any(x.inputs == "lasttoken" for x in model.heads.values())
        if model.config.model.position_pad_id >= 0 or pools_by_id:
            # Says from which id the model counts positions, or which it does not pool; not the tokenizer's.
            del settings["pad_token_id"]
        tokenizer.save(folder, _tokenizer_settings(model))
        if tokenizer.is_approximate:
            log.warning("%s: %s", folder, _APPROXIMATE)
    write_model(folder, model.config.model, params, settings, published)


def _activation(model: Checkpoint) -> dict[str, Any]:
    """The activation of a model that scores pairs, as config.json has it for CrossEncoder; empty for other models."""
    objective = model.config.objective
    if model.cross_encoder is not None:
        return cross_encoder.activation_settings(model.cross_encoder.activation)
    is_run = model.published is None and isinstance(objective, Classification)
    predicts_value = is_run and objective.problem_type == VALUE
    # A CrossEncoder of one label has a sigmoid otherwise.
    return cross_encoder.activation_settings("identity") if predicts_value and model.config.data.pair_field else {}


def _published_form(model: Checkpoint) -> tuple[Checkpoint, Published]:
    """A model as its family has it, and what else is published of it."""
    if model.published is not None:
        return model, model.published
    parts = {"sequence_head"} if classifier.NAME in model.params else model.params.keys()
    pad_id = PAD if model.tokenizer is None else model.tokenizer.role_ids.get("pad", -1)
    family, encoder = published_form(model.config, parts, pad_id)
    if encoder.position_pad_id != model.config.model.position_pad_id:
        params = model.params | {"encoder": with_padding_position(model.params["encoder"])}
        model = dataclasses.replace(model, config=dataclasses.replace(model.config, model=encoder), params=params)
    return model, Published(family, {}, {})


def _tokenizer_settings(model: Checkpoint) -> dict[str, Any]:
    """Settings by which tokenizers of transformers feed the model.

    Without them they leave out the token types of pairs, and truncate nothing.
    """
    names = ["input_ids", "attention_mask"]
    if model.config.model.token_types > 1:
        names.insert(1, "token_type_ids")
    return {"model_input_names": names, "model_max_length": model.max_length}


def _published_heads(model: Checkpoint, published: Published) -> tuple[Params, dict[str, Any], dict[str, str]]:
    """The parameters that a family's classes compute, settings for config.json, and skipped heads with the reason."""
    config, family = model.config.model, published.family
    params = {name: model.params[name] for name in ("encoder", "mlm_head") if name in model.params}
    settings: dict[str, Any] = {}
    skipped: dict[str, str] = {}
    pad_id = None if model.tokenizer is None else model.tokenizer.role_ids.get("pad")

    def family_heads(labels: dict[str, Any]) -> dict[str, HeadConfig]:
        tables = family.heads(config, {**published.settings, **family.settings(config), **labels})
        return {name: table.config for name, table in tables.items()}

    if classifier.NAME in model.params:
        task, objective, trained = task_of_model(model), model.config.objective, model.params[classifier.NAME]
        if task is None or not isinstance(objective, Classification):
            skipped[classifier.NAME] = f"{task.name if task else 'its'} heads cannot be written yet"
        else:
            labels = with_labels({}, trained["classifier"]["kernel"].shape[-1], model.labels)
            labels |= {"problem_type": objective.problem_type, **family.classifier}
            heads = family_heads(labels)
            transform = classifier.transform_config(objective.pooling, objective.transform)
            if not objective.transform and classifier.texts_end_with(model.tokenizer, pad_id):
                skipped[classifier.NAME] = "texts end with the padding token, which transformers does not pool"
            elif converted := classifier.to_heads(trained, objective.pooling, heads):
                params |= converted
                settings |= labels
            else:
                head = heads.get("sequence_head")
                theirs = heads["pooler"] if head and head.inputs == "pooled" else head
                skipped[classifier.NAME] = _difference(theirs, transform)
    for name, head in model.heads.items():
        is_of_run = model.published is None and name in (tokens.HEAD, "sequence_head")
        labels = with_labels({}, head.outputs, model.labels) if is_of_run else {}
        labels |= {"pad_token_id": pad_id} if is_of_run and head.pad_id is not None else {}
        choices = _CHOICES if model.published is None else ({},)
        fitting = (labels | choice for choice in choices if _has(family_heads, labels | choice, name, head))
        if (chosen := next(fitting, None)) is not None:
            params[name] = model.params[name]
            settings |= chosen
        else:
            skipped[name] = _difference(family_heads(labels).get(name), head)
    return params, settings, skipped


def _has(
    family_heads: Callable[[dict[str, Any]], dict[str, HeadConfig]],
    settings: dict[str, Any],
    name: str,
    head: HeadConfig,
) -> bool:
    """Whether a family has this head with these settings of config.json."""
    try:
        return family_heads(settings).get(name) == head
    except ValueError:  # it has no such choice
        return False


def _difference(theirs: HeadConfig | None, ours: HeadConfig) -> str:
    """The settings in which two heads differ, without the number of outputs, which is free."""
    if theirs is None:
        return "no such head"
    names = [field.name for field in dataclasses.fields(HeadConfig) if field.name != "outputs"]
    pairs = [(name, getattr(theirs, name), getattr(ours, name)) for name in names]
    return ", ".join(f"{name} {value} instead of {own_value}" for name, value, own_value in pairs if value != own_value)
