"""Cross-encoders of sentence-transformers: a classifier of transformers that scores pairs of texts.

Since version 6 the folder has a modules.json with a Transformer alone. Older ones are folders of transformers, whose
config.json may name the activation of the score.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from jaxencoder.checkpoints.checkpoint import Checkpoint
from jaxencoder.checkpoints.kind import MODULES_FILE
from jaxencoder.checkpoints.sentence_keys import check_keys
from jaxencoder.checkpoints.sentence_modules import activation_name, activation_path
from jaxencoder.checkpoints.sentence_settings import (
    CLASSES,
    SETTINGS_FILE,
    TRANSFORMER_FILE,
    read_modules,
    read_prompts,
    start_folder,
    text_limits,
    write_modules,
)
from jaxencoder.config_io import CONFIG_FILE
from jaxencoder.families.family import Settings
from jaxencoder.files import read_json, write_json
from jaxencoder.model.cross_encoder import CrossEncoderConfig

_HEAD = "sequence_head"
_KEY, _OLDER_KEY = "sentence_transformers", "sbert_ce_default_activation_function"  # of config.json


class CrossEncoderFolder(NamedTuple):
    """The contents of a folder with a modules.json, without the classifier."""

    transformer: Path  # folder of the classifier and its tokenizer
    activation: str | None  # None: as `activation_of` says
    prompts: tuple[tuple[str, str], ...]
    default_prompt: str | None
    max_length: int  # limit on the tokens of a pair; 0: that of the tokenizer or the encoder
    lowercase: bool  # whether texts are lowercased before tokenization


def read(folder: Path) -> CrossEncoderFolder:
    """Read a folder of a CrossEncoder, all but its classifier; ValueError for what is not supported."""
    entries = read_modules(folder)
    if len(entries) > 1:
        file, kind = folder / MODULES_FILE, f"{entries[1].kind!r} ({entries[1].path})"
        raise ValueError(f"{file} has a module {kind}; only a Transformer is supported in a CrossEncoder")
    file = folder / SETTINGS_FILE
    config = read_json(file, dict)
    check_keys(config, "CrossEncoder", file)
    path = config.get("activation_fn")
    activation = None if path is None else activation_name(path, file, "activation_fn")
    limits = text_limits(entries[0].folder, "sequence-classification")
    return CrossEncoderFolder(entries[0].folder, activation, *read_prompts(config, file), *limits)


def assembled(folder: Path, contents: CrossEncoderFolder, classifier: Checkpoint) -> Checkpoint:
    """The cross-encoder of a folder and its opened classifier; ValueError if that has no head for texts."""
    if _HEAD not in classifier.heads or classifier.published is None:
        raise ValueError(f"{folder} is a CrossEncoder, but {contents.transformer} has no head for classes of texts")
    outputs = classifier.heads[_HEAD].outputs
    activation = contents.activation or activation_of(classifier.published.settings, contents.transformer)
    activation = activation or ("sigmoid" if outputs == 1 else "identity")
    if outputs > 1 and activation != "identity":
        setting = f"activation_fn {activation_path(activation)!r}"
        advice = f"set it to {activation_path('identity')!r}, and apply the activation to the scores"
        raise ValueError(
            f"{folder} has {setting} for {outputs} labels; only a score of one label can have one, {advice}"
        )
    settings = CrossEncoderConfig(activation, contents.prompts, contents.default_prompt)
    return replace(classifier, cross_encoder=settings)


def with_activation(classifier: Checkpoint, folder: Path) -> Checkpoint:
    """A model of transformers as the cross-encoder that its config.json describes, or itself if it describes none."""
    if classifier.published is None or _HEAD not in classifier.heads or classifier.heads[_HEAD].outputs != 1:
        return classifier
    activation = activation_of(classifier.published.settings, folder)
    return replace(classifier, cross_encoder=CrossEncoderConfig(activation)) if activation else classifier


def activation_of(settings: Settings, folder: Path) -> str | None:
    """Our name of the activation in a config.json; None if there is none. ValueError for one that is not supported."""
    file, nested = folder / CONFIG_FILE, settings.get(_KEY, {})
    if not isinstance(nested, dict):
        raise ValueError(f"{file} has {_KEY} {nested!r}; a JSON object is needed")
    if "activation_fn" in nested:
        key, path = f"{_KEY}.activation_fn", nested["activation_fn"]
    else:
        key, path = _OLDER_KEY, settings.get(_OLDER_KEY)
    return None if path is None else activation_name(path, file, key)


def activation_settings(activation: str) -> dict[str, Any]:
    """What config.json says of an activation, for versions 4 and later."""
    return {_KEY: {"activation_fn": activation_path(activation)}, _OLDER_KEY: None}


def write(folder: Path, settings: CrossEncoderConfig, max_length: int) -> None:
    """Write the files of `read`; classifier and tokenizer go into the same folder afterwards, config.json last."""
    start_folder(folder)
    stored = {
        "model_type": "CrossEncoder",
        "prompts": dict(settings.prompts),
        "default_prompt_name": settings.default_prompt,
        "activation_fn": activation_path(settings.activation),
    }
    write_json(folder / SETTINGS_FILE, stored)
    limits = {"transformer_task": "sequence-classification", "max_seq_length": max_length, "do_lower_case": False}
    write_json(folder / TRANSFORMER_FILE, limits)
    write_modules(folder, {"": CLASSES["Transformer"]})
