"""How records become labeled examples, and examples token sequences.

`Schema` itself reads texts or pairs of texts, each with at most one label: pretraining and text classification. A task
whose records differ overrides its methods. Worker processes run `encode`, so no file that defines a schema may import
jax.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

from jaxencoder.text import labels as label_kinds
from jaxencoder.text import pieces
from jaxencoder.text.config import ALIGNED, OVERLAP, DataConfig
from jaxencoder.text.labels import Labels
from jaxencoder.text.pairs import sentence_pairs
from jaxencoder.text.pieces import Pieces
from jaxencoder.text.sources.class_names import spelled_as, with_names
from jaxencoder.text.sources.records import ALIGNED_FIELD, Record, class_names, read
from jaxencoder.text.tokenizers.tokenizer import Tokenizer


class Example(NamedTuple):
    """A document of a data set."""

    texts: tuple[Any, Any]  # first and second text, as the task has them; the second is "" for a single text
    label: Any  # as the task encodes it; 0 without labels, None if the data set marks the example as unlabeled
    digest: int  # of `text_digest`


class Schema:
    """The fields of a task's records and their encoding."""

    name = ""  # part of the address of prepared rows; empty for texts, whose settings are in the address anyway
    # Settings of data that no run names, such as that of a published model.
    fields: ClassVar[Mapping[str, str]] = {"text_field": "text", "label_field": "label"}
    # Usual names of fields, tried where a record lacks the configured one.
    text_names: tuple[str, ...] = ("text", "sentence", "content", "review", "document", "body")
    pair_names: tuple[tuple[str, str], ...] = (
        ("sentence1", "sentence2"), ("sentence_1", "sentence_2"), ("sentence_A", "sentence_B"),
        ("premise", "hypothesis"), ("text1", "text2"), ("text_a", "text_b"), ("question1", "question2"),
        ("question", "sentence"), ("question", "passage"), ("text", "text_pair"),
    )  # fmt: skip
    label_names: tuple[str, ...] = (
        "label", "labels", "class", "category", "target", "score", "sentiment", "intent", "topic", "rating", "stars",
    )  # fmt: skip
    optional_pair = False  # records may lack a second text, though `fields` has one
    reads_words = False  # the text field holds a list of words
    labels_tokens = False  # tokens have labels, not texts
    names_classes = True  # the labels are classes of the data set, whose names `data.labels` may give
    needs_labels = True  # of tasks: a run must name the label field
    has_values = False  # the labels are values, whatever they look like
    marks: tuple[str, ...] = label_kinds.MARKS  # labels of what has none
    finds_labels = False  # a label field is found by its usual names, and records may lack one
    orders_aligned = False  # the first of two aligned texts stays the first
    single_texts = False  # a record has one text, whatever the usual name of a second one
    by_source = False  # sources differ in their fields, see `of_source`
    splits_by_text = False  # what is held out depends on the first text alone
    reads_all_fields = False  # `adjust` uses fields that no setting names
    limits_texts = False  # `encode` truncates texts to `data.text_limit`
    overlaps = False  # sequences of a long text overlap by `data.overlap` tokens

    @property
    def input_names(self) -> tuple[str, ...]:
        """Usual names of the text field in records without labels."""
        return self.text_names

    def usual_labels(self, names: Sequence[str]) -> Sequence[str]:
        """Usual names of the label field in records with the fields `names`."""
        return self.label_names

    def of_source(self, data: DataConfig, number: int) -> tuple["Schema", DataConfig]:
        """The schema and the settings of the training source of this number, or of the held-out one."""
        return self, data

    def check(self, data: DataConfig) -> None:
        """Raise ValueError for settings that contradict the task."""
        if data.labels and not self.names_classes:
            raise ValueError(f"data.labels is {', '.join(data.labels)}, but the task has no classes; leave it out")
        if data.text_length and not self.limits_texts:
            problem = f"data.text_length is {data.text_length}, which is for embeddings and reranking"
            raise ValueError(f"{problem}; set data.row_length, and leave it out")
        if data.overlap != OVERLAP and data.long_texts != "windows" and not self.overlaps:
            problem = f"data.overlap is {data.overlap}, but no text is split into pieces that overlap"
            raise ValueError(f"{problem}; set it to {OVERLAP}, or data.long_texts to windows")

    def find_labels(self, data: DataConfig) -> Labels | None:
        """The classes of the settings, of the metadata or of the training data (`labels.infer`); None without labels.

        Metadata decides if all training sources have the same names for the classes of the label field.
        """
        if not data.label_field:
            return None
        named = {self._class_names(data, source) for source in data.train}
        if names := data.labels or (named.pop() if len(named) == 1 else ()):
            _, record, _ = next(self._read(data, data.train[0], data.pair_field))
            kind = self.kind_of(record[data.label_field])
            labels = (label for label, _ in self._training_labels(data))
            return Labels(kind, names, kind == "classes" and label_kinds.are_indicators(labels, len(names)))
        return label_kinds.infer(self._training_labels(data), self.marks)

    def kind_of(self, label: Any) -> str:
        """Kind of the named classes, by a record's label: "classes" for lists, else "class"."""
        return "classes" if isinstance(label, list) else "class"

    def single_labels(self, label: Any, text: Any, where: str) -> Iterable[Any]:
        """The labels that a record's label field holds."""
        return (label,)

    def adjust(self, record: Record, data: DataConfig, where: str) -> None:
        """Change a record by its other fields; ValueError if these are invalid."""

    def check_texts(self, text: Any, pair: Any, pair_field: str, where: str) -> None:
        """Raise ValueError if the second text is not as the task needs it."""
        if not isinstance(pair, str):
            problem = f"field {pair_field!r} is {type(pair).__name__}, not text"
            raise ValueError(f"{where}: {problem}; name another field or drop the record")

    def encode_label(self, label: Any, texts: tuple[Any, Any], labels: Labels, where: str) -> Any:
        """A record's label as `encode` takes it."""
        return labels.encode(label, where)

    def encode(self, tokenizer: Tokenizer, examples: list[Example], data: DataConfig, has_pairs: bool) -> Pieces:
        """Token sequences of examples, which have a second text if `has_pairs`; runs in worker processes."""
        texts, seconds = map(list, zip(*(example.texts for example in examples), strict=True))
        if data.pairs != "none":
            return sentence_pairs(tokenizer, texts, data.row_length, data.pairs, data.short_pair_probability)
        if not data.label_field and not has_pairs:
            return pieces.documents(tokenizer, texts, data.row_length)
        labels = [example.label for example in examples]
        if data.long_texts == "windows":
            return pieces.windows(tokenizer, texts, labels, data.row_length, data.overlap)
        optional = (seconds if has_pairs else None, labels if data.label_field else None)
        return pieces.examples(tokenizer, texts, *optional, data.row_length)

    def examples(
        self, data: DataConfig, source: str, pair_field: str, labels: Labels | None, split: str, fraction: float
    ) -> Iterator[Example]:
        """The examples of one source; ValueError, which names the record, for an invalid text or label.

        Args:
            pair_field: of this source; empty for single texts.
            labels: of `find_labels`.
            split: "train" or "validation".
            fraction: of the examples held out, chosen by a hash of the texts; 0 takes all, whatever the split.
        """
        classes = None if labels is None else labels.names
        for where, record, digest in self._read(data, source, pair_field, classes):
            text, pair = record[data.text_field], record[pair_field] if pair_field else ""
            self.check_texts(text, pair, pair_field, where)
            if fraction and (split == "validation") != is_held_out(digest, fraction):
                continue
            content = record[data.label_field] if data.label_field else None
            label = 0 if labels is None else self.encode_label(content, (text, pair), labels, where)
            # The lowest bit has no part in what is held out.
            is_swapped = source.startswith(ALIGNED) and digest & 1 and not self.orders_aligned
            yield Example((pair, text) if is_swapped else (text, pair), label, digest)

    def validation_records(
        self, data: DataConfig, classes: Sequence[str] | None = None
    ) -> Iterator[tuple[str, Record]]:
        """The records of the validation rows of a labeled data set: the place of each for messages, and all fields.

        `classes` are a model's, empty if it has none: numbers with names in the metadata are given by name, as the
        model spells it, see `spelled_as`.
        """
        fraction = 0.0 if data.validation else data.validation_fraction
        sources = data.validation or (data.train if fraction else ())
        if not sources:
            raise ValueError("this run has held nothing out; name a source with --data")
        for source in sources:
            for where, record, digest in self._read(data, source, data.pair_field, classes, all_fields=True):
                if not fraction or is_held_out(digest, fraction):
                    yield where, record

    def _training_labels(self, data: DataConfig) -> Iterator[tuple[Any, str]]:
        fraction = 0.0 if data.validation else data.validation_fraction
        for source in data.train:
            for where, record, digest in self._read(data, source, data.pair_field):
                if not is_held_out(digest, fraction):
                    for label in self.single_labels(record[data.label_field], record[data.text_field], where):
                        yield label, where

    def _class_names(self, data: DataConfig, source: str) -> tuple[str, ...]:
        """The names of the classes in the metadata of a source; empty if it has none."""
        return class_names(source).get(data.label_field, ()) if data.label_field and self.names_classes else ()

    def _read(
        self,
        data: DataConfig,
        source: str,
        pair_field: str,
        classes: Sequence[str] | None = None,
        all_fields: bool = False,
    ) -> Iterator[tuple[str, Record, int]]:
        """The place of each record for messages, its configured fields or all of them, and the digest of its texts.

        Numbers of the label field whose names are in the metadata are replaced by these, spelled as in `classes`, the
        classes of a model, or for None as in data.labels; they stay if `classes` is empty.
        """
        names = [name for name in (pair_field, data.label_field) if name]
        fields: dict[str, Any] = {"required" if all_fields or self.reads_all_fields else "fields": names}
        fields |= {"text_field": data.text_field, "pair_field": pair_field or ALIGNED_FIELD}
        records = read(source, text_unit=data.text_unit, words=self.reads_words, **fields)
        label_names = self._class_names(data, source) if classes is None or classes else ()
        if label_names and (spelling := classes or data.labels):
            label_names = spelled_as(label_names, spelling, source)
        for number, record in enumerate(records, 1):
            where, pair = f"{source}, record {number}", str(record[pair_field]) if pair_field else ""
            if label_names:
                record[data.label_field] = with_names(record[data.label_field], label_names, where)
            self.adjust(record, data, where)
            yield where, record, text_digest(record[data.text_field], "" if self.splits_by_text else pair)


def text_digest(text: str | Sequence[str], pair: str) -> int:
    """Return a 64-bit hash; equal texts, or equal lists of words, land on the same side of the split."""
    content = f"{text if isinstance(text, str) else ' '.join(text)}\0{pair}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


def is_held_out(digest: int, fraction: float) -> bool:
    """Whether a document with this digest is in the fraction held out for validation when no source is named."""
    return digest < fraction * 2**64


def check_structured(data: DataConfig, task: str, pair: str = "") -> None:
    """Raise ValueError for settings that only suit labels of complete texts.

    `task` and `pair`, the content of data.pair_field or "" for a task without a second text, are words of the messages.
    """
    if data.balance:
        raise ValueError(f"data.balance is {data.balance}, which is for labels of whole texts, not {task}; set it to 0")
    if bool(data.pair_field) != bool(pair):
        advice = f"name the field of {pair}" if pair else "leave it out"
        raise ValueError(f"data.pair_field is {data.pair_field!r}, but the task is {task}; {advice}")
    if data.long_texts == "windows":
        raise ValueError(f"data.long_texts is 'windows', which is for labels of single texts, not {task}; leave it out")


TEXTS = Schema()
