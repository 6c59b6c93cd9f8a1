"""Words with their tags as token sequences; the first token of a word has its label.

A word with the tag -100 has none: data sets aligned with tokens mark so what PyTorch's losses ignore.

Devlin et al. 2019 (BERT), arXiv:1810.04805, section 5.3.
"""

import logging
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from jaxencoder.text.config import DataConfig
from jaxencoder.text.labels import Labels, parse_integer
from jaxencoder.text.messages import listed
from jaxencoder.text.pieces import Pieces
from jaxencoder.text.schema import Example, Schema, check_structured
from jaxencoder.text.tokenizers.tokenizer import Tokenizer
from jaxencoder.text.words import encode_words, word_windows

log = logging.getLogger(__name__)

_IGNORED = -100  # the default ignore_index of torch.nn.CrossEntropyLoss


class TokenClassificationSchema(Schema):
    """A list of words and a list with a tag for each; -100 for none."""

    name = "word"
    fields: ClassVar = {"text_field": "tokens", "label_field": "tags"}
    text_names, pair_names = ("tokens", "words"), ()
    label_names = ("ner_tags", "ner", "tags", "labels", "upos", "pos_tags")
    reads_words = True
    labels_tokens = True
    marks = ()  # but for _IGNORED, which no tag may be

    @property
    def input_names(self) -> tuple[str, ...]:
        """Plain text is split into words."""
        return (*self.text_names, *Schema.text_names)

    def check(self, data: DataConfig) -> None:
        check_structured(data, "token classification")
        super().check(data)

    def find_labels(self, data: DataConfig) -> Labels | None:
        labels = super().find_labels(data)
        if labels is None:
            return None
        subject = f"the tags in field {data.label_field!r}"
        if labels.kind != "class":
            values = "fractional numbers" if labels.kind == "value" else "lists"
            raise ValueError(f"{subject} are {values}; give text or whole numbers")
        if not labels.names:
            raise ValueError(f"{subject} are all {_IGNORED}, which stands for none; name another field")
        if not data.labels:
            _check_names(labels.names, subject)
        return labels

    def kind_of(self, label: Any) -> str:
        return "class"

    def single_labels(self, label: Any, text: Sequence[str], where: str) -> list[Any]:
        return [tag for tag in check_tags(label, text, where) if not is_ignored(tag)]

    def encode_label(self, label: Any, texts: tuple[list[str], str], labels: Labels, where: str) -> list[Any]:
        ids = [-1 if is_ignored(tag) else labels.encode(tag, where) for tag in check_tags(label, texts[0], where)]
        if None in ids:
            raise ValueError(
                f"{where}: tag {label[ids.index(None)]!r} is no class; write {_IGNORED} for words to ignore"
            )
        return ids

    def encode(self, tokenizer: Tokenizer, examples: list[Example], data: DataConfig, has_pairs: bool) -> Pieces:
        texts, tags = [example.texts[0] for example in examples], [example.label for example in examples]
        return word_pieces(tokenizer, texts, tags, data.row_length)


def is_ignored(tag: Any) -> bool:
    """Whether a word has no tag: neither trained nor measured on."""
    return tag in (_IGNORED, str(_IGNORED))


def check_tags(value: Any, words: Sequence[str], where: str) -> list[Any]:
    """Return a record's tags; ValueError unless they are a list with one for each word."""
    if not isinstance(value, list):
        raise ValueError(f"{where}: the tags are {type(value).__name__}, not a list; name another data.label_field")
    if len(value) != len(words):
        raise ValueError(f"{where}: {len(words)} words, but {len(value)} tags; give each word one, or drop the record")
    return value


def _check_names(names: Sequence[str], subject: str) -> None:
    """ValueError for names such as -1 and nan; a warning for "-", which may be one."""
    if absent := [name for name in names if name.casefold() == "nan" or (parse_integer(name) or 0) < 0]:
        problem = f"{subject} include {listed(absent)}, which is no class"
        raise ValueError(f"{problem}; write -100 for words to ignore, or name all classes in data.labels")
    if "-" in names:
        log.warning("%s include '-', which is learned as a class; write -100 for words to ignore.", subject)


def word_pieces(
    tokenizer: Tokenizer, texts: Sequence[Sequence[str]], tags: Sequence[Sequence[int]], row_length: int
) -> Pieces:
    """Each text as sequences [CLS] ... [SEP] of at most row_length tokens, split between words.

    A word's tag, -1 for none, is the label of its first token; other tokens have none. A word longer than a row is
    split within.

    With words "a", "bcd" of tags 3 and 4, where "bcd" is two tokens: ids [CLS a b ##cd SEP], labels [-1 3 4 -1 -1].
    """
    ids, token_labels = [], []
    cls, sep = np.array([tokenizer.cls_id]), np.array([tokenizer.sep_id])
    for tokens, word_tags in zip(encode_words(tokenizer, texts), tags, strict=True):
        labels = np.where(tokens.first, np.array(word_tags or [0], np.int32)[tokens.word], -1)
        for start, end in word_windows(tokens, row_length - 2):
            ids.append(np.concatenate([cls, tokens.ids[start:end], sep]))
            token_labels.append(np.pad(labels[start:end], 1, constant_values=-1))
    return Pieces.of(tokenizer, ids, token_labels=token_labels)


SCHEMA = TokenClassificationSchema()
