"""Tables of settings, read in both directions: config.json to the fields of an EncoderConfig and back.

A family's table is a tuple of entries, `setting` being a name in config.json and `field` one of EncoderConfig. Entries
apply in order, so that a later one may use or replace what an earlier one has read or written. A setting that
config.json leaves out keeps the value of the family's `architecture`.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jaxencoder.model.config import EncoderConfig

Settings = Mapping[str, Any]  # a config.json
Fields = Mapping[str, Any]  # of an EncoderConfig

# Names of activations in config.json -> ours. Of several names for one activation the first is written.
ACTIVATIONS = {
    "gelu": "gelu", "gelu_python": "gelu", "gelu_10": "gelu_clipped", "quick_gelu": "quick_gelu",
    "gelu_new": "gelu_tanh", "gelu_fast": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_accurate": "gelu_tanh", "gelu_python_tanh": "gelu_tanh",
    "relu": "relu", "relu2": "relu_squared", "relu6": "relu6",
    "silu": "silu", "swish": "silu", "mish": "mish", "tanh": "tanh",
}  # fmt: skip
_TYPES = {field.name: type(field.default) for field in dataclasses.fields(EncoderConfig)}
_TYPE_NAMES = {int: "an integer", float: "a number", bool: "true or false", str: "a string"}
_LIMITS = {int: 2**31, float: math.inf}


class Entry(NamedTuple):
    """One setting, or several that only make sense together.

    Both functions raise a ValueError, naming the setting or the field, for a value that the other side cannot express.
    """

    read: Callable[[Settings, Fields], Fields]  # (config.json, fields so far) -> fields that the entry sets
    write: Callable[[EncoderConfig], Settings]


def same(setting: str, field: str = "", minimum: int | None = None, required: bool = False) -> Entry:
    """An equal value under two names (`field` defaults to the same name), of the field's type."""
    field = field or setting

    def check(name: str, value: Any) -> Any:
        if minimum is not None and value < minimum:
            raise ValueError(f"{name} {value}; this family needs at least {minimum}")
        return value

    def read(settings: Settings, fields: Fields) -> Fields:
        if setting not in settings and not required:
            return {}
        return {field: check(f"config.json has {setting}", read_value(settings, setting, _TYPES[field]))}

    return Entry(read, lambda c: {setting: check(f"model.{field} is", getattr(c, field))})


def size(setting: str, field: str) -> Entry:
    """A positive integer that config.json must have."""
    return same(setting, field, minimum=1, required=True)


def choice(setting: str, field: str, values: Mapping[Any, Any] = ACTIVATIONS) -> Entry:
    """A value with another name: `values` maps those of config.json to ours."""

    def read(settings: Settings, fields: Fields) -> Fields:
        return {field: read_choice(settings, setting, values=values)} if setting in settings else {}

    def write(c: EncoderConfig) -> Settings:
        for published, ours in values.items():
            if ours == getattr(c, field):
                return {setting: published}
        choices = ", ".join(map(str, values.values()))
        raise ValueError(f"model.{field} is {getattr(c, field)!r}; config.json of this family can only say {choices}")

    return Entry(read, write)


def inherited(setting: str, field: str, source: str) -> Entry:
    """A size that is often that of the field `source`: null in config.json and 0 in EncoderConfig mean that one."""

    def read(settings: Settings, fields: Fields) -> Fields:
        if settings.get(setting, 0) is None:
            return {field: 0}
        value = read_value(settings, setting, int, fields[field])
        return {field: 0 if value == fields[source] else value}

    return Entry(read, lambda c: {setting: getattr(c, field) or getattr(c, source)})


def implied(setting: str, field: str) -> Entry:
    """A size that other settings imply, of `field` or "head_size": another value is refused, and none is written."""

    def read(settings: Settings, fields: Fields) -> Fields:
        value = head_size(fields) if field == "head_size" else fields[field]
        if settings.get(setting) not in (None, value):
            raise ValueError(f"config.json has {setting} {settings[setting]!r}; only the implied {value} can be loaded")
        return {}

    return Entry(read, lambda c: {})


def head_size(fields: Fields) -> int:
    """H, before there is an EncoderConfig."""
    return fields.get("head_dim") or fields["hidden_size"] // fields["num_heads"]


def head_dim(setting: str = "head_dim") -> Entry:
    """H, where it need not follow from the sizes, which come earlier in the table; null means that it does."""

    def read(settings: Settings, fields: Fields) -> Fields:
        value = settings.get(setting, fields["head_dim"] or None)
        if value is None:
            return {"head_dim": 0}
        if type(value) is not int or value < 1:
            raise ValueError(f"config.json has {setting} {value!r}; an integer of at least 1 is needed")
        return {"head_dim": 0 if value * fields["num_heads"] == fields["hidden_size"] else value}

    return Entry(read, lambda c: {setting: c.head_size})


HEAD_DIM = head_dim()


def written(setting: str, value: Callable[[EncoderConfig], Any] | Any) -> Entry:
    """A setting for other software: written, as a constant or computed from the architecture, and never read."""
    return Entry(lambda settings, fields: {}, lambda c: {setting: value(c) if callable(value) else value})


# The sizes, under the names that most families have for them.
SIZES = (
    same("vocab_size", required=True),
    size("num_hidden_layers", "num_layers"),
    size("hidden_size", "hidden_size"),
    size("intermediate_size", "mlp_size"),
    size("num_attention_heads", "num_heads"),
)


def sizes(layers: int, hidden_size: int, mlp_size: int, heads: int, vocab_size: int, **more: Any) -> dict[str, Any]:
    """The settings of SIZES, and more, of a published model."""
    names = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "vocab_size")
    return dict(zip(names, (layers, hidden_size, mlp_size, heads, vocab_size), strict=True)) | more


def read_value(settings: Settings, setting: str, kind: type, default: Any = None) -> Any:
    """A setting of type int, float, bool or str; ValueError if it is missing without a default, or of another type."""
    if setting not in settings and default is None:
        raise ValueError(f"config.json has no {setting}")
    value = settings.get(setting, default)
    if type(value) is not kind and not (kind is float and type(value) is int):
        raise ValueError(f"config.json has {setting} {value!r}; {_TYPE_NAMES[kind]} is needed")
    if kind in _LIMITS and not abs(value) < _LIMITS[kind]:
        raise ValueError(f"config.json has {setting} {value!r}; {_TYPE_NAMES[kind]} below {_LIMITS[kind]} is needed")
    return value


def read_number(settings: Settings, setting: str, default: Any = None) -> Any:
    """A number as of `read_value`; `default` if it is missing or null."""
    return default if settings.get(setting) is None else read_value(settings, setting, float)


def read_object(settings: Settings, setting: str) -> Settings:
    """A setting that holds settings, empty if it is missing or null; ValueError if it is of another type."""
    value = settings.get(setting) or {}
    if not isinstance(value, Mapping):
        raise ValueError(f"config.json has {setting} {value!r}; a JSON object is needed")
    return value


def read_choice(settings: Settings, setting: str, default: Any = None, values: Mapping[Any, Any] = ACTIVATIONS) -> Any:
    """Our value for that of a setting; ValueError for one that `values` does not have."""
    value = settings.get(setting, default)
    if value not in list(values):  # not every JSON value can be looked up in a dict
        raise ValueError(f"config.json has {setting} {value!r}; known are {', '.join(map(str, values))}")
    return values[value]
