"""Tags of words, and the entities that they mark. Texts longer than a row are read in overlapping windows."""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxencoder.tasks.records import check_new_fields, chunks, numbered, with_texts
from jaxencoder.tasks.running import head_scores
from jaxencoder.tasks.task import TaskModel
from jaxencoder.tasks.token_classification.data import SCHEMA
from jaxencoder.tasks.token_classification.entities import Entity, entities
from jaxencoder.tasks.token_classification.objective import HEAD
from jaxencoder.tasks.token_classification.scheme import OUTSIDE, warn_of_strays
from jaxencoder.text import sentences
from jaxencoder.text.buckets import require_tokenizer
from jaxencoder.text.sources.fields import infer_source_fields
from jaxencoder.text.sources.records import Record
from jaxencoder.text.tokenizers.encoding import as_list
from jaxencoder.text.windows import max_context_windows
from jaxencoder.text.words import encode_words, word_windows

OVERLAP = 32  # tokens that windows of a long text share, so that each word has context on both sides


class WordTags(NamedTuple):
    """The tags of a text's words, and the model's probability of each, float32 [words]."""

    tags: list[str]
    probabilities: np.ndarray


def tag_words(model: TaskModel, texts: Sequence[Sequence[str]], batch_tokens: int | None = None) -> list[WordTags]:
    """The most probable tag of each word, with a run of TokenClassification or a published token classifier.

    `texts` are lists of words; `batch_tokens` is as in `Model.embed`. A word that the tokenizer drops has the tag "O",
    or the first tag if there is no "O", with probability 0. ValueError for another model or a word that is not valid
    Unicode.
    """
    texts = [as_list(words, f"text {number} of words") for number, words in enumerate(texts)]
    if HEAD not in model.heads or not model.labels:
        raise ValueError(
            "this model was not trained for token classification; fine-tune it with the objective TokenClassification"
        )
    names, room = model.labels, min(model.max_length, model.config.data.row_length) - 2
    tokenizer = require_tokenizer(model.tokenizer)
    encoded = encode_words(tokenizer, texts)
    spans = [max_context_windows(word_windows(tokens, room, OVERLAP)) for tokens in encoded]
    windows = [(i, window) for i, text_windows in enumerate(spans) for window in text_windows]
    cls, sep = np.array([tokenizer.cls_id]), np.array([tokenizer.sep_id])
    ids = [np.concatenate([cls, encoded[i].ids[window.start : window.end], sep]) for i, window in windows]
    probabilities = [np.zeros((len(words), len(names)), np.float32) for words in texts]
    function = partial(_probabilities, model.config.model, model.compute, ((HEAD, model.heads[HEAD]),))
    for plan, values in model.run(function, ids, batch_tokens):
        for number, row, start in zip(plan.texts, plan.row, plan.start, strict=True):
            i, window = windows[number]
            # The window with most context for a token decides.
            first = window.first + np.flatnonzero(encoded[i].first[window.first : window.last])
            probabilities[i][encoded[i].word[first]] = values[row, start + 1 + first - window.start]
    default = next((i for i, name in enumerate(names) if name.upper() == OUTSIDE), 0)
    results = []
    for values in probabilities:
        best = np.where(values.any(-1), values.argmax(-1), default)  # all 0 for a word without a token
        results.append(WordTags([names[i] for i in best], values[np.arange(len(best)), best]))
    return results


def predict_tags(
    model: TaskModel, source: str | Iterable[Record], text_field: str | None = None, batch_tokens: int | None = None
) -> Iterator[list[Record]]:
    """Add to records "tags", one for each word, and "entities" if the tags mark them.

    Each entity has its "type", its "text", where it starts and ends ("start", "end": words of a list, characters of a
    text), and the mean "probability" of its words' tags. Text is split into words by the rules of Unicode, which are
    added as "words".

    Args:
        model, batch_tokens: as in `tag_words`.
        source: as in `jaxencoder.text.sources`, or records; of lists of words or of texts.
        text_field: None: that of the run, or text, or, in a source that lacks it, a usual name for it.

    Raises:
        ValueError: as in `tag_words`, or a record that has neither words nor a text, or has one of these fields.
    """
    if isinstance(source, str) and text_field is None:
        text_field = infer_source_fields(source, model.config.data, SCHEMA, ["label_field"]).text_field
    text_field = text_field or model.config.data.text_field
    scheme = warn_of_strays(model.labels)
    numbered_records = numbered(source, text_field, words=None)
    records = (with_texts(record, (text_field,), where, words=True) for where, record in numbered_records)
    for chunk in chunks(records, lambda record: sum(map(len, record[text_field]))):
        check_new_fields(chunk, ("tags", "entities"))
        check_new_fields([record for record in chunk if isinstance(record[text_field], str)], ("words",))
        texts = [record[text_field] for record in chunk]
        spans = [sentences.word_spans(text) if isinstance(text, str) else None for text in texts]
        words = [[t[a:b] for a, b in at] if at is not None else t for t, at in zip(texts, spans, strict=True)]
        for i, (record, tagged) in enumerate(zip(chunk, tag_words(model, words, batch_tokens), strict=True)):
            added: Record = {} if spans[i] is None else {"words": words[i]}
            added["tags"] = tagged.tags
            if scheme is not None:
                tagged_entities = entities(tagged.tags, scheme)
                added["entities"] = [_fields(x, tagged.probabilities, texts[i], spans[i]) for x in tagged_entities]
            chunk[i] = record | added
        yield chunk


def _fields(entity: Entity, probabilities: np.ndarray, text: Any, spans: list[tuple[int, int]] | None) -> Record:
    """An entity by words of a list or, with the characters of the words, by characters of a text."""
    kind, start, end = entity
    probability = float(probabilities[start:end].mean())
    if spans is not None:
        start, end = spans[start][0], spans[end - 1][1]
    content = " ".join(text[start:end]) if spans is None else text[start:end]
    return {"type": kind, "text": content, "start": start, "end": end, "probability": probability}


@partial(jax.jit, static_argnums=(0, 1, 2))
def _probabilities(encoder, compute, heads, params, rows):
    return jax.nn.softmax(head_scores(encoder, compute, heads, params, rows))  # [B, T, tags]
