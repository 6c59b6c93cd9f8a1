"""The published families, and which of them can hold an architecture."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from jaxencoder.families import FAMILIES
from jaxencoder.families.family import Family, Settings
from jaxencoder.families.roberta import PAD
from jaxencoder.model.config import EncoderConfig
from jaxencoder.model.heads import HeadConfig

_OF_TRAINING = ("dropout", "attention_dropout")  # fields that change no output, which a family may not have


class Published(NamedTuple):
    """The published form of a model: everything that its architecture does not say."""

    family: Family
    settings: Settings  # all of config.json
    heads: Mapping[str, HeadConfig]  # by name among the parameters, without the masked-language-model head


def parse_settings(settings: Settings, where: str) -> tuple[Family, EncoderConfig]:
    """The family and the architecture of a config.json in the folder `where`; ValueError if they are not supported."""
    model_type = settings.get("model_type")
    family = matching_family(settings)
    if family is None:
        supported = ", ".join(dict.fromkeys(family.model_type for family in FAMILIES))
        problem = f"has the unsupported model_type {model_type!r}" if "model_type" in settings else "has no model_type"
        raise ValueError(f"{where} {problem}; supported are: {supported}")
    try:
        config = family.encoder_config(settings)
        family.heads(config, family.current_settings(settings))
        return family, config
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"{where}: {error}") from None


def matching_family(settings: Settings) -> Family | None:
    """The family of a config.json: of those of its model_type the one with most settings of its own in it."""
    matching = [(names, family) for family in FAMILIES if (names := family.matching_settings(settings)) is not None]
    return max(matching, key=lambda pair: len(pair[0]), default=(None, None))[1]


def family_of(config: EncoderConfig, parts: Iterable[str] = ()) -> Family:
    """The first family that can hold the architecture and has most heads among `parts`; ValueError if none can."""
    if config.bottleneck:
        raise ValueError(
            f"model.bottleneck is {config.bottleneck}, but no published family has bottleneck adapters; "
            "write the model as a run, or its adapters alone"
        )
    families = [family for family in FAMILIES if can_hold(family, config)]
    if not families:
        raise ValueError(f"no published family has this architecture: {config}")
    return max(families, key=lambda family: len(family.heads(config, family.settings(config)).keys() & set(parts)))


def can_hold(family: Family, config: EncoderConfig) -> bool:
    """Whether a family's config.json can hold all of an architecture that changes its outputs."""
    try:
        read = family.encoder_config(family.settings(config))
    except ValueError:
        return False
    return dataclasses.replace(read, **{name: getattr(config, name) for name in _OF_TRAINING}) == config


def form_in(family: Family, config: EncoderConfig, pad_id: int = PAD) -> EncoderConfig | None:
    """The form of an architecture that a family can hold, or None.

    RoBERTa's kind does not count padding among its positions. An architecture that counts all tokens, such as that of a
    run from before there was `position_pad_id`, becomes one that does not count `pad_id`: they are equal as long as no
    padding stands inside a text.
    """
    forms = [config]
    if config.positions == "learned" and config.position_pad_id < 0:
        forms.append(dataclasses.replace(config, position_pad_id=pad_id))
    return next((form for form in forms if can_hold(family, form)), None)
