"""Which fields of records hold the texts and the label, where settings name none that are there: the usual names."""

import dataclasses
import logging
from collections.abc import Collection, Sequence

from jaxencoder.text.config import DataConfig
from jaxencoder.text.sources import field_names

log = logging.getLogger(__name__)

# How published sets name two texts that belong together; the first pair that is there counts.
PAIRS = (
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
_USUAL = {  # labels, of each data.label_unit
    "text": _LABELS,
    "word": ("ner_tags", "tags", "labels", "upos", "pos_tags"),
    "span": ("answers",),
    "choice": ("label", "answer", "gold"),
}


def with_fields(data: DataConfig) -> DataConfig:
    """The settings of labelled data, with the fields found that its first record does not have by the names given.

    A text is looked for where the settings leave it at their default, a label wherever the field is not there. With
    sentence1, sentence2 and label in the records, text_field "text" becomes sentence1, and pair_field sentence2.

    Raises:
        ValueError, OSError: the first training source cannot be read.
    """
    if not data.label_field:
        return data
    names = field_names(data.train[0])
    found: dict[str, str] = {}
    default = data.text_field == DataConfig.text_field
    if data.label_unit == "text":
        if default and not data.pair_field and (pair := _pair(names)):
            found = dict(zip(("text_field", "pair_field"), pair, strict=True))
        elif default and data.text_field not in names:
            found["text_field"] = _first(_TEXTS, names) or data.text_field
    elif data.label_unit == "word" and data.text_field not in names:
        found["text_field"] = _first(_WORDS, names) or data.text_field
    return _with_label(dataclasses.replace(data, **found), names)


def found_in(source: str, data: DataConfig, named: Collection[str] = ()) -> DataConfig:
    """The settings with which labelled data was read, for another source, whose fields may have other usual names.

    What the first record does not have by the names given is looked for, and a warning says what was found.

    Args:
        named: settings that stay, such as "label_field" where labels are not read; a tagger takes plain text too then.

    Raises:
        ValueError, OSError: the source cannot be read.
    """
    names = field_names(source, data.text_field)
    found, label = data, "label_field" not in named
    texts = not {"text_field", "pair_field"} & set(named)
    if texts and not set(filter(None, (data.text_field, data.pair_field))) <= set(names):
        others = [name for name in names if name != data.label_field]
        usual = _TEXTS if data.label_unit == "text" else (*_WORDS, *(() if label else _TEXTS))
        if not data.pair_field:
            found = dataclasses.replace(data, text_field=_first(usual, others) or data.text_field)
        elif data.label_unit == "text" and (pair := _pair(others)):
            found = dataclasses.replace(data, text_field=pair[0], pair_field=pair[1])
    if label and data.label_field:
        found = _with_label(found, names)
    for name in ("text_field", "pair_field", "label_field"):
        if (asked := getattr(data, name)) != (there := getattr(found, name)):
            log.warning("%s has no field %r; %r is read in its place.", source, asked, there)
    return found


def described(data: DataConfig) -> str:
    """One line on which fields are learned from."""
    texts = " and ".join(repr(name) for name in (data.text_field, data.pair_field) if name)
    return f"Fields: text {texts}, label {data.label_field!r}"


def _with_label(data: DataConfig, names: Sequence[str]) -> DataConfig:
    """With the usual name of a label, where that of the settings is not there."""
    usual = [name for name in _USUAL[data.label_unit] if name not in (data.text_field, data.pair_field)]
    own = data.label_field in names
    return data if own else dataclasses.replace(data, label_field=_first(usual, names) or data.label_field)


def _pair(names: Sequence[str]) -> tuple[str, str] | None:
    """A usual pair, unless the records have a field called text that is not part of it."""
    known = (pair for pair in PAIRS if set(pair) <= set(names) and ("text" in pair or "text" not in names))
    return next(known, None)


def _first(usual: Sequence[str], names: Sequence[str]) -> str:
    return next((name for name in usual if name in names), "")
