"""Names of classes in config.json: read as text, each once, and as many as the weights have outputs."""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxencoder.families.settings import Settings

_COUNTS = ("num_labels", "_num_labels")  # the second is the name in files of the first versions of transformers


def labels(settings: Settings) -> int:
    """The number of classes that config.json tells: of its names, else num_labels, else 2, which it leaves out."""
    names = settings.get("id2label") or settings.get("label2id")
    if isinstance(names, Mapping | list):
        return len(names)
    counts = (settings.get(name) for name in _COUNTS)
    return next((count for count in counts if type(count) is int and count > 0), 2)


def label_names(settings: Settings) -> tuple[str, ...]:
    """The class names in order of id; LABEL_0, LABEL_1, ... where config.json has none, as in transformers.

    Raises:
        ValueError: ids that are not 0, 1, 2, ..., a name that is no text or number, or one name of several classes.
    """
    if settings.get("id2label"):
        source, names = "id2label", settings["id2label"]
        items = dict(enumerate(names)) if isinstance(names, list) else names
    else:
        source, names = "label2id", settings.get("label2id") or {}
        items = {value: key for key, value in names.items()} if isinstance(names, Mapping) else names
    if not isinstance(items, Mapping):
        raise ValueError(f"config.json has {source} {names!r}; a name for each id is needed")
    by_id = {_id(key, source): _name(value, source) for key, value in items.items()}
    if sorted(by_id) != list(range(len(names))):
        raise ValueError(
            f"config.json has {source} with the ids {', '.join(map(str, items))}; number the {len(names)} classes from "
            "0, each once"
        )
    texts = tuple(by_id[i] for i in range(len(by_id)))
    if repeated := sorted(name for name in set(texts) if texts.count(name) > 1):
        raise ValueError(f"config.json has {source} with several classes named {repeated[0]!r}; rename all but one")
    return texts or _numbered(labels(settings))


def with_labels(settings: Settings, count: int, names: Sequence[str] = ()) -> dict[str, Any]:
    """A config.json with this number of classes, and with their names if they are known."""
    id2label = {str(i): name for i, name in enumerate(names)} or None
    label2id = {name: i for i, name in enumerate(names)} or None
    kept = {name: value for name, value in settings.items() if name not in _COUNTS}
    return {**kept, "id2label": id2label, "label2id": label2id, "num_labels": count}


def labels_for_outputs(settings: Settings, outputs: int) -> dict[str, Any]:
    """A config.json with a class for each output of the weights; names that only number the classes are replaced.

    Raises:
        ValueError: other names for another number of classes, or names that `label_names` refuses.
    """
    names = label_names(settings)
    if len(names) == outputs:
        return with_labels(settings, outputs, names)
    if names != _numbered(len(names)):
        source = "id2label" if settings.get("id2label") else "label2id"
        raise ValueError(
            f"config.json has {source} with {len(names)} names, but the weights have {outputs} classes; name each class"
        )
    return with_labels(settings, outputs, _numbered(outputs))


def _numbered(count: int) -> tuple[str, ...]:
    return tuple(f"LABEL_{i}" for i in range(count))


def _id(value: Any, source: str) -> int:
    try:
        return int(value) if isinstance(value, str) or type(value) is int else int("")
    except ValueError:
        raise ValueError(f"config.json has {source} with the id {value!r}; number the classes from 0") from None


def _name(value: Any, source: str) -> str:
    if not isinstance(value, str | int | float):
        raise ValueError(f"config.json has {source} with the name {value!r}; give each class a text")
    return str(value)
