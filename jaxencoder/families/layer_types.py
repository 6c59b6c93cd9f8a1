"""layer_types of config.json, which name the layers with a sliding window: read in both directions."""

from typing import Any

from jaxencoder.families.family import shortest_pattern
from jaxencoder.families.settings import Fields, Settings
from jaxencoder.model.config import EncoderConfig

GLOBAL, LOCAL = "full_attention", "sliding_attention"


def layer_windows(settings: Settings, fields: Fields, default: list[str], side: int | None) -> Fields:
    """`windows` from the kind of each layer; `side` are the tokens before a token, or to either side of it.

    ValueError for an unknown kind, a number of kinds that is not that of the layers, or a sliding layer without a side.
    """
    kinds: Any = settings.get("layer_types") or default
    if not isinstance(kinds, list) or len(kinds) != fields["num_layers"] or set(map(str, kinds)) - {GLOBAL, LOCAL}:
        raise ValueError(
            f"config.json has layer_types {kinds!r}; {GLOBAL} or {LOCAL} is needed for each of the "
            f"{fields['num_layers']} layers"
        )
    if LOCAL in kinds and (side is None or side < 1):
        raise ValueError(f"config.json has sliding_window {settings.get('sliding_window')!r}, but {LOCAL} needs one")
    return {"windows": shortest_pattern([side or 0 if kind == LOCAL else 0 for kind in kinds])}


def layer_types(c: EncoderConfig) -> list[str]:
    """The kind of each layer; ValueError for windows of several sizes."""
    if len(set(c.windows) - {0}) > 1:
        raise ValueError(f"model.windows {c.windows} has several sizes; config.json of this family holds only one")
    return [LOCAL if c.windows[i % len(c.windows)] else GLOBAL for i in range(c.num_layers)]
