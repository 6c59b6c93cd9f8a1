"""The fields of texts and labels: usual names replace configured names that the records lack."""

import dataclasses
import logging
from collections.abc import Collection, Sequence

from jaxencoder.text.config import DataConfig
from jaxencoder.text.sources.records import field_names

log = logging.getLogger(__name__)

# Names of two texts in published sets, in order of preference.
PAIR_FIELDS = (
    ("sentence1", "sentence2"),
    ("sentence_1", "sentence_2"),
    ("sentence_A", "sentence_B"),
    ("premise", "hypothesis"),
    ("text1", "text2"),
    ("text_a", "text_b"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("question", "passage"),
    ("text", "text_pair"),
)
_TEXTS = ("text", "sentence", "content", "review", "document", "body")
_LABELS = ("label", "labels", "class", "category", "target", "score", "sentiment", "intent", "topic", "rating", "stars")
_WORDS = ("tokens", "words")
_LABELS_OF_UNIT = {
    "text": _LABELS,
    "word": ("ner_tags", "tags", "labels", "upos", "pos_tags"),
    "span": ("answers",),
    "choice": ("label", "answer", "gold"),
}
_SETTINGS = ("text_field", "pair_field", "label_field")


def infer_fields(data: DataConfig) -> DataConfig:
    """Replace fields of labeled data that the first training record lacks by usual names.

    Text fields are only replaced if text_field has its default. If the records have sentence1, sentence2 and label,
    text_field "text" becomes sentence1 and pair_field sentence2.

    Raises:
        ValueError, OSError: the first training source cannot be read.
    """
    if not data.label_field:
        return data
    names = field_names(data.train[0])
    is_default = data.text_field == DataConfig.text_field
    text, pair = data.text_field, data.pair_field
    if data.label_unit == "text" and is_default:
        if not pair and (usual := _usual_pair(names)):
            text, pair = usual
        elif text not in names:
            text = _first(_TEXTS, names) or text
    elif data.label_unit == "word" and text not in names:
        text = _first(_WORDS, names) or text
    return _infer_label(dataclasses.replace(data, text_field=text, pair_field=pair), names)


def infer_source_fields(source: str, data: DataConfig, fixed: Collection[str] = ()) -> DataConfig:
    """Adapt the fields of labeled data to another source, whose names may differ, and warn of each change.

    Args:
        source: replaces fields that its first record lacks.
        data: settings with which the training data was read.
        fixed: settings that stay. With "label_field" labels are not read, and a token classifier takes plain text too.

    Raises:
        ValueError, OSError: the source cannot be read.
    """
    names = field_names(source, data.text_field)
    text, pair, has_labels = data.text_field, data.pair_field, "label_field" not in fixed
    if not {"text_field", "pair_field"} & set(fixed) and not set(filter(None, (text, pair))) <= set(names):
        candidates = [name for name in names if name != data.label_field]
        if pair and data.label_unit == "text":
            text, pair = _usual_pair(candidates) or (text, pair)
        elif not pair:
            usual = _TEXTS if data.label_unit == "text" else _WORDS if has_labels else (*_WORDS, *_TEXTS)
            text = _first(usual, candidates) or text
    inferred = dataclasses.replace(data, text_field=text, pair_field=pair)
    if has_labels and data.label_field:
        inferred = _infer_label(inferred, names)
    for name in _SETTINGS:
        if (configured := getattr(data, name)) != (used := getattr(inferred, name)):
            log.warning("%s has no field %r; reading %r instead.", source, configured, used)
    return inferred


def format_fields(data: DataConfig) -> str:
    """One line that names the fields in use."""
    texts = " and ".join(repr(name) for name in (data.text_field, data.pair_field) if name)
    return f"Fields: text {texts}, label {data.label_field!r}"


def _infer_label(data: DataConfig, names: Sequence[str]) -> DataConfig:
    if data.label_field in names:
        return data
    usual = [name for name in _LABELS_OF_UNIT[data.label_unit] if name not in (data.text_field, data.pair_field)]
    return dataclasses.replace(data, label_field=_first(usual, names) or data.label_field)


def _usual_pair(names: Sequence[str]) -> tuple[str, str] | None:
    """A usual pair, unless the records have a field "text" outside of it."""
    pairs = (pair for pair in PAIR_FIELDS if set(pair) <= set(names) and ("text" in pair or "text" not in names))
    return next(pairs, None)


def _first(usual: Sequence[str], names: Sequence[str]) -> str:
    return next((name for name in usual if name in names), "")
