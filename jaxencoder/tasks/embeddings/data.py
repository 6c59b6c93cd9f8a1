"""Records of texts whose vectors are compared: pairs, triplets and longer tuples, perhaps with a score.

Each text becomes a sequence of its own, and those of a record share a row: a batch holds complete examples.
"""

import math
import re
from typing import Any, ClassVar

from jaxencoder.text.config import DataConfig
from jaxencoder.text.labels import Labels
from jaxencoder.text.pieces import Pieces, grouped
from jaxencoder.text.schema import Example, Schema, check_structured
from jaxencoder.text.sources.records import Record
from jaxencoder.text.tokenizers.tokenizer import Tokenizer

_NEGATIVE = re.compile(r"negatives?(_\d+)?")  # names of fields with texts that are not similar to the first


class EmbeddingSchema(Schema):
    """An anchor, such as a query, a text similar to it, and any number of texts that are not; or two texts and a score.

    The texts that are not similar are those of all fields negative, negatives, negative_1, negative_2, ..., each a
    text or a list of texts.
    """

    name = "tuple"
    fields: ClassVar = {"text_field": "anchor", "pair_field": "positive", "label_field": ""}
    text_names = ("anchor", "query", "question", "sentence1", "sentence_0", "premise", "text")
    pair_names = (
        ("anchor", "positive"), ("query", "positive"), ("query", "document"), ("query", "passage"),
        ("question", "answer"), ("question", "passage"), ("sentence1", "sentence2"), ("sentence_0", "sentence_1"),
        ("sentence_A", "sentence_B"), ("premise", "hypothesis"), ("text1", "text2"), ("text_a", "text_b"),
        ("question1", "question2"),
    )  # fmt: skip
    label_names = ("score", "similarity_score", "similarity", "label")
    names_classes = False
    needs_labels = False
    reads_all_fields = True  # the negatives are fields that no setting names

    def check(self, data: DataConfig) -> None:
        check_structured(data, "embedding", "the text that is similar")
        super().check(data)

    def find_labels(self, data: DataConfig) -> Labels:
        return Labels("tuple", ())

    def adjust(self, record: Record, data: DataConfig, where: str) -> None:
        texts = [record[data.pair_field]]
        for name in filter(_NEGATIVE.fullmatch, record):
            value = record[name]
            texts += value if isinstance(value, list) else [] if value is None else [value]
        record[data.pair_field] = texts

    def check_texts(self, text: str, pair: Any, pair_field: str, where: str) -> None:
        for value in pair:
            super().check_texts(text, value, pair_field, where)

    def encode_label(self, label: Any, texts: tuple[str, list[str]], labels: Labels, where: str) -> Any:
        return math.nan if label is None else Labels("value", ()).encode(label, where)

    def encode(self, tokenizer: Tokenizer, examples: list[Example], data: DataConfig, has_pairs: bool) -> Pieces:
        texts = [[anchor, *compared] for anchor, compared in (example.texts for example in examples)]
        flat_texts = [text for group in texts for text in group]
        groups, _ = grouped(tokenizer, flat_texts, None, [len(group) for group in texts], data.row_length)
        labels = [(i, e.label) for e, group in zip(examples, groups, strict=True) for i in range(len(group))]
        ids = [encoding.ids for group in groups for encoding in group]
        return Pieces.of(tokenizer, ids, labels=labels, groups=[len(group) for group in groups])


SCHEMA = EmbeddingSchema()
