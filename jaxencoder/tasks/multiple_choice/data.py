"""A context and its choices as token sequences [CLS] context [SEP] choice [SEP] that stay in one row.

The form of Radford et al. 2018 and of SWAG in Devlin et al. 2019 (BERT), arXiv:1810.04805, section 4.4.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

from jaxencoder.text import segment_labels
from jaxencoder.text.config import DataConfig
from jaxencoder.text.labels import Labels, parse_integer
from jaxencoder.text.pieces import Pieces, grouped
from jaxencoder.text.schema import Example, Schema, check_structured
from jaxencoder.text.tokenizers.tokenizer import Encoding, Tokenizer


class MultipleChoiceSchema(Schema):
    """A context, a list of choices, and the right one by its number from 0, its letter or its text."""

    name = "choice"
    fields: ClassVar = {"text_field": "context", "pair_field": "choices", "label_field": "label"}
    text_names, pair_names, label_names = (), (), ("label", "answer", "gold")
    names_classes = False

    def check(self, data: DataConfig) -> None:
        check_structured(data, "multiple choice", "the choices")
        super().check(data)

    def find_labels(self, data: DataConfig) -> Labels:
        return Labels("choice", ())

    def check_texts(self, text: str, pair: Any, pair_field: str, where: str) -> None:
        check_choices(pair, where)

    def encode_label(self, label: Any, texts: tuple[str, list[str]], labels: Labels, where: str) -> int:
        return choice_index(label, texts[1], where)

    def encode(self, tokenizer: Tokenizer, examples: list[Example], data: DataConfig, has_pairs: bool) -> Pieces:
        contexts, choices = zip(*(example.texts for example in examples), strict=True)
        groups, _ = encode_choices(tokenizer, contexts, choices, data.row_length)
        encoded = [encoding for group in groups for encoding in group]
        ids, type_ids = [encoding.ids for encoding in encoded], [encoding.type_ids for encoding in encoded]
        labels = [segment_labels.choice_labels(example.label, len(example.texts[1])) for example in examples]
        flat_labels = [label for group in labels for label in group]
        return Pieces.of(tokenizer, ids, type_ids, flat_labels, groups=[len(group) for group in groups])


def check_choices(value: Any, where: str) -> list[str]:
    """Return a record's choices; ValueError unless they are a list of at least two texts."""
    if not isinstance(value, list) or not all(isinstance(choice, str) for choice in value):
        raise ValueError(f"{where}: the choices {str(value)[:60]!r} are no list of texts; name another data.pair_field")
    if len(value) < 2:
        raise ValueError(f"{where}: there is nothing to choose among {value}; give two choices or more, or drop it")
    return value


def choice_index(label: Any, choices: Sequence[str], where: str) -> int:
    """Index of the right choice; ValueError if there is none.

    `label` is its text, its index, its letter (A is the first), or the index as text; the first that fits.
    """
    if isinstance(label, str) and choices.count(label) == 1:
        return choices.index(label)
    number = int(label) if isinstance(label, float) and label.is_integer() else label
    if isinstance(label, str):
        letter = label.strip().upper()
        number = ord(letter) - ord("A") if len(letter) == 1 and "A" <= letter <= "Z" else parse_integer(letter)
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < len(choices):
        raise ValueError(
            f"{where}: label {str(label)[:60]!r} is none of the {len(choices)} choices; give its number from 0, its "
            "letter or its text"
        )
    return number


def encode_choices(
    tokenizer: Tokenizer, contexts: Sequence[str], choices: Sequence[Sequence[str]], row_length: int
) -> tuple[list[list[Encoding]], int]:
    """The encodings of each example's choices, which fit into one row together, and the number of truncated examples.

    If they do not fit, the longest sequences are truncated to one length, the longer text of each first.
    """
    firsts = [context for context, group in zip(contexts, choices, strict=True) for _ in group]
    seconds = [choice for group in choices for choice in group]
    return grouped(tokenizer, firsts, seconds, [len(group) for group in choices], row_length)


SCHEMA = MultipleChoiceSchema()
