"""Which fields of records hold the texts and the label, where settings name none that are there: the usual names."""

import dataclasses
from collections.abc import Sequence

from jaxencoder.text.config import DataConfig
from jaxencoder.text.sources import field_names

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
    if data.label_field not in names:
        taken = {found.get("text_field", data.text_field), found.get("pair_field", data.pair_field)}
        usual = [name for name in _USUAL[data.label_unit] if name not in taken]
        found["label_field"] = _first(usual, names) or data.label_field
    return dataclasses.replace(data, **found)


def described(data: DataConfig) -> str:
    """One line on which fields are learned from."""
    texts = " and ".join(repr(name) for name in (data.text_field, data.pair_field) if name)
    return f"Fields: text {texts}, label {data.label_field!r}"


def _pair(names: Sequence[str]) -> tuple[str, str] | None:
    """A usual pair, unless the records have a field called text that is not part of it."""
    known = (pair for pair in PAIRS if set(pair) <= set(names) and ("text" in pair or "text" not in names))
    return next(known, None)


def _first(usual: Sequence[str], names: Sequence[str]) -> str:
    return next((name for name in usual if name in names), "")
