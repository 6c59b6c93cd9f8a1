"""What a family is: how its config.json maps to an EncoderConfig, and a table of weight names, both used both ways."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from jaxencoder.families.tables import Weight
from jaxencoder.model.config import EncoderConfig

Settings = Mapping[str, Any]  # a config.json

# Names of activations as they are published -> ours.
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
    "tanh": "tanh",
    "quick_gelu": "quick_gelu",
    "relu2": "relu_squared",
}
PUBLISHED = {
    "gelu": "gelu",
    "gelu_tanh": "gelu_new",
    "relu": "relu",
    "silu": "silu",
    "tanh": "tanh",
    "quick_gelu": "quick_gelu",
    "relu_squared": "relu2",
}


@dataclass(frozen=True)
class Family:
    """One family of encoders.

    Attributes:
        model_type: of config.json.
        prefix: before the names of the encoder's tensors, in a checkpoint with heads.
        masked_lm: the architecture that config.json names for an encoder with a masked-language-model head.
        encoder_config: config.json -> architecture. KeyError for a setting that is missing.
        settings: architecture -> config.json.
        encoder: the rows of the encoder, names with the prefix.
        mlm_head: the rows of the masked-language-model head.
        tied: name of the output table, where a checkpoint holds it again.
        fixed: settings that the encoder knows only at this value; another is refused by name.
    """

    model_type: str
    prefix: str
    masked_lm: str
    encoder_config: Callable[[Settings], EncoderConfig]
    settings: Callable[[EncoderConfig], dict[str, Any]]
    encoder: Callable[[EncoderConfig], list[Weight]]
    mlm_head: Callable[[EncoderConfig], list[Weight]]
    tied: str
    fixed: Mapping[str, Any] = field(default_factory=dict)


def head_activation(settings: Settings, name: str, encoder: str) -> str:
    """The same of a head's activation: "same" where it is the encoder's."""
    own = activation(settings, name)
    return "same" if own == activation(settings, encoder) else own


def activation(settings: Settings, name: str) -> str:
    """Our name of the activation under `name`; ValueError for one that there is not."""
    published = settings.get(name, "gelu")
    if published not in ACTIVATIONS:
        raise ValueError(f"config.json has {name} {published!r}; known are {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[published]
