"""Records with classes, for losses that learn which texts are of one class, or which class a pair of texts has."""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

from jaxencoder.tasks.embeddings.data import EmbeddingSchema
from jaxencoder.text.config import DataConfig
from jaxencoder.text.labels import Labels
from jaxencoder.text.schema import Example, Schema, check_structured
from jaxencoder.text.sources.records import Record

_GROUP = 2  # texts of a class that share a row; the last group of a class may have one more or one less

# The classes of a run, made once for all its records.
_classes = functools.lru_cache(maxsize=1)(functools.partial(Labels, "class"))


class PairClasses(EmbeddingSchema):
    """Two texts and the class of the pair, such as those of natural language inference."""

    name = "pairs with classes"
    label_names = ("label", "labels", "class", "category", "gold_label")
    names_classes = True
    finds_labels = True
    reads_labels = True
    reads_all_fields = False

    def find_labels(self, data: DataConfig) -> Labels:
        """The names of the classes, in order of id."""
        labels = Schema.find_labels(self, data)
        if labels is None:
            raise ValueError("objective.loss needs a class of each record; name data.label_field")
        if labels.kind != "class":
            kind = "values" if labels.kind == "value" else "lists of classes"
            problem = f"field {data.label_field!r} holds {kind}, but objective.loss needs one class of each record"
            raise ValueError(f"{problem}; name another data.label_field")
        return Labels("tuple", labels.names)

    def adjust(self, record: Record, data: DataConfig, where: str) -> None:
        record[data.pair_field] = [record[data.pair_field]]

    def encode_label(self, label: Any, texts: tuple[str, list[str]], labels: Labels, where: str) -> list[int] | None:
        """The id of the class for each text; None for a mark of no class."""
        number = _classes(labels.names).encode(label, where)
        return [int(number)] * (1 + len(texts[1])) if isinstance(number, int | float) else None


class TextClasses(PairClasses):
    """Single texts with classes, in groups of one class, so that a batch has texts of equal class.

    A group becomes an example: its texts share a row.
    """

    name = "groups of texts of a class"
    text_names = Schema.text_names
    pair_names = ()
    label_names = Schema.label_names
    single_texts = True

    def check(self, data: DataConfig) -> None:
        single = dataclasses.replace(data, pair_field="") if data.pair_field == self.fields["pair_field"] else data
        check_structured(single, "embeddings of texts with classes")
        Schema.check(self, data)

    def adjust(self, record: Record, data: DataConfig, where: str) -> None:
        """Texts need no other fields."""

    def check_texts(self, text: str, pair: Any, pair_field: str, where: str) -> None:
        """There is no second text."""

    def examples(self, *arguments: Any) -> Iterator[Example]:
        """As of `Schema`: the first text of a group, and a list of the others."""
        groups: dict[int, list[Example]] = {}
        for example in super().examples(*arguments):
            if example.label is None:
                yield example
                continue
            group = groups.setdefault(example.label[0], [])
            group.append(example)
            if len(group) == 2 * _GROUP:  # so that no text remains alone
                yield _joined(group[:_GROUP])
                del group[:_GROUP]
        for group in groups.values():
            yield _joined(group)


def _joined(group: list[Example]) -> Example:
    """The texts of a group as one example."""
    first, *rest = (example.texts[0] for example in group)
    return Example((first, rest), group[0].label[:1] * len(group), group[0].digest)
