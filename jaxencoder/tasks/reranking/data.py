"""Records of a query and documents with labels, as token sequences [CLS] query [SEP] document [SEP].

The sequences of a record share a row, so that a batch holds complete lists.
"""

import math
import re
from collections.abc import Sequence
from typing import Any, ClassVar

from jaxencoder.tasks.embeddings.data import has_negatives, negatives
from jaxencoder.text.config import DataConfig
from jaxencoder.text.labels import Labels, encode_value
from jaxencoder.text.pieces import Pieces, grouped
from jaxencoder.text.schema import Example, Schema, check_structured
from jaxencoder.text.sources.records import Record
from jaxencoder.text.tokenizers.tokenizer import Tokenizer

Document = tuple[str, float]  # the text and its label, NaN for none

_POSITIVES = re.compile(r"positives?|answers?")  # fields whose lists hold documents that answer the query


class RerankingSchema(Schema):
    """A query and its documents with labels: one document, a list, or positives and negatives, labeled 1 and 0.

    Negatives are in all fields negative, negatives, negative_1, negative_2, ..., each a text or a list of texts.
    """

    name = "list"
    fields: ClassVar = {"text_field": "query", "pair_field": "positive", "label_field": ""}
    text_names = ("query", "anchor", "question", "sentence1", "text")
    pair_names = (
        ("query", "documents"), ("query", "docs"), ("query", "passages"), ("query", "positive"), ("query", "positives"),
        ("query", "document"), ("query", "passage"), ("query", "answer"), ("query", "response"), ("query", "text"),
        ("question", "answer"), ("question", "passage"), ("anchor", "positive"), ("sentence1", "sentence2"),
    )  # fmt: skip
    label_names = ("label", "labels", "relevance", "score", "scores")
    names_classes = False
    needs_labels = False
    finds_labels = True
    splits_by_text = True  # so that the documents of a query stay together
    limits_texts = True
    reads_all_fields = True  # the negatives are fields that no setting names
    has_teacher = False  # labels are a teacher's scores
    takes_margins = False  # they may be differences from the positive's
    highest = math.inf  # of labels; those of probabilities are not negative

    def usual_labels(self, names: Sequence[str]) -> Sequence[str]:
        """Without scores if there are negatives: those of mining are no labels, but a teacher's."""
        if self.has_teacher or not has_negatives(names):
            return self.label_names
        return [name for name in self.label_names if not name.startswith("score")]

    def check(self, data: DataConfig) -> None:
        check_structured(data, "reranking", "the documents")
        super().check(data)

    def find_labels(self, data: DataConfig) -> Labels:
        return Labels("tuple", ())

    def adjust(self, record: Record, data: DataConfig, where: str) -> None:
        record[data.pair_field] = self.documents(record, data, where)

    def documents(self, record: Record, data: DataConfig, where: str) -> list[Document]:
        """The documents of a record; ValueError for one that has none, or labels that do not fit them."""
        value, irrelevant = record[data.pair_field], negatives(record)
        texts = value if isinstance(value, list) else [value]
        for text in (*texts, *irrelevant):
            super().check_texts("", text, data.pair_field, where)
        if not texts:
            raise ValueError(f"{where}: field {data.pair_field!r} is an empty list; drop the record")
        if data.label_field:
            labels = self._labels(record.get(data.label_field), len(texts) + len(irrelevant), where)
        elif isinstance(value, list) and not irrelevant and not _POSITIVES.fullmatch(data.pair_field):
            problem = f"field {data.pair_field!r} is a list of documents without labels"
            raise ValueError(f"{where}: {problem}; name data.label_field, or call the field positives if all answer")
        else:
            labels = [1.0] * len(texts) + [0.0] * len(irrelevant)
        return list(zip((*texts, *irrelevant), labels, strict=True))

    def _labels(self, content: Any, documents: int, where: str) -> list[float]:
        """The labels of a record's documents."""
        contents = content if isinstance(content, list) else [content]
        labels = [math.nan if x is None else encode_value(x, where) for x in contents]
        if self.takes_margins and len(labels) == documents - 1:
            labels = [0.0, *(-margin for margin in labels)]
        if len(labels) != documents:
            advice = "give each one, null for those without, or drop the record"
            raise ValueError(f"{where}: {len(labels)} labels for {documents} documents; {advice}")
        for label in labels:
            if self.highest < math.inf and not (math.isnan(label) or 0 <= label <= self.highest):
                advice = "scale the labels, or set objective.loss to mse, lambda or list_net"
                raise ValueError(f"{where}: label {label:g} is no probability from 0 to 1, as loss bce needs; {advice}")
        return labels

    def check_texts(self, text: str, pair: Any, pair_field: str, where: str) -> None:
        """`documents` has checked them."""

    def encode_label(self, label: Any, texts: tuple[str, list[Document]], labels: Labels, where: str) -> list[float]:
        return [label for _, label in texts[1]]

    def encode(self, tokenizer: Tokenizer, examples: list[Example], data: DataConfig, has_pairs: bool) -> Pieces:
        queries = [example.texts[0] for example in examples for _ in example.texts[1]]
        texts = [text for example in examples for text, _ in example.texts[1]]
        sizes = [len(example.texts[1]) for example in examples]
        groups, _ = grouped(tokenizer, queries, texts, sizes, data.row_length, data.text_limit)
        labels = [(i, label) for example in examples for i, label in enumerate(example.label)]
        encoded = [encoding for group in groups for encoding in group]
        ids, type_ids = [encoding.ids for encoding in encoded], [encoding.type_ids for encoding in encoded]
        return Pieces.of(tokenizer, ids, type_ids, labels, groups=sizes)


class ProbabilitySchema(RerankingSchema):
    """Labels are probabilities that a document answers the query."""

    name = "list of probabilities"
    highest = 1.0


class TeacherSchema(RerankingSchema):
    """Labels are a teacher's scores."""

    name = "list of a teacher's scores"
    label_names = ("scores", "score", "teacher_scores", "label", "labels")
    has_teacher = True


class MarginSchema(TeacherSchema):
    """The first document answers the query; labels may also be the differences of its score from the others'."""

    name = "list of margins"
    takes_margins = True


SCHEMA = RerankingSchema()
_BY_LOSS = {"bce": ProbabilitySchema(), "mse": TeacherSchema(), "margin_mse": MarginSchema()}


def schema_for(loss: str) -> RerankingSchema:
    """The schema whose labels suit a loss of Reranking."""
    return _BY_LOSS.get(loss, SCHEMA)
