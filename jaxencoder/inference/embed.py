"""One vector for each text, in memory or from file to file in bounded memory.

Mean pooling is the default, as in Reimers and Gurevych 2019 (Sentence-BERT, arXiv:1908.10084).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import jax
import numpy as np
from tqdm import tqdm

from jaxencoder.inference import buckets
from jaxencoder.inference.writers import open_writer
from jaxencoder.model.config import ComputeConfig, EncoderConfig
from jaxencoder.model.encoder import Encoder
from jaxencoder.model.heads import Pooling, pool
from jaxencoder.objectives.objective import Batch, Params
from jaxencoder.text.sources import Record, read

if TYPE_CHECKING:
    from jaxencoder.inference.model import Model

_CHUNK_TEXTS = 16384  # texts that are sorted by length together ...
_CHUNK_CHARACTERS = 1 << 24  # ... and their characters at most, so that memory does not depend on the file


def embed(
    model: Model,
    texts: Sequence[str],
    pooling: Pooling | None = None,
    normalize: bool | None = None,
    batch_tokens: int = 8192,
    max_length: int | None = None,
) -> np.ndarray:
    """[N, D] float32; see `Model.embed`."""
    vectors, cut = _embed(model, texts, pooling, normalize, batch_tokens, max_length)
    buckets.warn_of_cuts(cut, len(vectors), model.limit(max_length))
    return vectors


def embed_source(
    model: Model,
    records: Iterable[Record],
    text_field: str = "text",
    pooling: Pooling | None = None,
    normalize: bool | None = None,
    batch_tokens: int = 8192,
    max_length: int | None = None,
) -> Iterator[tuple[list[Record], np.ndarray]]:
    """Records with their vectors, (n records, [n, D] float32) at a time, in order and in bounded memory."""
    cut = count = 0
    with tqdm(unit=" texts", desc="Embedding", disable=None) as bar:
        for chunk in chunks(records, text_field):
            texts = [record[text_field] for record in chunk]
            vectors, long = _embed(model, texts, pooling, normalize, batch_tokens, max_length, bar.update)
            yield chunk, vectors
            cut, count = cut + long, count + len(chunk)
    buckets.warn_of_cuts(cut, count, model.limit(max_length))


def embed_file(
    run: str | Path | Model,
    input: str,
    output: str | Path,
    text_field: str = "text",
    pooling: Pooling | None = None,
    normalize: bool | None = None,
    batch_tokens: int = 8192,
    max_length: int | None = None,
) -> int:
    """Embed every text of a source into a file, which appears when it is whole.

    Args:
        run: folder of a run, or an open model.
        input: source of records, as in `jaxencoder.text.sources`.
        output: .parquet or .jsonl (the records' fields and "embedding"), or .npy ([N, D] float32, in order).
        text_field: field of a record that holds the text.
        pooling, normalize, batch_tokens, max_length: as in `Model.embed`.

    Returns:
        The number of texts.

    Raises:
        ValueError: an unknown extension, a broken source, or records that do not make one table.
        OSError: the source cannot be read, or the output cannot be written.
    """
    from jaxencoder.inference.load import opened

    output = Path(output)
    count = 0
    with open_writer(output) as write:  # first: a model is long to load for nothing
        records = read(input, text_field=text_field)
        model = opened(run)
        for chunk, vectors in embed_source(model, records, text_field, pooling, normalize, batch_tokens, max_length):
            write(chunk, vectors)
            count += len(chunk)
    return count


def chunks(records: Iterable[Record], text_field: str) -> Iterator[list[Record]]:
    """The records in lists of bounded size; only one is in memory."""
    chunk: list[Record] = []
    size = 0
    for record in records:
        chunk.append(record)
        size += len(record[text_field])
        if len(chunk) >= _CHUNK_TEXTS or size >= _CHUNK_CHARACTERS:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def check_pooling(model: Model, pooling: str) -> None:
    """Raises ValueError for a pooling that there is not, or that the run has not learned."""
    if pooling not in get_args(Pooling):
        raise ValueError(f"pooling is {pooling!r}; give one of {', '.join(get_args(Pooling))}")
    if pooling == "learned" and _query(model.params) is None:
        raise ValueError(
            "pooling is 'learned', but this run has learned none; give cls, mean or max, "
            "or train with --objective.pooling learned"
        )


def hidden(encoder: EncoderConfig, compute: ComputeConfig, params: Params, rows: Batch) -> jax.Array:
    """The encoder's output [B, T, D] for a batch, without dropout."""
    inputs = (rows["token_ids"], rows["segment_ids"], rows["positions"], rows.get("token_type_ids"))
    return Encoder(encoder, compute).apply({"params": params["encoder"]}, *inputs)


def _embed(
    model: Model,
    texts: Sequence[str],
    pooling: Pooling | None,
    normalize: bool | None,
    batch_tokens: int,
    max_length: int | None,
    progress: Callable[[int], object] = lambda number: None,
) -> tuple[np.ndarray, int]:
    """Vectors [N, D] float32, and how many texts were cut."""
    pooling = pooling or model.pooling
    normalize = model.normalize if normalize is None else normalize
    check_pooling(model, pooling)
    ids, cut = buckets.tokenize(model.tokenizer, texts, model.limit(max_length))
    vectors = np.zeros((len(ids), model.config.model.hidden_size), np.float32)
    function = partial(_pooled, model.config.model, model.compute, pooling, normalize)
    for at, values in model.run(function, ids, batch_tokens, max_length):
        vectors[at] = values[: len(at)]
        progress(len(at))
    return vectors, cut


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _pooled(
    encoder: EncoderConfig, compute: ComputeConfig, pooling: Pooling, normalize: bool, params: Params, rows: Batch
) -> jax.Array:
    x = hidden(encoder, compute, params, rows)
    vectors = pool(x, rows["segment_ids"], 1, pooling, _query(params))[:, 0]
    if not normalize:
        return vectors
    return vectors / jax.numpy.maximum(jax.numpy.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def _query(params: Params) -> Any:
    return params.get("classifier", {}).get("pooling_query")
