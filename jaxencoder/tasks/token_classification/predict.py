"""Tagging words: named entities and whatever else each word of a text has a class for.

Entities count as found if their words and their type are right, as conlleval has it: Tjong Kim Sang and De Meulder
2003, arXiv:cs/0306050. Texts longer than a row are read in pieces that overlap.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxencoder.inference.embed import chunks
from jaxencoder.inference.model import OpenedModel
from jaxencoder.inference.outputs import encode
from jaxencoder.inference.writers import refuse_fields
from jaxencoder.model.config import ComputeConfig, EncoderConfig
from jaxencoder.model.heads import Head, HeadConfig
from jaxencoder.objectives.objective import Batch, Params
from jaxencoder.tasks.records import with_words
from jaxencoder.tasks.token_classification.objective import NAME, Scheme, entity_starts
from jaxencoder.text.fields import found_in
from jaxencoder.text.sentences import word_spans
from jaxencoder.text.sources import Record, read
from jaxencoder.text.windows import max_context_windows
from jaxencoder.text.words import encode_words, word_windows

OVERLAP = 32  # tokens that pieces of a long text have in common, so that each word is read in its surroundings


class Tagged(NamedTuple):
    """The tags of a text's words, and how probable the model finds each: float32 [words]."""

    tags: list[str]
    probabilities: np.ndarray


class Entity(NamedTuple):
    """Words [start, end) of a text, and what they are."""

    kind: str
    start: int
    end: int


def tag_words(model: OpenedModel, texts: Sequence[Sequence[str]], batch_tokens: int | None = None) -> list[Tagged]:
    """The most probable tag of each word.

    Args:
        model: a run with the objective TokenClassification, or a published tagger.
        texts: lists of words.
        batch_tokens: as in `Model.embed`.

    Returns:
        One for each text. Where the tokenizer leaves nothing of a word, its tag is "O" if there is such a tag, else the
        first one, with probability 0.

    Raises:
        ValueError: a model that has learned no tags, or a word that is not valid Unicode.
    """
    if NAME not in model.heads or not model.labels:
        raise ValueError("this model has learned to tag no words; fine-tune it with the objective TokenClassification")
    names, room = model.labels, min(model.max_length, model.config.data.row_length) - 2
    encoded = encode_words(model.tokenizer, texts)
    # Of the pieces that hold a word, the one with most tokens around it decides.
    pieces = [
        (i, part)
        for i, tokens in enumerate(encoded)
        for part in max_context_windows(word_windows(tokens, room, OVERLAP))
    ]
    around = np.array([model.tokenizer.cls_id]), np.array([model.tokenizer.sep_id])
    ids = [np.concatenate([around[0], encoded[i].ids[part.start : part.end], around[1]]) for i, part in pieces]
    shares = [np.zeros((len(words), len(names)), np.float32) for words in texts]
    known = [np.zeros(len(words), bool) for words in texts]
    function = partial(_probabilities, model.config.model, model.compute, model.heads[NAME])
    for plan, values in model.run(function, ids, batch_tokens):
        for number, row, start in zip(plan.texts, plan.row, plan.start, strict=True):
            i, part = pieces[number]
            first = part.first + np.flatnonzero(encoded[i].first[part.first : part.last])
            words = encoded[i].word[first]
            known[i][words] = True
            shares[i][words] = values[row, start + 1 + first - part.start]
    none = names.index("O") if "O" in names else 0
    found = []
    for share, there in zip(shares, known, strict=True):
        chosen = np.where(there, share.argmax(-1), none) if len(share) else np.zeros(0, int)
        found.append(Tagged([names[i] for i in chosen], share[np.arange(len(chosen)), chosen]))
    return found


def predict_tags(
    model: OpenedModel, source: str | Iterable[Record], text_field: str | None = None, batch_tokens: int | None = None
) -> Iterator[list[Record]]:
    """Records with "tags", one for each word, and "entities" where the tags tell of such.

    Each entity has its "type", its "text", where it starts and ends ("start", "end": words of a list, characters of a
    text), and the mean "probability" of its words' tags. What is text is cut into words by the rules of Unicode, and
    they are added as "words".

    Args:
        model: as in `tag_words`.
        source: as in `jaxencoder.text.sources`, or records; of lists of words or of texts.
        text_field: None: that of the run, or text, or, in a source that lacks it, a usual name for it.
        batch_tokens: as in `Model.embed`.

    Raises:
        ValueError: a record that has neither words nor a text or has a field of one of these names, or what `tag_words`
            raises.
    """
    if isinstance(source, str) and text_field is None:
        text_field = found_in(source, model.config.data, ["label_field"]).text_field
    text_field = text_field or model.config.data.text_field
    scheme = Scheme.of(model.labels)
    where = "record"
    if isinstance(source, str):
        where = f"{source}, record"
        source = read(source, text_field=text_field, words=None)
    records = (with_words(record, text_field, f"{where} {i}") for i, record in enumerate(source, 1))
    for chunk in chunks(records, lambda record: sum(map(len, record[text_field]))):
        refuse_fields(chunk, ("tags", "entities"))
        refuse_fields([record for record in chunk if isinstance(record[text_field], str)], ("words",))
        texts = [record[text_field] for record in chunk]
        places = [word_spans(text) if isinstance(text, str) else None for text in texts]
        words = [[t[a:b] for a, b in at] if at is not None else t for t, at in zip(texts, places, strict=True)]
        tagged = tag_words(model, words, batch_tokens)
        for i, record in enumerate(chunk):
            own = {} if places[i] is None else {"words": words[i]}
            chunk[i] = record | own | {"tags": tagged[i].tags}
            if scheme is not None:
                found = entities(tagged[i].tags, scheme, model.labels)
                shares = [float(tagged[i].probabilities[x.start : x.end].mean()) for x in found]
                chunk[i]["entities"] = [
                    _described(entity, words[i], texts[i], places[i]) | {"probability": share}
                    for entity, share in zip(found, shares, strict=True)
                ]
        yield chunk


def _described(entity: Entity, words: Sequence[str], text: Any, places: list[tuple[int, int]] | None) -> dict[str, Any]:
    start, end = entity.start, entity.end
    if places is None:
        content = " ".join(words[start:end])
    else:
        start, end = places[start][0], places[end - 1][1]
        content = text[start:end]
    return {"type": entity.kind, "text": content, "start": start, "end": end}


@partial(jax.jit, static_argnums=(0, 1, 2))
def _probabilities(
    encoder: EncoderConfig, compute: ComputeConfig, head: HeadConfig, params: Params, rows: Batch
) -> jax.Array:
    scores = Head(encoder, head).apply({"params": params[NAME]}, encode(encoder, compute, params, rows))
    return jax.nn.softmax(scores)


def entities(tags: Sequence[str], scheme: Scheme | None = None, names: Sequence[str] = ()) -> list[Entity]:
    """The entities of a text, in order.

    ["B-PER", "I-PER", "O", "I-LOC"] -> [PER 0:2, LOC 3:4], whatever the scheme.

    Args:
        tags: of its words.
        scheme, names: of all tags, where they are at hand.

    Raises:
        ValueError: tags that do not tell of entities.
    """
    names = names or sorted(set(tags))
    scheme = scheme or Scheme.of(names)
    if scheme is None:
        if set(names) <= {"O"}:
            return []
        raise ValueError(f"the tags {', '.join(names)[:80]} do not tell of entities, as B-PER, I-PER and O do")
    if not tags:
        return []
    ids = np.array([names.index(tag) for tag in tags])
    begins, stops = (np.asarray(x) for x in entity_starts(scheme, ids, np.r_[-1, ids[:-1]]))
    stops = np.flatnonzero(stops)
    ends = np.r_[stops, len(tags)][np.searchsorted(stops, np.flatnonzero(begins), side="right")]
    return [
        Entity(tags[start].partition("-")[2], int(start), int(end))
        for start, end in zip(np.flatnonzero(begins), ends, strict=True)
    ]


def tag_name(tag: Any, names: Sequence[str], where: str) -> str:
    """A record's tag as text: of a number, which is how TFDS and many a Parquet file have it, the name of that id.

    Args:
        names: of the tags that the model knows, in order of id.
        where: the record, for messages.

    Raises:
        ValueError: neither text nor a whole number.
    """
    if not isinstance(tag, str | int):
        raise ValueError(f"{where}: tag {str(tag)[:60]} is neither text nor a whole number; drop the record")
    text = str(int(tag)) if isinstance(tag, bool) else str(tag)  # as in training
    return names[int(text)] if text.isdecimal() and text not in names and int(text) < len(names) else text


def tag_metrics(
    true: Iterable[Sequence[str]], predicted: Iterable[Sequence[str]], names: Sequence[str] = ()
) -> dict[str, Any]:
    """How well words are tagged.

    Args:
        true, predicted: tags of the words of each text.
        names: of all tags that can be predicted, which decide whether tags tell of entities; those that occur, if none
            are given. A tag beside them is one that is never found, and no part of an entity unless it tells of one.

    Returns:
        accuracy of words; words and examples, their numbers. Where the tags tell of entities: precision, recall and f1
        of them all (0 where nothing is found or true), entities, their number, macro_f1, the mean over the types that
        are true or predicted somewhere, and "classes", for each type the same. Otherwise macro_f1 over the tags, and
        "classes", for each tag precision, recall, f1 and examples.
    """
    true, predicted = [list(tags) for tags in true], [list(tags) for tags in predicted]
    right = sum(a == b for x, y in zip(true, predicted, strict=True) for a, b in zip(x, y, strict=True))
    words = sum(map(len, true))
    result: dict[str, Any] = {"accuracy": right / max(words, 1)}
    occurring = sorted({tag for tags in (*true, *predicted) for tag in tags})
    names = names or occurring
    hits, said, there = Counter(), Counter(), Counter()
    if Scheme.of(names) is not None or set(names) <= {"O"}:
        telling = {tag: tag if Scheme.of([tag]) else "O" for tag in occurring}
        names = list(dict.fromkeys(telling.values()))
        scheme = Scheme.of(names)
        for x, y in zip(true, predicted, strict=True):
            a, b = (set(entities([telling[tag] for tag in tags], scheme, names)) for tags in (x, y))
            for counter, found in ((hits, a & b), (said, b), (there, a)):
                counter.update(entity.kind for entity in found)
        result |= _scores(hits.total(), said.total(), there.total()) | {"entities": there.total()}
    else:
        for x, y in zip(true, predicted, strict=True):
            hits.update(a for a, b in zip(x, y, strict=True) if a == b)
            said.update(y)
            there.update(x)
    classes = {
        kind: _scores(hits[kind], said[kind], there[kind]) | {"examples": there[kind]}
        for kind in sorted(said.keys() | there.keys())
    }
    result["macro_f1"] = float(np.mean([found["f1"] for found in classes.values()])) if classes else 0.0
    return result | {"words": words, "examples": len(true), "classes": classes}


def _scores(hits: int, said: int, there: int) -> dict[str, float]:
    return {
        "precision": hits / said if said else 0.0,
        "recall": hits / there if there else 0.0,
        "f1": 2 * hits / (said + there) if said + there else 0.0,
    }


def evaluate_tagger(model: OpenedModel, examples: Iterable[tuple[Sequence[str], Sequence[str]]]) -> dict[str, Any]:
    """`tag_metrics` of a model on texts with their tags, both lists of as many strings."""
    true, predicted = [], []
    for chunk in chunks(examples, lambda example: sum(map(len, example[0]))):
        texts, tags = zip(*chunk, strict=True)
        true += tags
        predicted += [found.tags for found in tag_words(model, texts)]
    if not true:
        raise ValueError("the data holds no words to measure on; name other data with --data")
    return tag_metrics(true, predicted, model.labels)
