"""One vector for each text, in memory or from file to file in bounded memory.

Mean pooling is a run's default, as in Reimers and Gurevych 2019 (Sentence-BERT, arXiv:1908.10084). What is longer than
a model reads is cut, or read in windows that are pooled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, get_args

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from jaxencoder.inference.devices import in_use
from jaxencoder.inference.global_tokens import with_first_tokens
from jaxencoder.inference.load import opened
from jaxencoder.inference.model import OpenedModel
from jaxencoder.inference.outputs import encode
from jaxencoder.inference.windows import GROUP, Long, Pooled, Reading, WindowPooling, run_windows
from jaxencoder.inference.writers import open_writer
from jaxencoder.model.config import ComputeConfig, EncoderConfig
from jaxencoder.model.heads import Pooling, pool
from jaxencoder.model.sentence import SentenceConfig, finish_vectors, sentence_vectors
from jaxencoder.objectives.objective import Batch, Params
from jaxencoder.text import buckets
from jaxencoder.text.sources import Record, read
from jaxencoder.text.tokenizers.tokenizer import Tokenizer
from jaxencoder.text.windows import text_windows

T = TypeVar("T")

_CHUNK_TEXTS = 16384  # texts that are sorted by length together ...
_CHUNK_CHARACTERS = 1 << 24  # ... and their characters at most, so that memory does not depend on the file


def embed(
    model: OpenedModel,
    texts: Sequence[str],
    pooling: Pooling | tuple[Pooling, ...] | None = None,
    normalize: bool | None = None,
    prompt: str | None = None,
    dimensions: int | None = None,
    batch_tokens: int | None = None,
    max_length: int | None = None,
    long: Long = "truncate",
    stride: int | None = None,
    window_pooling: WindowPooling | None = None,
) -> np.ndarray:
    """[N, D] float32; see `Model.embed`."""
    settings = chosen(model, pooling, normalize, dimensions)
    reading = _reading(settings, long, stride, window_pooling)
    vectors, cut = _embed(model, texts, settings, reading, prompt, batch_tokens, max_length)
    buckets.warn_of_cuts(cut, len(vectors), model.limit(max_length))
    return vectors


def embed_source(
    model: OpenedModel,
    records: Iterable[Record],
    text_field: str = "text",
    pooling: Pooling | tuple[Pooling, ...] | None = None,
    normalize: bool | None = None,
    prompt: str | None = None,
    dimensions: int | None = None,
    batch_tokens: int | None = None,
    max_length: int | None = None,
    long: Long = "truncate",
    stride: int | None = None,
    window_pooling: WindowPooling | None = None,
) -> Iterator[tuple[list[Record], np.ndarray]]:
    """Records with their vectors, (n records, [n, D] float32) at a time, in order and in bounded memory."""
    settings = chosen(model, pooling, normalize, dimensions)
    reading = _reading(settings, long, stride, window_pooling)
    cut = count = 0
    with tqdm(unit=" texts", desc="Embedding", disable=None) as bar:
        for chunk in chunks(records, lambda record: len(record[text_field])):
            texts = [record[text_field] for record in chunk]
            vectors, lost = _embed(model, texts, settings, reading, prompt, batch_tokens, max_length, bar.update)
            yield chunk, vectors
            cut, count = cut + lost, count + len(chunk)
    buckets.warn_of_cuts(cut, count, model.limit(max_length))


def embed_file(
    run: str | Path | OpenedModel,
    input: str,
    output: str | Path,
    text_field: str = "text",
    pooling: Pooling | tuple[Pooling, ...] | None = None,
    normalize: bool | None = None,
    prompt: str | None = None,
    dimensions: int | None = None,
    batch_tokens: int | None = None,
    max_length: int | None = None,
    long: Long = "truncate",
    stride: int | None = None,
    window_pooling: WindowPooling | None = None,
) -> int:
    """Embed every text of a source into a file, which appears when it is whole.

    Args:
        run: folder of a run, or an open model.
        input: source of records, as in `jaxencoder.text.sources`.
        output: .parquet or .jsonl (the records' fields and "embedding"), or .npy ([N, D] float32, in order).
        text_field: field of a record that holds the text.
        pooling, normalize, prompt, dimensions, batch_tokens, max_length, long, stride, window_pooling: as in
            `Model.embed`.

    Returns:
        The number of texts.

    Raises:
        ValueError: an unknown extension, a broken source, or records that do not make one table.
        OSError: the source cannot be read, or the output cannot be written.
    """
    output = Path(output)
    count = 0
    with open_writer(output) as write:  # first: a model is long to load for nothing
        records = read(input, text_field=text_field)
        model = opened(run)
        options = (pooling, normalize, prompt, dimensions, batch_tokens, max_length, long, stride, window_pooling)
        for chunk, vectors in embed_source(model, records, text_field, *options):
            write(chunk, vectors)
            count += len(chunk)
    return count


def chunks(items: Iterable[T], size: Callable[[T], int]) -> Iterator[list[T]]:
    """The items, such as records, in lists of bounded size; only one is in memory.

    Args:
        size: the characters of an item's texts.
    """
    chunk: list[T] = []
    characters = 0
    for item in items:
        chunk.append(item)
        characters += size(item)
        if len(chunk) >= _CHUNK_TEXTS or characters >= _CHUNK_CHARACTERS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk


def chosen(
    model: OpenedModel,
    pooling: Pooling | tuple[Pooling, ...] | None = None,
    normalize: bool | None = None,
    dimensions: int | None = None,
) -> SentenceConfig:
    """The model's settings with what is asked for in their place.

    Raises:
        ValueError: a pooling that there is not, that the run has not learned or that the modules after it do not take;
            more dimensions than the vectors have.
    """
    settings = model.sentence
    pooling = (pooling,) if isinstance(pooling, str) else tuple(pooling or settings.pooling)
    for name in pooling:
        if name not in get_args(Pooling):
            raise ValueError(f"pooling is {name!r}; give one of {', '.join(get_args(Pooling))}")
    if "learned" in pooling and _query(model.params) is None:
        raise ValueError(
            "pooling is 'learned', but this run has learned none; give cls, mean or max, "
            "or train with --objective.pooling learned"
        )
    settings = replace(settings, pooling=pooling, normalize=settings.normalize if normalize is None else normalize)
    size = settings.size(model.config.model.hidden_size)
    if dimensions is not None and not 1 <= dimensions <= size:
        raise ValueError(f"dimensions is {dimensions}, but the vectors have {size}; give 1 to {size}")
    return replace(settings, dimensions=dimensions or settings.dimensions)


def _reading(settings: SentenceConfig, long: Long, stride: int | None, window_pooling: WindowPooling | None) -> Reading:
    learned = settings.pooling == ("learned",)
    reading = Reading.of(long, stride, window_pooling, "learned" if learned else "length")
    if reading.pooling == "learned" and not learned:
        raise ValueError(
            f"window_pooling is 'learned', but pooling is {' and '.join(settings.pooling)}; a run that has learned a "
            "pooling of tokens applies it to those of all windows, with pooling 'learned'"
        )
    return reading


def _embed(
    model: OpenedModel,
    texts: Sequence[str],
    settings: SentenceConfig,
    reading: Reading,
    prompt: str | None,
    batch_tokens: int | None,
    max_length: int | None,
    progress: Callable[[int], object] = lambda number: None,
) -> tuple[np.ndarray, int]:
    """Vectors [N, size] float32, and how many texts were cut."""
    limit = model.limit(max_length)
    before = settings.prompt(prompt)
    skip = _prompt_tokens(model.tokenizer, before, limit) if before else None
    skip = None if settings.include_prompt else skip
    settings = replace(settings, prompts=(), default_prompt=None)
    static = (model.config.model, model.compute, settings, skip, with_first_tokens(model))
    if reading.whole:
        return _of_windows(model, texts, reading, before, static, batch_tokens, max_length, progress), 0
    ids, cut = buckets.tokenize(model.tokenizer, texts, limit, before)
    size = settings.size(model.config.model.hidden_size)
    vectors = np.zeros((len(ids), min(size, settings.dimensions or size)), np.float32)
    for part, values in model.run(partial(_pooled, *static), ids, batch_tokens, max_length):
        vectors[part.texts] = values[part.row, part.place]
        progress(len(part.texts))
    return vectors, cut if reading.long == "truncate" else 0


def _of_windows(
    model: OpenedModel,
    texts: Sequence[str],
    reading: Reading,
    prompt: str,
    static: tuple[Any, ...],
    batch_tokens: int | None,
    max_length: int | None,
    progress: Callable[[int], object],
) -> np.ndarray:
    """Vectors [N, size] float32 of texts that are read whole."""
    settings, skip = static[2:4]
    texts = texts if isinstance(texts, str | bytes) else list(texts)
    windows = text_windows(buckets.readable(model.tokenizer), texts, model.limit(max_length), reading.stride, prompt)
    size = len(settings.pooling) * model.config.model.hidden_size
    pooled = Pooled(len(texts), size, reading.pooling, skip or 0)
    function = partial(_pooled_windows, *static)
    for group, plan, values in run_windows(model, function, windows, GROUP, batch_tokens, max_length, skip or 0):
        for i, row, place in zip(plan.texts, plan.row, plan.place, strict=True):
            pooled.add(group[i], values[row, place])
        progress(sum(group[i].is_last for i in plan.texts))
    room = 1 << max(0, len(texts) - 1).bit_length()  # of few sizes, so that few programs are compiled
    padded = np.pad(pooled.vectors, ((0, room - len(texts)), (0, 0)))
    with in_use(model.mesh, model.compute):
        return np.asarray(_finished(settings, model.placed.get("sentence", {}), padded))[: len(texts)]


def _prompt_tokens(tokenizer: Tokenizer, prompt: str, limit: int) -> int:
    """How many tokens a prompt puts before a text, [CLS] with them; ValueError if they leave none for the text."""
    ids = tokenizer.encode_batch([prompt])[0].ids
    if len(ids) >= limit:
        raise ValueError(
            f"the prompt {prompt[:40]!r} has {len(ids)} tokens, which leaves none of {limit} for a text; "
            "give a shorter prompt or a larger max_length"
        )
    return len(ids) - int(ids[-1] in tokenizer.special_ids)


@partial(jax.jit, static_argnums=(0, 1, 2, 3, 4))
def _pooled(
    encoder: EncoderConfig,
    compute: ComputeConfig,
    settings: SentenceConfig,
    skip: int | None,
    first_tokens: Callable[[Batch], Batch],
    params: Params,
    rows: Batch,
) -> jax.Array:
    """One vector for each place of each row: [B, E, size]."""
    x = encode(encoder, compute, params, first_tokens(rows))
    modules, places = params.get("sentence", {}), buckets.texts_in_a_row(x.shape[1])
    return sentence_vectors(settings, modules, x, rows["segment_ids"], places, skip, _query(params))


@partial(jax.jit, static_argnums=(0, 1, 2, 3, 4))
def _pooled_windows(
    encoder: EncoderConfig,
    compute: ComputeConfig,
    settings: SentenceConfig,
    skip: int | None,
    first_tokens: Callable[[Batch], Batch],
    params: Params,
    rows: Batch,
) -> jax.Array:
    """The poolings of the window at each place of each row: [B, E, P * D].

    A window's own first or last token, otherwise the tokens of which it knows most. With the learned pooling there is
    one number more, the logarithm of the sum of these tokens' weights.
    """
    x = encode(encoder, compute, params, first_tokens(rows))
    places, query, parts = buckets.texts_in_a_row(x.shape[1]), _query(params), []
    for method in settings.pooling:
        of_ends = method in ("cls", "lasttoken")
        ids, left_out = (rows["segment_ids"], skip) if of_ends else (rows["kept_ids"], None)
        parts.append(pool(x, ids, places, method, query, left_out))
    if settings.pooling == ("learned",):
        member = rows["kept_ids"][:, None, :] == jnp.arange(1, places + 1)[:, None]
        scores = (x.astype(jnp.float32) @ query)[:, None, :]
        parts.append(jax.nn.logsumexp(scores, axis=-1, where=member, keepdims=True))
    return jnp.concatenate(parts, axis=-1)


_finished = jax.jit(finish_vectors, static_argnums=0)


def _query(params: Params) -> Any:
    return params.get("classifier", {}).get("pooling_query")
