"""Names of the classes that numbers in a field stand for, as a data set's metadata has them.

Hugging Face's datasets library writes them into the schema of Parquet files; TFDS keeps them in its features.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

ClassNames = dict[str, tuple[str, ...]]  # by field, in order of id

log = logging.getLogger(__name__)

_METADATA_KEY = b"huggingface"


def schema_class_names(metadata: Mapping[bytes, bytes] | None) -> ClassNames:
    """The class names in the metadata of an Arrow schema; none if the datasets library did not write it.

    Covers fields of one class (ClassLabel) and lists of classes (Sequence, List, LargeList, or a list of one feature).
    """
    try:
        features = json.loads((metadata or {})[_METADATA_KEY])["info"]["features"]
    except (KeyError, TypeError, ValueError):
        return {}
    named = {field: _feature_names(feature) for field, feature in dict(features or {}).items()}
    return {field: names for field, names in named.items() if names}


def check_same_names(first: ClassNames, second: ClassNames, path: str) -> None:
    """Raise ValueError if two files of a source name the classes of a field differently."""
    for field in first.keys() & second.keys():
        if first[field] != second[field]:
            problem = f"{path} names the classes of field {field!r} {', '.join(second[field])[:200]}"
            raise ValueError(f"{problem}, but the file before it {', '.join(first[field])[:200]}; read them apart")


def is_named(names: Sequence[str]) -> bool:
    """Whether names say more than the ids do: both libraries give classes without names their ids as names."""
    return bool(names) and list(names) != [str(i) for i in range(len(names))]


def are_unnamed(classes: Sequence[str]) -> bool:
    """Whether a model's classes are LABEL_0, LABEL_1 and so on, as transformers calls those without names."""
    return all(name == f"LABEL_{i}" for i, name in enumerate(classes))


def with_names(label: Any, names: Sequence[str], where: str) -> Any:
    """A label with the names of classes for their ids; lists item by item.

    Negative ids, which stand for no class, and all that is no whole number stay. ValueError for an id without a name.
    """
    if isinstance(label, list):
        return [with_names(item, names, where) for item in label]
    if not isinstance(label, int) or isinstance(label, bool) or label < 0:
        return label
    if label >= len(names):
        raise ValueError(f"{where}: class {label}, but the metadata names {len(names)} classes; drop the record")
    return names[label]


def spelled_as(names: Sequence[str], classes: Sequence[str], source: str) -> tuple[str, ...]:
    """The names of a source's classes as `classes`, those of a model or of settings, spell them.

    A name is matched by its text, or else by its letters in any case; others stay. If none matches and there are as
    many, id i is classes[i]; this is logged as a warning unless the classes are LABEL_0, LABEL_1 and so on.
    """
    folded = {name.casefold(): name for name in classes}
    by_case = folded if len(folded) == len(classes) else {}
    spelled = tuple(name if name in classes else by_case.get(name.casefold(), name) for name in names)
    if not set(spelled).isdisjoint(classes) or len(names) != len(classes):
        return spelled
    if not are_unnamed(classes):
        pairs = ", ".join(f"{a} = {b}" for a, b in zip(names, classes, strict=True))
        log.warning("%s has classes of other names, matched by their numbers: %s.", source, pairs[:400])
    return tuple(classes)


def _feature_names(feature: Any) -> tuple[str, ...]:
    if isinstance(feature, list) and len(feature) == 1:
        return _feature_names(feature[0])
    if not isinstance(feature, dict):
        return ()
    if feature.get("_type") == "ClassLabel" and isinstance(names := feature.get("names"), list):
        return tuple(map(str, names)) if is_named(names) else ()
    return _feature_names(feature["feature"]) if "_type" in feature and "feature" in feature else ()
