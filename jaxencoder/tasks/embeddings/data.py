"""Records of texts whose vectors are compared: pairs, triplets and longer tuples, perhaps with a score.

Each text becomes a sequence of its own, and those of a record share a row: a batch holds complete examples.
"""

import json
import math
import re
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, Literal

from jaxencoder.text.config import DataConfig
from jaxencoder.text.labels import Labels, encode_value
from jaxencoder.text.pieces import Pieces, grouped
from jaxencoder.text.schema import Example, Schema, check_structured
from jaxencoder.text.sources.records import Record
from jaxencoder.text.tokenizers.tokenizer import Tokenizer
from jaxencoder.text.windows import text_room

VectorTexts = Literal["each", "anchor"]  # which texts of a record have a vector by another model
_MOST_NUMBERS = 1 << 24  # labels are float32, which holds all integers up to this
_NEGATIVE = re.compile(r"negatives?(_\d+)?")  # names of fields with texts that are not similar to the first


class EmbeddingSchema(Schema):
    """An anchor, such as a query, a text similar to it, and any number of texts that are not; or two texts and a score.

    The texts that are not similar are those of all fields negative, negatives, negative_1, negative_2, ..., each a
    text or a list of texts.
    """

    name = "tuple"
    fields: ClassVar = {"text_field": "anchor", "pair_field": "positive", "label_field": ""}
    text_names = ("anchor", "query", "question", "sentence1", "sentence_0", "premise", "text", "sentence")
    pair_names = (
        ("anchor", "positive"), ("query", "positive"), ("query", "document"), ("query", "passage"),
        ("question", "answer"), ("question", "passage"), ("sentence1", "sentence2"), ("sentence_0", "sentence_1"),
        ("sentence_A", "sentence_B"), ("premise", "hypothesis"), ("text1", "text2"), ("text_a", "text_b"),
        ("question1", "question2"),
    )  # fmt: skip
    label_names = ("score", "similarity_score", "similarity", "label")
    names_classes = False
    needs_labels = False
    limits_texts = True
    reads_labels = False  # needs the label field
    reads_all_fields = True  # the negatives are fields that no setting names
    orders_aligned = True

    def __init__(self, prompts: tuple[str, str] = ("", "")):
        """`prompts` are put before the first text and before the others."""
        self._prompts = prompts
        if any(prompts):
            self.name = f"{self.name} after prompts {json.dumps(prompts)}"

    def check(self, data: DataConfig) -> None:
        is_single = self.optional_pair and not data.pair_field
        check_structured(data, "embedding", "" if is_single else "the text that is similar")
        super().check(data)

    def find_labels(self, data: DataConfig) -> Labels:
        return Labels("tuple", ())

    def examples(
        self, data: DataConfig, source: str, pair_field: str, labels: Labels | None, split: str, fraction: float
    ) -> Iterator[Example]:
        if not self.optional_pair:
            pair_field = data.pair_field
        return super().examples(data, source, pair_field, labels, split, fraction)

    def adjust(self, record: Record, data: DataConfig, where: str) -> None:
        if data.pair_field not in record:  # of a single text
            return
        record[data.pair_field] = [record[data.pair_field], *negatives(record)]

    def check_texts(self, text: str, pair: Any, pair_field: str, where: str) -> None:
        for value in pair:
            super().check_texts(text, value, pair_field, where)

    def encode_label(self, label: Any, texts: tuple[str, list[str]], labels: Labels, where: str) -> list[float]:
        """A number for each text: the record's score, NaN for none."""
        return [math.nan if label is None else encode_value(label, where)] * (1 + len(texts[1]))

    def encode(self, tokenizer: Tokenizer, examples: list[Example], data: DataConfig, has_pairs: bool) -> Pieces:
        first, other = self._prompts
        texts = [[first + e.texts[0], *(other + text for text in e.texts[1])] for e in examples]
        flat_texts = [text for group in texts for text in group]
        sizes = [len(group) for group in texts]
        for prompt in filter(None, self._prompts):
            setting = "data.row_length" if data.text_limit == data.row_length else "data.text_length"
            text_room(data.text_limit, len(tokenizer.encode_batch([prompt])[0].ids), prompt, setting)
        groups, _ = grouped(tokenizer, flat_texts, None, sizes, data.row_length, data.text_limit, self._prompts)
        labels = [(i, label) for example in examples for i, label in enumerate(example.label)]
        ids = [encoding.ids for group in groups for encoding in group]
        return Pieces.of(tokenizer, ids, labels=labels, groups=sizes)


def has_negatives(names: Iterable[str]) -> bool:
    """Whether one of the names of a record's fields is that of negatives."""
    return any(map(_NEGATIVE.fullmatch, names))


def negatives(record: Record) -> list[Any]:
    """The values of all fields negative, negatives, negative_1, ..., each of which holds one, a list or none."""
    values = (record[name] for name in filter(_NEGATIVE.fullmatch, record))
    return [x for value in values for x in (value if isinstance(value, list) else [] if value is None else [value])]


class NumberedTexts(EmbeddingSchema):
    """The same texts, each labeled with the number of its vector by another model, a teacher or guide.

    The texts of a source's split that have such a vector are counted from 0, in the order of the records.
    """

    name = "tuple with numbers of vectors"

    def __init__(self, prompts: tuple[str, str] = ("", ""), reads: VectorTexts = "each", optional_pair: bool = False):
        """`reads`: which texts of a record have a vector; `optional_pair`: whether a record may be a single text."""
        super().__init__(prompts)
        self.reads, self.optional_pair = reads, optional_pair
        if reads == "anchor":
            self.name = f"{self.name} of anchors"

    def examples(
        self, data: DataConfig, source: str, pair_field: str, labels: Labels | None, split: str, fraction: float
    ) -> Iterator[Example]:
        count = 0
        for example in super().examples(data, source, pair_field, labels, split, fraction):
            texts, step = 1 + len(example.texts[1]), self.reads == "each"
            yield example._replace(label=[float(count + step * i) for i in range(texts)])
            count += texts if step else 1
            if count > _MOST_NUMBERS:
                problem = f"{source} holds more than {_MOST_NUMBERS:,} texts with vectors of another model"
                raise ValueError(f"{problem}; split it into several files, each a source")

    def texts_with_vectors(self, example: Example) -> list[str]:
        """The texts of an example that have vectors, in the order of their numbers; the anchor is the first."""
        anchor, pair = example.texts
        return [anchor, *pair] if self.reads == "each" else [anchor]


class PairScores(EmbeddingSchema):
    """Two texts and the score of their similarity."""

    reads_labels = True


class TeacherScores(EmbeddingSchema):
    """The same texts with the scores of a teacher: of the first text with each other one, in their order.

    A list of one number less, or a number where there is one negative, holds the differences between the score of the
    positive and those of the negatives.
    """

    name = "tuple with a teacher's scores"
    reads_labels = True
    label_names = ("scores", "teacher_scores", "score", "label", "labels")

    def encode_label(self, label: Any, texts: tuple[str, list[str]], labels: Labels, where: str) -> list[float]:
        """NaN for the first text, then its score with each other one."""
        count = len(texts[1])
        if count < 2:
            advice = "a teacher's scores of one text have no order; add a negative or drop the record"
            raise ValueError(f"{where}: the record has no negative, and {advice}")
        if label is None:
            return [math.nan] * (1 + count)
        values = [encode_value(x, where) for x in (label if isinstance(label, list) else [label])]
        if len(values) == count - 1:
            values = [0.0, *(-margin for margin in values)]
        if len(values) != count:
            advice = f"give {count} scores, or {count - 1} differences between the positive's and the negatives'"
            raise ValueError(f"{where}: {len(values)} scores of a teacher for {count} texts; {advice}")
        return [math.nan, *values]


SCHEMA = EmbeddingSchema()
