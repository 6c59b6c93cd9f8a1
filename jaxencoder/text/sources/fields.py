"""The fields of texts and labels: usual names replace configured names that the records lack."""

import dataclasses
import logging
from collections.abc import Collection, Sequence

from jaxencoder.text.config import DataConfig
from jaxencoder.text.schema import Schema
from jaxencoder.text.sources.records import ALIGNED_FIELD, field_names

log = logging.getLogger(__name__)

_SETTINGS = ("text_field", "pair_field", "label_field")


def infer_fields(data: DataConfig, schema: Schema) -> DataConfig:
    """Replace fields of labeled data that the first training record lacks by usual names.

    Text fields are only replaced if text_field has a default. If the records have sentence1, sentence2 and label,
    text_field "text" becomes sentence1 and pair_field sentence2.
    """
    if schema.by_source or (schema.needs_labels and not data.label_field):
        return data
    names = field_names(data.train[0], data.text_field, data.pair_field or ALIGNED_FIELD)
    text, pair = data.text_field, data.pair_field
    if schema.single_texts and pair == schema.fields.get("pair_field"):
        pair = ""  # a recipe for pairs names it
    if text in (DataConfig.text_field, schema.fields["text_field"]):
        is_default = not pair or (pair == schema.fields.get("pair_field") and pair not in names)
        if is_default and (usual := _usual_pair(schema, names)):
            text, pair = usual
        elif text not in names:
            text = _first(schema.text_names, names) or text
    if schema.optional_pair and pair == schema.fields.get("pair_field"):
        read_names = (field_names(source, text, pair) for source in data.train)
        pair = pair if any(pair in names for names in read_names) else ""
    return _infer_label(dataclasses.replace(data, text_field=text, pair_field=pair), schema, names)


def infer_source_fields(source: str, data: DataConfig, schema: Schema, fixed: Collection[str] = ()) -> DataConfig:
    """Adapt the fields of labeled data to another source, whose names may differ, and warn of each change.

    Args:
        data: settings with which the training data was read.
        fixed: settings that stay. With "label_field" labels are not read, and a token classifier takes plain text too.
    """
    names = field_names(source, data.text_field, data.pair_field or ALIGNED_FIELD)
    text, pair, has_labels = data.text_field, data.pair_field, "label_field" not in fixed
    if not {"text_field", "pair_field"} & set(fixed) and not set(filter(None, (text, pair))) <= set(names):
        candidates = [name for name in names if name != data.label_field]
        if pair:
            text, pair = _usual_pair(schema, candidates) or (text, pair)
        else:
            text = _first(schema.text_names if has_labels else schema.input_names, candidates) or text
    inferred = dataclasses.replace(data, text_field=text, pair_field=pair)
    if has_labels and data.label_field:
        inferred = _infer_label(inferred, schema, names)
    for name in _SETTINGS:
        if (configured := getattr(data, name)) != (used := getattr(inferred, name)):
            log.warning("%s has no field %r; reading %r instead.", source, configured, used)
    return inferred


def format_fields(data: DataConfig) -> str:
    """One line that names the fields in use."""
    texts = " and ".join(repr(name) for name in (data.text_field, data.pair_field) if name)
    return f"Fields: text {texts}, label {data.label_field!r}"


def _infer_label(data: DataConfig, schema: Schema, names: Sequence[str]) -> DataConfig:
    if data.label_field in names or not (data.label_field or schema.finds_labels):
        return data
    usual = [name for name in schema.usual_labels(names) if name not in (data.text_field, data.pair_field)]
    return dataclasses.replace(data, label_field=_first(usual, names) or data.label_field)


def _usual_pair(schema: Schema, names: Sequence[str]) -> tuple[str, str] | None:
    """A usual pair, unless the records have a field "text" outside of it."""
    pairs = (pair for pair in schema.pair_names if set(pair) <= set(names) and ("text" in pair or "text" not in names))
    return next(pairs, None)


def _first(usual: Sequence[str], names: Sequence[str]) -> str:
    return next((name for name in usual if name in names), "")
