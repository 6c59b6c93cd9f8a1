"""A token classifier measured on records with tags."""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from jaxencoder.tasks.records import chunks, labeled_records
from jaxencoder.tasks.task import Evaluation, TaskModel
from jaxencoder.tasks.token_classification.data import SCHEMA, check_tags, is_ignored
from jaxencoder.tasks.token_classification.metrics import tag_metrics
from jaxencoder.tasks.token_classification.predict import tag_words
from jaxencoder.tasks.token_classification.scheme import read_tags, warn_of_strays
from jaxencoder.text.labels import parse_integer
from jaxencoder.text.messages import listed
from jaxencoder.text.sources.class_names import are_unnamed
from jaxencoder.text.sources.records import class_names

log = logging.getLogger(__name__)

_SHOWN = 300  # characters of names in a message


def evaluate_tags(model: TaskModel, source: str | None = None) -> Evaluation:
    """`tag_metrics` on the records held out by the run, or on a source with the same fields.

    Words with the tag -100 are read, and not counted. A warning names tags of the data that the model does not have.

    Raises:
        ValueError: a tag that is none, such as None and -1; a number that is no id of the model's tags; or the model
            has none of the data's tags.
    """
    names = _tag_names(model, source)
    reader = _TagReader(names, source or "the data")
    renamed = dict(zip(model.labels, names, strict=True))
    true, predicted = [], []
    for chunk in chunks(_examples(model, source, reader), lambda example: sum(map(len, example[0]))):
        texts, tags = zip(*chunk, strict=True)
        for x, tagged in zip(tags, tag_words(model, texts), strict=True):
            pairs = [(a, renamed[b]) for a, b in zip(x, tagged.tags, strict=True) if a is not None]
            true.append([a for a, _ in pairs])
            predicted.append([b for _, b in pairs])
    if not reader.counts:
        raise ValueError("the data holds no words with tags to measure on; name other data with --data")
    reader.report()
    return Evaluation(tag_metrics(true, predicted, names))


def _tag_names(model: TaskModel, source: str | None) -> tuple[str, ...]:
    """The names of a model's tags; if it has none, those of a source's metadata that names as many."""
    if source is None or not are_unnamed(model.labels):
        return model.labels
    names = class_names(source).get(model.config.data.label_field, ())
    return names if len(names) == len(model.labels) else model.labels


def _examples(
    model: TaskModel, source: str | None, reader: "_TagReader"
) -> Iterator[tuple[list[str], list[str | None]]]:
    """The words and tags of records that have words; None for words to ignore."""
    data = model.config.data
    for where, record in labeled_records(SCHEMA, data, source, reader.names):
        if words := record[data.text_field]:
            yield words, [reader.name(tag, where) for tag in check_tags(record[data.label_field], words, where)]


class _TagReader:
    """The names of tags in records, and which of them a model does not have."""

    def __init__(self, names: Sequence[str], source: str):
        self.names, self._source = names, source
        self._uses_ids = False
        self.counts: Counter[str] = Counter()

    def name(self, tag: Any, where: str) -> str | None:
        """`tag_name`, counted; None for a tag to ignore."""
        if is_ignored(tag):
            return None
        text = _tag_text(tag, where)
        name = tag_name(text, self.names, where)
        self._uses_ids |= parse_integer(text) != parse_integer(name)
        self.counts[name] += 1
        return name

    def report(self) -> None:
        """Warn of numbers taken as ids and of tags that the model does not have; ValueError if it has none of them."""
        names, unknown = self.names, sorted(self.counts.keys() - set(self.names))
        if self._uses_ids:
            pairs = listed(f"{i} = {name}" for i, name in enumerate(names))[:_SHOWN]
            log.warning("The tags of %s are numbers, taken as ids of the model: %s.", self._source, pairs)
        readings = read_tags(names, sorted(self.counts))
        if readings is not None:
            warn_of_strays(names)
            kinds = {readings[name].kind for name in names if readings[name].mark}
            unknown = [tag for tag in unknown if not readings[tag].mark or readings[tag].kind not in kinds]
        if not unknown:
            return
        problem = f"{self._source} has tags that the model does not know: {listed(unknown)[:_SHOWN]}"
        if len(unknown) == len(self.counts.keys() - {"O", "o"}):
            raise ValueError(f"{problem}; it knows none but {listed(names)[:_SHOWN]}; name other data or another model")
        words = sum(self.counts[tag] for tag in unknown)
        log.warning("%s. Its answers for these %d words count as wrong.", problem, words)


def tag_name(tag: Any, names: Sequence[str], where: str) -> str:
    """A record's tag as text; a number, as in TFDS and many Parquet files, is the id of one of the model's names.

    It is a name itself if all of them are numbers. ValueError for what is no tag, and for a number that is no id.
    """
    text = _tag_text(tag, where)
    number = parse_integer(text)
    if number is None or text in names:
        return text
    if str(number) in names or all(parse_integer(name) is not None for name in names):
        return str(number)
    if not 0 <= number < len(names):
        problem = f"{where}: tag {text} is not among the ids 0 to {len(names) - 1} of the model's tags"
        raise ValueError(f"{problem}; words to ignore have -100, other tags need their names")
    return names[number]


def _tag_text(tag: Any, where: str) -> str:
    if isinstance(tag, float) and tag.is_integer():  # as pandas writes a column that lacks some
        tag = int(tag)
    if not isinstance(tag, str | int) or tag == "":
        raise ValueError(f"{where}: tag {str(tag)[:60]!r} is neither text nor a whole number; drop the record")
    return str(int(tag)) if isinstance(tag, bool) else str(tag)  # as in training
